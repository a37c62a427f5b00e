"""The teacher's guide says what the committed results and notebooks say, and its timetables add up."""

import re

import jupytext
import pytest

from sawyer_utils.course import notebooks as course
from sawyer_utils.course import page, teaching
from sawyer_utils.plumbing.files import project_root, read_json

PAGE = teaching.PAGE.read_text(encoding="utf-8")
BOOKS = {name[:2]: name for name in teaching.TRAINS}


@pytest.fixture
def results():
    return read_json(project_root() / "results" / "local.json")


@pytest.fixture
def filled(tmp_path):
    """Fills a copy of the page, and returns its text."""

    def fill(results, text=PAGE):
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        teaching.update(path, results)
        return path.read_text(encoding="utf-8")

    return fill


def headings(name):
    cells = jupytext.read(course.source_path(name)).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", prose.split("\n## Exercises")[0], re.MULTILINE)


def rows_of(text):
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]


def part_of(text, title):
    return rows_of(text.split(f"\n{title}")[1].split("\n#")[0])


def test_the_committed_page_is_the_one_that_is_computed(results, filled):
    run = "run: python -c 'from sawyer_utils.course import teaching; teaching.update()'"
    assert filled(results) == PAGE, run


def test_a_page_is_filled_between_its_marks_and_nowhere_else(results, filled):
    row = "| 01 | a | old | `sft/sft_finished` |\n"
    timetable = "| a | b | c |\n|---|---|---|\n| **all** | | |\n"
    held = (
        dict.fromkeys(teaching.TRAINS, "old\n") | dict.fromkeys(teaching.PLANS, timetable) | {"numbers": row}
    )
    parts = [page.marks(name)[0] + f"\n{text}" + page.marks(name)[1] + "\n" for name, text in held.items()]
    text = "before\n" + row + "".join(parts) + row + "after\n"
    once = filled(results, text)
    assert once.startswith("before\n" + row + parts[0][:10])
    assert once.endswith("<!-- end of numbers -->\n" + row + "after\n")
    assert f"| 01 | a | {results['sft']['sft_finished']:.2f} | `sft/sft_finished` |" in once
    assert filled(results, once) == once
    with pytest.raises(ValueError, match="lost its marks"):
        filled(results, "no marks")
    with pytest.raises(KeyError, match="sft_finishd"):
        filled(results, text.replace("sft_finished", "sft_finishd"))


def test_minutes_by_section_are_shown_and_training_is_taken_off(results):
    section = teaching.TRAINS["03_ppo"][0]
    results |= {"section_minutes": {"03_ppo": {section: 9.0, "4. How big a step?": 0.04}}}
    results["ppo"]["seconds_train"] = 480
    results["minutes"]["03_ppo"] = 12.0
    lines = {row[0]: row[2:] for row in rows_of(teaching.minutes_table("03_ppo", results))}
    assert lines[section] == ["9.0", "1.0"]
    assert lines["4. How big a step?"] == ["0.0", "0.0"]
    assert lines["8. Is this run healthy?"] == [teaching.UNKNOWN] * 2
    assert lines["all, without exercises"] == ["12.0", "4.0"]
    del results["ppo"]["seconds_train"]  # not recorded is not the same as no time
    assert rows_of(teaching.minutes_table("03_ppo", results))[-1][2:] == ["12.0", teaching.UNKNOWN]
    results["domain"]["seconds_train"] = {"lessons": 60, "with replay": 90}
    results["minutes"]["08_domain_adaptation"] = 7.0
    assert rows_of(teaching.minutes_table("08_domain_adaptation", results))[-1][2:] == ["7.0", "4.5"]


def test_numbers_follow_the_results_and_an_extra_that_did_not_run_is_not_measured(results, filled):
    results["reward"]["accuracy_shorter"] = 0.777
    results["domain"] = {}
    rows = part_of(filled(results), "### Numbers to expect")
    assert "0.78" in {row[2] for row in rows if row[0] == "02, 4"}
    assert {row[2] for row in rows if row[0].startswith("08")} == {teaching.UNKNOWN}
    assert teaching.UNKNOWN not in {row[2] for row in rows if not row[0].startswith("08")}
    assert teaching.shown({"right": 0.5, "low": 0.25, "high": 1.0}) == "0.50 [0.25, 1.00]"
    assert teaching.shown(3) == "3"


def test_predictions_and_numbers_name_sections_that_exist():
    named = part_of(PAGE, "## Predictions")[2:] + part_of(PAGE, "### Numbers to expect")[2:]
    for where in {row[0] for row in named} - {"all"}:
        book, section = where.split(", ")
        assert any(heading.startswith(f"{section}. ") for heading in headings(BOOKS[book])), where


@pytest.mark.parametrize("name", teaching.TRAINS)
def test_every_section_has_reading_minutes_and_every_numbered_one_a_purpose(name):
    minutes, known = teaching.reading_minutes(name), headings(name)
    assert list(minutes) == known
    assert all(0 < value < 15 for value in minutes.values())
    assert teaching.TRAINS[name][0] in minutes
    rows = part_of(PAGE, f"### {name[:2]}: ")
    named = [row[0] for row in rows[2:]]
    assert {heading for heading in known if re.match(r"\d", heading)} <= set(named)
    assert all(any(heading.startswith(entry) for heading in known) for entry in named)
    assert all(len(row) == 3 and all(row) for row in rows)


@pytest.fixture
def toy(monkeypatch):
    """A notebook 03 of three sections, read in 1.2, 2 and 4 minutes; its training takes 8 of 9 minutes."""
    heads = {"1. How?": 1.2, "Why not": 2.0, teaching.TRAINS["03_ppo"][0]: 4.0}
    monkeypatch.setattr(teaching, "reading_minutes", lambda name: dict(heads))
    took = {"1. How?": 0.5, teaching.TRAINS["03_ppo"][0]: 9.0}
    return {"section_minutes": {"03_ppo": took}, "ppo": {"seconds_train": 480}, "minutes": {"03_ppo": 10.0}}


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ("25", 25),
        ("03: 1", 3),  # 2 × 1.2 + 0.5
        ("03: Why not", 4),  # its cells' time is not known
        ("03: 7", 9),  # 2 × 4 + 9 − 8
        ("03: 7 live", 17),
        ("03: 1, Why not", 7),
        ("03: all", 16),
        ("03: all but 7", 7),
        ("03: all but 1, Why not live", 17),
    ],
)
def test_a_class_takes_twice_the_reading_and_what_the_cells_take(toy, where, taken):
    assert teaching.class_minutes(where, toy) == taken


@pytest.mark.parametrize("where", ["03: 2", "03: all but 2", "03: What else"])
def test_a_section_that_a_notebook_does_not_have_is_named(toy, where):
    with pytest.raises(ValueError, match="03_ppo has no section"):
        teaching.class_minutes(where, toy)


def test_a_timetable_adds_up_session_by_session(toy):
    rows = ["| a | `03: 1` | |", "| b | `5` | 99 |", "| **one** | | |", "| c | `7` | |", "| **two** | | |"]
    filled = teaching.plan("\n".join(["| what | where | minutes |", "|---|---|---:|", *rows]), toy)
    assert [row[2] for row in rows_of(filled)[2:]] == ["3", "5", "**8**", "7", "**7**"]


@pytest.mark.parametrize(
    ("title", "sessions", "whole"),
    [("90 minutes", 1, 90), ("Half a day", 1, 240), ("Two sessions", 2, 180), ("The extras", 1, 240)],
)
def test_the_committed_timetables_fit_and_leave_little_over(title, sessions, whole):
    sums = [int(row[2].strip("*")) for row in part_of(PAGE, f"### {title}")[2:] if not row[1]]
    assert len(sums) == sessions
    assert all(0.75 * whole <= total <= whole for total in sums)


def test_what_the_guide_tells_a_teacher_to_set_exists():
    from sawyer_utils.ppo_config import PPOConfig

    for setting in ("kl_coef", "learning_rate", "missing_stop_penalty"):
        assert f"`{setting}`" in PAGE
        assert setting in PPOConfig.__dataclass_fields__
