"""Editions of a notebook, all from its one source: for learners, for their teacher, for nbgrader.

The committed notebook is for somebody who works alone: solutions at the end, answers folded. A class has
    student     no solutions, and no badge, for the badge opens the committed notebook
    instructor  solutions, answers open, notes for the teacher
    nbgrader    a source for ``nbgrader generate_assignment``: each solution is one point

The source says what is for whom. Code cells tagged ``solution`` stand under "## Solutions", their code
between nbgrader's marks, the assertion that it passes its check after them. Cells tagged ``teaching`` are
notes for the teacher. Answers are ``<details>``.
"""

from __future__ import annotations

import re
from pathlib import Path

from sawyer_utils import course
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import project_root

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SOLUTIONS = "## Solutions"
GONE = f"{SOLUTIONS}\n\nThey are in the instructor's edition of this notebook."
# The words say what the colour says; GitHub drops the style and keeps the words.
NOTE = """<div style="border-left: 6px solid #0072B2; background: #eef5fb; color: #111; padding: 0.5em 1em">

**For the teacher**

{}

</div>"""


def student(name: str):
    """The notebook without solutions and notes, answers folded, unexecuted.

    Raises:
        ValueError: if a solution is not marked as the source should mark it.
    """
    notebook = course.build(name)
    check_marks(name, notebook)
    notebook.cells = _without_solutions(name, notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_badge(_fold(cell.source, "<details>"))
    return notebook


def instructor(name: str):
    """The whole notebook with open answers and the notes for the teacher, unexecuted.

    Raises:
        ValueError: as :func:`student`.
    """
    notebook = course.build(name, teaching=True)
    check_marks(name, notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _fold(cell.source, "<details open>")
        if "teaching" in course.tags(cell):
            cell.source = NOTE.format(cell.source)
    return notebook


def nbgrader(name: str):
    """The committed notebook, unexecuted, with each solution cell cut in two: the answer and its check.

    ``nbgrader generate_assignment`` takes out the answers; each check is worth one point.

    Raises:
        ValueError: as :func:`student`.
    """
    notebook = course.build(name)
    check_marks(name, notebook)
    cut = [_graded(cell) if "solution" in course.tags(cell) else [cell] for cell in notebook.cells]
    notebook.cells = [cell for cells in cut for cell in cells]
    return notebook


def _graded(cell) -> list:
    """Both halves with the metadata that nbgrader 0.9 asks for (its schema 3)."""
    import copy

    answer, mark, check = cell.source.rpartition(END)
    halves = []
    for part, source, graded in (("answer", answer + mark, False), ("check", check.strip(), True)):
        half = copy.deepcopy(cell)
        half.source, half["id"] = source, f"{cell['id']}-{part}"
        marks = {"grade": graded, "solution": not graded, "locked": graded, "task": False}
        points = {"points": 1} if graded else {}
        half.metadata["nbgrader"] = {"schema_version": 3, "grade_id": half["id"], **marks, **points}
        halves.append(half)
    return halves


def check_marks(name: str, notebook) -> None:
    """Refuse a solution that would leak: a mark without its partner, or in a cell without the tag.

    Raises:
        ValueError: naming notebook and cell.
    """
    for number, cell in enumerate(notebook.cells, start=1):
        marks = [line.strip() for line in cell.source.splitlines() if line.strip() in (BEGIN, END)]
        where = f"{name}, cell {number} ({cell.source.strip().partition(chr(10))[0][:40]!r})"
        if "solution" in course.tags(cell):
            if not marks or marks != [BEGIN, END] * (len(marks) // 2):
                raise ValueError(f"{where}: a solution stands between {BEGIN!r} and {END!r}.")
            if not cell.source.rpartition(END)[2].strip():
                raise ValueError(f"{where}: after {END!r} the solution has to pass its check.")
        elif marks:
            raise ValueError(f"{where}: it holds a solution, but is not tagged 'solution'.")


def _without_solutions(name: str, cells: list) -> list:
    """The cells outside of the section "Solutions", of which only the heading stays."""
    kept, inside = [], False
    for cell in cells:
        headings = re.findall("^## .*", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        first = bool(headings) and cell.source.startswith("## ")
        alone = headings == [SOLUTIONS] if SOLUTIONS in headings else True
        if not alone or (headings and not first and (inside or SOLUTIONS in headings)):
            raise ValueError(f"{name}: {headings} have to begin a cell of their own.")
        if first:
            inside = headings == [SOLUTIONS]
            cell.source = GONE if inside else cell.source
        if first or not (inside or "solution" in course.tags(cell)):
            kept.append(cell)
    return kept


def _fold(text: str, details: str) -> str:
    return re.sub("<details(?: open)?>", details, text)


def without_badge(text: str) -> str:
    """Markdown without its line with the "Open in Colab" badge."""
    return re.sub(r"^\[!\[Open in Colab\].*\n?", "", text, flags=re.MULTILINE)


EDITIONS = {
    "student": (student, "student/{0}.ipynb"),
    "instructor": (instructor, "instructor/{0}.ipynb"),
    "nbgrader": (nbgrader, "nbgrader/source/{0}/{0}.ipynb"),
}


def write(edition: str) -> dict[str, Path]:
    """Every notebook's ``edition`` into ``build/``; returns notebook name -> file."""
    import nbformat

    make, place = EDITIONS[edition]
    paths = {name: project_root() / "build" / place.format(name) for name in course.NOTEBOOKS}
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(make(name), path)
    return paths


def run(paths: dict[str, Path], profile: Profile) -> None:
    """Execute what :func:`write` wrote, in order, in the run folder; the files stay as they are.

    Raises:
        nbclient.exceptions.CellExecutionError: at the first cell that fails.
    """
    import nbformat

    clock = course.Clock(list(paths), course.EXPECTED)
    for name, path in paths.items():
        course.execute(nbformat.read(path, as_version=4), profile, name, clock)
        print(f"{path.parent.name}/{path.name}  runs through, {clock.finished(name) / 60:.1f} min")
