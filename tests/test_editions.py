"""Editions: nothing leaks to learners, nothing is lost to teachers, both run through."""

import functools
import re

import nbformat
import pytest

from sawyer_utils.__main__ import main
from sawyer_utils.course import badges, editions
from sawyer_utils.course import notebooks as course
from sawyer_utils.profiles import PROFILES

NAMES = list(course.FOLDERS)
SOURCE = """# %% [markdown] tags=["slide"]
# # 01 · Toy
# [![Open in Colab](https://example.org/badge.svg)](https://example.org/01_sft.ipynb)
#
# Six [times](../docs/glossary.md#times) seven?

# %% [markdown] tags=["teaching"]
# Ask **why**.

# %% tags=["exercise"]
def times(a, b):
    # the product
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


print("right" if times(6, 7) == 42 else "not attempted")

# %% [markdown]
# <details><summary>Answer</summary>Because.</details>

# %% [markdown]
# ## Solutions
#
# Look here last.

# %% tags=["solution"]
def times(a, b):
    ### BEGIN SOLUTION
    return a * b
    ### END SOLUTION


assert times(6, 7) == 42

# %% [markdown]
# Why it works: multiplication.

# %% [markdown]
# ## Five questions
#
# <details open><summary>One</summary>Yes.</details>

# %%
print("the end")
"""
STUB = "    ### BEGIN SOLUTION\n    return None\n    ### END SOLUTION\n"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A source that stands for 01_sft's; returns a function that replaces its text."""
    path = tmp_path / "01_sft.py"
    path.write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(course, "source_path", lambda name: path)
    monkeypatch.setattr(course, "FOLDERS", {"01_sft": "sft"})
    monkeypatch.setattr(editions, "project_root", lambda: tmp_path)
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "glossary.md").write_text("# Times")

    def replace(old, new):
        assert old in SOURCE
        path.write_text(SOURCE.replace(old, new), encoding="utf-8")

    return replace


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells)


def valid(notebook):
    nbformat.validate(notebook)
    ids = [cell["id"] for cell in notebook.cells]
    return len(set(ids)) == len(ids)


# --- the student's ------------------------------------------------------------------------------


def test_the_student_gets_the_stub_and_no_solution(toy):
    notebook = editions.student("01_sft")
    said = text(notebook)
    assert STUB in said
    assert not any(secret in said for secret in ("a * b", "assert", "multiplication"))
    assert said.count("## Solutions") == 1
    assert "instructor's edition" in said
    assert "the end" in said, "what follows the solutions is lost"
    assert valid(notebook)


def test_a_solution_outside_of_its_section_goes_too(toy):
    toy("# %% [markdown]\n# ## Solutions\n#\n# Look here last.\n\n", "")
    said = text(editions.student("01_sft"))
    assert "a * b" not in said
    assert "Why it works" in said


def test_the_student_gets_folded_answers_no_badge_and_a_line_for_handing_in(toy):
    notebook = editions.student("01_sft")
    said = text(notebook)
    assert said.count("<details>") == 2
    assert "<details open>" not in said
    assert "Open in Colab" not in said, "the badge opens the notebook with the solutions"
    assert "seven?" in said
    assert "\n# hand_in(" in notebook.cells[-1].source
    assert "hand_in" not in text(editions.nbgrader("01_sft")) + text(editions.instructor("01_sft"))


def test_a_class_in_colab_gets_badges_that_open_its_branch(toy, tmp_path):
    main(["student", "--colab", "autumn/student"])
    place = f"colab.research.google.com/github/{badges.address()[0]}/blob/autumn/student/01_sft.ipynb"
    first = nbformat.read(tmp_path / "build/student/01_sft.ipynb", as_version=4).cells[0].source
    assert re.findall(r"\]\(https://([^)]+)\)\n", first) == [place]
    assert first.startswith("# 01 · Toy\n[![")
    assert place in (tmp_path / "build/student/README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_in_colab_no_link_counts_on_files_beside_the_notebook(name):
    cells = editions.student(name, "autumn").cells
    said = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", said)
    assert links
    assert [link for link in links if not link.startswith(("https://", "http://", "#"))] == []
    others = [link for link in links if ".ipynb" in link]
    assert all("/blob/autumn/" in link for link in others), "the committed notebooks have the solutions"


# --- the instructor's ---------------------------------------------------------------------------


def test_the_instructor_gets_solutions_open_answers_and_notes(toy):
    notebook = editions.instructor("01_sft")
    said = text(notebook)
    assert "return a * b" in said
    assert said.count("<details open>") == 2
    assert "<details>" not in said
    (note,) = [cell.source for cell in notebook.cells if "teaching" in course.tags(cell)]
    assert "**For the teacher**\n\nAsk **why**." in note
    assert "border-left" in note
    assert valid(notebook)


def test_notes_are_the_instructors_alone(toy):
    for notebook in (editions.student("01_sft"), editions.nbgrader("01_sft"), course.build("01_sft")):
        assert "Ask **why**" not in text(notebook)
        assert not {"teaching", *course.SLIDE_TAGS} & {t for c in notebook.cells for t in course.tags(c)}


def test_a_note_or_a_slide_makes_no_run_outdated(toy):
    before = course.source_hash("01_sft")
    toy("Ask **why**.", "Ask something else.")
    assert course.source_hash("01_sft") == before
    toy('# %% [markdown] tags=["slide"]', "# %% [markdown]")
    assert course.source_hash("01_sft") == before
    toy("seven?", "eight?")
    assert course.source_hash("01_sft") != before


# --- nbgrader's ---------------------------------------------------------------------------------


def test_nbgrader_gets_each_solution_in_its_exercise_and_a_check_below(toy):
    notebook = editions.nbgrader("01_sft")
    answer, check = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert "# the product" in answer.source
    assert "    ### BEGIN SOLUTION\n    return a * b\n    ### END SOLUTION\n" in answer.source
    assert "None" not in answer.source
    assert check.source == "assert times(6, 7) == 42"
    assert text(notebook).count("a * b") == 1, "the section with the solutions is still there"
    assert (answer.metadata.nbgrader.solution, answer.metadata.nbgrader.grade) == (True, False)
    assert (check.metadata.nbgrader.solution, check.metadata.nbgrader.grade) == (False, True)
    assert check.metadata.nbgrader.points == 1
    assert check.metadata.nbgrader.locked
    assert answer.metadata.nbgrader.grade_id != check.metadata.nbgrader.grade_id
    assert valid(notebook)


# --- written and run ----------------------------------------------------------------------------


@pytest.mark.parametrize("edition", ["student", "instructor"])
def test_an_edition_runs_through_and_stays_unexecuted(toy, edition, capsys):
    paths = editions.write(edition)
    assert paths["01_sft"].parts[-3:] == ("build", edition, "01_sft.ipynb")
    editions.run(paths, PROFILES["smoke"])
    assert "runs through" in capsys.readouterr().out
    saved = nbformat.read(paths["01_sft"], as_version=4)
    assert not [output for cell in saved.cells for output in cell.get("outputs", [])]


def test_an_edition_that_stops_says_where(toy):
    from nbclient.exceptions import CellExecutionError

    toy('print("the end")', "print(1 / times(6, 7))")  # needs what the student does not have
    editions.run(editions.write("instructor"), PROFILES["smoke"])
    with pytest.raises(CellExecutionError, match="unsupported operand"):
        editions.run(editions.write("student"), PROFILES["smoke"])


def test_the_command_line_writes_all_three(toy, capsys, tmp_path):
    for words in (["student"], ["instructor"], ["instructor", "--nbgrader"]):
        main(words)
    written = [line.removeprefix(f"{tmp_path}/build/") for line in capsys.readouterr().out.split()]
    assert written == [
        "student/01_sft.ipynb",
        "instructor/01_sft.ipynb",
        "nbgrader/source/01_sft/01_sft.ipynb",
    ]


def test_links_lead_somewhere_or_are_gone(toy, tmp_path):
    path = editions.write("student")["01_sft"]
    assert (path.parent / "../docs/glossary.md").read_text() == "# Times"
    assert "Six times seven?" in text(editions.nbgrader("01_sft"))


# --- the real notebooks -------------------------------------------------------------------------


def solutions(name):
    """The text between the marks of each solution in a source."""
    cells = [cell.source for cell in course.build(name).cells if "solution" in course.tags(cell)]
    return [re.search(f"{editions.BEGIN}\n(.*){editions.END}", cell, re.DOTALL)[1].strip() for cell in cells]


def headings(notebook):
    """The sections but for those of handing in, which the student's edition alone has."""
    found = re.findall(
        r"^##+ .*", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M
    )
    return [heading for heading in found if heading != "## Hand in"]


@functools.cache
def made(edition, name):
    return editions.EDITIONS[edition][0](name)


@pytest.mark.parametrize("name", NAMES)
def test_no_solution_leaks_and_none_is_lost(name):
    student, whole, graded = (made(edition, name) for edition in editions.EDITIONS)
    assert len(solutions(name)) >= (2 if name == "10_ai_feedback" else 3)  # which is half as long
    for block in solutions(name):
        assert block
        assert [text(notebook).count(block) > 0 for notebook in (student, whole)] == [False, True]
        assert text(graded).count(block) == 1
    assert not [cell for cell in student.cells if "solution" in course.tags(cell)]
    assert headings(student) == headings(course.build(name)), "a section goes with the solutions"
    assert not re.search(r"(?i)solutions\s+(stand|are)\s+at\s+the\s+end", text(student))
    assert valid(student)


@pytest.mark.parametrize("name", NAMES)
def test_the_instructor_runs_what_the_committed_notebook_runs_with_notes_and_open_answers(name):
    notebook, student = made("instructor", name), made("student", name)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code == [cell.source for cell in course.build(name).cells if cell.cell_type == "code"]
    notes = [cell for cell in notebook.cells if "teaching" in course.tags(cell)]
    assert 3 <= len(notes) <= 6
    assert text(notebook).count("**For the teacher**") == len(notes)
    assert valid(notebook)
    assert ["<details open>" in text(one) for one in (notebook, student)] == [True, False]
    assert "<details>" not in text(notebook)
