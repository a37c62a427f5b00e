"""The instructor's guide says what the committed results and notebooks say, and its timetables add up."""

import re

import jupytext
import pytest

from sawyer_utils.course import notebooks as course
from sawyer_utils.course import page, publish, teaching
from sawyer_utils.plumbing.files import project_root, read_json
from sawyer_utils.profiles import PROFILES

PAGE = teaching.page().read_text(encoding="utf-8")
AGAIN = "run: python -c 'from sawyer_utils import teaching; teaching.update()'"


@pytest.fixture
def results():
    return read_json(project_root() / "results" / "local.json")


def headings(name):
    cells = jupytext.read(course.source_path(name)).cells
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", prose.split("\n## Exercises")[0], re.MULTILINE)


def rows_of(table):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line
    ]


def total_of(name, results):
    """The last row of a notebook's table of minutes."""
    table = teaching.minutes_table(results).split(f"**{name}**")[1]
    return next(row for row in rows_of(table) if row[0].startswith("all"))


def committed_of(where, results):
    """What the committed run showed, of each prediction in a section."""
    return [row[2] for row in rows_of(teaching.predictions_table(results)) if row[0] == where]


@pytest.mark.parametrize("name", teaching.TABLES)
def test_the_committed_page_has_the_tables_that_are_computed(name, results):
    start, end = (mark.format(name=name) for mark in teaching.MARKS)
    assert PAGE.split(start)[1].split(end)[0].strip() == teaching.TABLES[name](results), AGAIN


def test_a_page_is_filled_between_its_marks_and_nowhere_else(tmp_path, results):
    path = tmp_path / "page.md"
    marks = [mark.format(name=name) for name in teaching.TABLES for mark in teaching.MARKS]
    path.write_text("before\n" + "\n".join(marks) + "\nafter\n", encoding="utf-8")
    teaching.update(path, results)
    once = path.read_text(encoding="utf-8")
    teaching.update(path, results)
    assert path.read_text(encoding="utf-8") == once
    assert once.startswith("before\n<!--")
    assert once.endswith("-->\nafter\n")
    path.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="lost its marks"):
        teaching.update(path, results)


def test_minutes_by_section_are_shown_and_training_is_taken_off(results):
    section = teaching.TRAINS["03_ppo"][0]
    results |= {"section_minutes": {"03_ppo": {section: 9.0, "4. How big a step?": 0.04}}}
    results["ppo"]["seconds_train"] = 480
    lines = {row[0]: row[2:] for row in rows_of(teaching.minutes_table(results))}
    assert lines[section] == ["9.0", "1.0", "not measured"]
    assert lines["4. How big a step?"] == ["0.0", "0.0", "not measured"]
    assert lines["8. Is this run healthy?"] == ["not measured"] * 3
    del results["section_minutes"]
    assert "9.0" not in teaching.minutes_table(results)


def test_a_training_without_recorded_seconds_is_not_called_trained(results):
    results["eval"]["seconds"].pop("gold", None)
    assert total_of("04_eval", results)[2:4] == [f"{results['minutes']['04_eval']:.1f}", "not measured"]
    results["eval"]["seconds"]["gold"] = 60
    assert total_of("04_eval", results)[3] == f"{results['minutes']['04_eval'] - 1:.1f}"


def test_an_extra_that_did_not_run_is_not_measured(results):
    name = "08_domain_adaptation"
    results["domain"] = {}
    results["minutes"].pop(name, None)
    assert total_of(name, results)[2:] == ["not measured"] * 3
    assert set(committed_of("08, 2", results)) == {"not measured"}
    assert committed_of("07, 1", results | {"neutral": {}}) == ["0.440 and 0.700"]
    shares = {"before": 0.125, "after": 0.75, "verdict": "better"}
    pupils = {pupil: {"facts named": shares} for pupil in ("lessons", "with replay")}
    results["domain"] = {
        "seconds_train": {"lessons": 60, "with replay": 90},
        "measures": pupils,
        "replay": pupils["lessons"],
        "invented": {one: {"admitted": 3} for one in ("aligned", "lessons")},
    }
    results["minutes"][name] = 7.0
    assert total_of(name, results)[2:4] == ["7.0", "4.5"]
    assert committed_of("08, 2", results) == ["12%"]


@pytest.mark.parametrize("name", teaching.GUIDED)
def test_every_section_has_reading_minutes_and_the_training_is_one_of_them(name):
    minutes = teaching.reading_minutes(name)
    assert list(minutes) == headings(name)
    assert all(0 < value < 15 for value in minutes.values())
    assert teaching.TRAINS[name][0] in minutes


@pytest.mark.parametrize("name", teaching.GUIDED)
def test_every_numbered_section_has_a_purpose_and_every_purpose_a_section(name):
    part = PAGE.split(f"\n### {name[:2]}: ")[1].split("\n#")[0]
    named = [row[0] for row in rows_of(part)[2:]]
    known = headings(name)
    assert {heading for heading in known if re.match(r"\d", heading)} <= set(named)
    assert all(any(heading.startswith(entry) for heading in known) for entry in named)
    assert all(len(row) == 3 and all(row) for row in rows_of(part))


@pytest.mark.parametrize(
    ("title", "total"), [("90 minutes", [90]), ("Half a day", [240]), ("Two sessions", [180, 180])]
)
def test_the_timetables_add_up(title, total):
    rows = rows_of(PAGE.split(f"\n### {title}")[1].split("\n#")[0])
    column = rows[0].index("minutes")
    sums = {}
    for row in rows[2:]:
        key = row[0] if "session" in rows[0] else ""
        sums[key] = sums.get(key, 0) + int(row[column])
    assert list(sums.values()) == total


def test_predictions_come_from_the_results_and_name_sections_that_exist(results):
    table = teaching.predictions_table(results)
    assert "{" not in table
    for where, *_ in teaching.PREDICTIONS:
        book, section = where.split(", ")
        name = next(name for name in teaching.GUIDED if name.startswith(book))
        assert any(heading.startswith(f"{section}. ") for heading in headings(name))
    results["reward"]["accuracy_shorter_broken"] = 0.777
    assert "0.777" in teaching.predictions_table(results)
    assert "0.777" not in table
    results["reward"]["probes"][0] |= {"sign": "+"}
    assert results["reward"]["probes"][0]["probe"] in teaching.predictions_table(results)


def test_what_the_guide_tells_a_teacher_to_set_exists():
    from dataclasses import fields

    from sawyer_utils.ppo_config import PPOConfig

    names = {field.name for field in fields(PPOConfig)}
    for setting in ("kl_coef", "learning_rate", "missing_stop_penalty"):
        assert f"`{setting}`" in PAGE
        assert setting in names


def test_links_of_the_pages_lead_somewhere():
    for text in (project_root() / "docs").glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", text.read_text(encoding="utf-8")):
            assert (text.parent / target).exists(), (text.name, target)


def test_publishing_makes_the_page_anew(monkeypatch, tmp_path):
    called = []
    for module, name in (
        (publish, "course"), (publish, "ship"), (publish, "write_json"), (publish, "read_json"),
        (publish.shutil, "copyfile"), (page, "update_readme"), (page, "stage_picture"),
        (page, "copy_figures"), (teaching, "update"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *args, name=name, **options: called.append(name) or {})
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    publish.publish(PROFILES["smoke"])
    assert called.index("write_json") < called.index("update")
