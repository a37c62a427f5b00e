"""The committed notebooks are what their sources say, executed, clean and small."""

import re
from pathlib import Path

import nbformat
import pytest

from sawyer_utils.course import notebooks as course
from sawyer_utils.course import page
from sawyer_utils.plumbing.files import project_root, read_json

ROOT = project_root()
NAMES = sorted(path.stem for path in (ROOT / "notebooks" / "source").glob("*.py"))
LIMIT = 1_000_000  # bytes; larger ones open slowly on GitHub and in Colab


def committed(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_source_has_its_notebook_and_the_course_knows_it():
    assert list(course.FOLDERS) == NAMES
    assert [p.stem for p in sorted((ROOT / "notebooks").glob("*.ipynb"))] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_holds_exactly_its_source(name):
    source, saved = course.build(name).cells, committed(name).cells
    linked = [course.absolute(c.source) if c.cell_type == "markdown" else c.source for c in source]
    assert [c.source for c in saved] == linked
    assert [course.tags(c) for c in saved] == [course.tags(c) for c in source]


def test_teaching_notes_and_slide_tags_are_in_the_sources_alone():
    sources = [course.build(name, teaching=True) for name in NAMES]
    found = {tag for source in sources for cell in source.cells for tag in course.tags(cell)}
    assert {"teaching", "slide", "fragment", "show-code"} <= found
    kept = {tag for name in NAMES for cell in committed(name).cells for tag in course.tags(cell)}
    assert not kept & {"teaching", *course.SLIDE_TAGS}


@pytest.mark.parametrize("name", NAMES)
def test_no_output_is_older_than_its_code_unless_the_notebook_says_so(name):
    cells = code_cells(committed(name))
    older = [c.source[:80] for c in cells if c.metadata["sawyer_hash"] != course.cell_hash(c.source)]
    assert bool(older) == (name in course.WAITING), older
    # Line breaks of the source are no part of the sentence.
    first = " ".join(committed(name).cells[0].source.split())
    assert (course.ADMISSION in first) == (name in course.WAITING)


def test_only_extras_may_wait():
    assert set(course.WAITING) <= course.EXTRAS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_ran_in_order_without_an_error(name):
    cells = code_cells(committed(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.get("name") == "stderr"], "warnings or noise in an output"


@pytest.mark.parametrize("name", NAMES)
def test_no_figure_is_shown_twice(name):
    for cell in code_cells(committed(name)):
        pictures = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
        assert len(pictures) == len(set(pictures)), cell.source[:80]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_small_and_holds_no_machine_path(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) < LIMIT
    assert not re.search(r"/(?:root|home/\w+|Users/\w+|tmp|work)/", text)
    assert "widgets" not in committed(name).metadata


@pytest.mark.parametrize("name", NAMES)
def test_the_title_cell_has_its_own_badge(name):
    badges = re.findall(r"colab\.research\.google\.com/github/[^)]*", committed(name).cells[0].source)
    assert len(badges) == 1
    assert badges[0].endswith(f"/notebooks/{name}.ipynb")


@pytest.mark.parametrize("name", NAMES)
def test_links_work_where_the_notebook_is_alone(name):
    prose = "\n".join(cell.source for cell in committed(name).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`]*`", "", prose))
    assert any("/docs/glossary.md#" in target for target in targets)
    assert not [target for target in targets if not target.startswith(("http", "#"))]


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("[a](../docs/glossary.md#b)", "[a]({}/docs/glossary.md#b)"),
        ("[06](06_reward_hacking.ipynb)", "[06]({}/notebooks/06_reward_hacking.ipynb)"),
        ("[a](https://x.org/a.ipynb), [b](#c)", "[a](https://x.org/a.ipynb), [b](#c)"),
    ],
)
def test_links_to_files_of_the_repository_become_addresses(link, address):
    assert course.absolute(link) == address.format("https://github.com/{}/blob/{}".format(*course.address()))


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_not_empty(name):
    for cell in code_cells(committed(name)):
        assert cell.source.strip()
        assert len(cell.source.splitlines()) <= 40
        assert max(map(len, cell.source.splitlines())) <= 88


def test_the_setup_cell_is_the_same_everywhere():
    assert len({code_cells(committed(name))[0].source for name in NAMES}) == 1


def test_a_changed_cell_is_noticed():
    notebook = course.build(NAMES[0])
    course.normalise(notebook)
    cell = code_cells(notebook)[0]
    cell.source += "\nprint('edited after execution')"
    assert cell.metadata["sawyer_hash"] != course.cell_hash(cell.source)


@pytest.mark.parametrize("kind", ["text", "text/html"])
@pytest.mark.parametrize("path", [ROOT, "/the/home/of/somebody"])
def test_a_machine_path_in_an_output_is_refused(monkeypatch, path, kind):
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("/the/home/of/somebody"))
    notebook = course.build(NAMES[0])
    said = f"saved to {path}/runs"
    output = nbformat.v4.new_output("stream", name="stdout", text=said)
    if kind == "text/html":
        output = nbformat.v4.new_output("display_data", data={kind: said})
    code_cells(notebook)[0].outputs = [output]
    with pytest.raises(ValueError, match="path of this machine"):
        course.normalise(notebook)


def test_of_a_widget_its_text_is_kept():
    notebook = course.build(NAMES[0])
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "<Chat>"}
    code_cells(notebook)[0].outputs = [nbformat.v4.new_output("display_data", data=data)]
    course.normalise(notebook)
    assert code_cells(notebook)[0].outputs[0].data == {"text/plain": "<Chat>"}


# --- README and results -------------------------------------------------------------------------


def test_the_pages_show_the_numbers_of_the_committed_results():
    results = read_json(ROOT / "results" / "local.json")
    assert page.results_table(results) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.answers(results["eval"]) in readme
    seeds = read_json(ROOT / "results" / "ppo_seeds.json")
    assert page.headlines(results, seeds) in readme
    assert page.headlines(results, seeds).count("\n") == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_minutes_of_the_table_and_of_the_title_are_those_of_the_run(name):
    took = read_json(ROOT / "results" / "local.json")["minutes"][name]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    title = course.build(name).cells[0].source
    run = "run: publish.write_minutes(results, root)"
    assert course.with_minutes(title, took) == title, run
    assert re.search(rf"^\| \[{name}\].*\| {round(took)} \|", readme, re.MULTILINE), run


def test_the_first_table_of_04_is_of_the_recorded_verdicts():
    recorded = read_json(ROOT / "results" / "local.json")["eval"]["verdicts"]
    title = course.build("04_eval").cells[0].source
    rows = re.findall(r"^\| ([\w ()]+) \| (\S+) \| (\S+) \| ([\w ]+) \|$", title, re.MULTILINE)
    assert len(rows) == 3
    for measure, *shown, verdict in rows:
        (row,) = (row for row in recorded if row["measure"] == measure)
        assert shown == [f"{round(row[stage], 2) + 0.0:.2f}" for stage in ("sft", "ppo")]
        assert verdict == row["verdict"]


def test_the_committed_run_of_03_is_the_median_seed():
    seeds = read_json(ROOT / "results" / "ppo_seeds.json")
    source = (ROOT / "notebooks" / "source" / "03_ppo.py").read_text(encoding="utf-8")
    median = seeds["together"]["median_seed"]
    assert re.search(r"^SEED = (\d+)", source, re.MULTILINE)[1] == str(median)
    (row,) = (row for row in seeds["rows"] if row["seed"] == median)
    committed = read_json(ROOT / "results" / "local.json")["ppo"]["reward"]["difference"]
    assert committed == pytest.approx(row["reward"][0], abs=0.02)


def recorded(value) -> set[str]:
    """Every number in a stage's results, as prose would round it; the sign is left to the words."""
    if isinstance(value, dict):
        return set().union(*map(recorded, value.values()))
    if isinstance(value, list):
        return set().union(*map(recorded, value))
    return {f"{abs(value):.{n}f}" for n in (2, 3)} if isinstance(value, (int, float)) else set()


def test_what_the_prose_says_of_our_run_is_what_was_recorded():
    """Paragraphs, and tables, that begin with "In our run": each number with decimals is one of the stage's
    results."""
    results, seen = read_json(ROOT / "results" / "local.json"), 0
    seeds = read_json(ROOT / "results" / "ppo_seeds.json")
    results["ppo"]["seeds"] = [seeds["together"], *(row["reward"] for row in seeds["rows"])]
    for name, stage in course.FOLDERS.items():
        cells = [cell.source for cell in course.build(name).cells if cell.cell_type == "markdown"]
        for paragraph in re.split(r"\n\s*\n", "\n\n".join(cells)):
            if paragraph.lstrip("| ").startswith("In our run"):
                numbers = re.findall(r"(?<![\d.])\d+\.\d{2,3}(?![\d.])", paragraph)
                seen += len(numbers)
                assert set(numbers) <= recorded(results.get(stage, {})), (name, paragraph)
    assert seen >= 8


def test_the_readme_has_room_to_be_read():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 100


def test_every_path_in_the_readme_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w.-]+(?:/[\w.-]*)+)`", text) + re.findall(r"\]\((?!http)([^)#]+)\)", text)
    own = [path for path in named if path not in {"sinanuozdemir/odsc-llm-alignment"}]
    assert own
    assert not [path for path in own if not (ROOT / path).exists()]


def test_shipped_checkpoints_are_small_and_complete():
    files = [p for p in (ROOT / "checkpoints" / "local").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 15e6
    for stage, kind in (("sft", "adapter"), ("reward", "model"), ("ppo", "adapter")):
        assert (ROOT / "checkpoints" / "local" / stage / kind / "adapter_model.safetensors") in files


def test_requirements_and_environment_agree():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "-r requirements.txt" in text
    tested = (ROOT / "constraints" / "tested.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    wanted = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in wanted:
        if line.strip() and not line.startswith("#"):
            name = re.split(r"[<>=;]", line)[0].strip()
            assert f"\n{name}==" in "\n" + tested, f"{name} has no tested version"
            assert "#" in line, f"{name} does not say what it is for"
