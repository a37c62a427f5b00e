"""Editions of a notebook, all from its one source: for learners, for their teacher, for nbgrader.

The committed notebook is for somebody who works alone: solutions at the end, answers folded. A class has
    student     no solutions, and no badge, for the badge opens the committed notebook (unless a branch
                has this edition); at the end a line for handing in
    instructor  solutions, answers open, notes for the teacher
    nbgrader    a source for ``nbgrader generate_assignment``: each exercise is one point

The source says what is for whom. Code cells tagged ``exercise`` hold a stub, those tagged ``solution``, under
"## Solutions" and in the same order, what it should become, both between nbgrader's marks; after its mark
each solution asserts that it passes its check. Cells tagged ``teaching`` are notes for the teacher. Answers
are ``<details>``.
"""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

from sawyer_utils.course import notebooks as course
from sawyer_utils.course.badges import address
from sawyer_utils.plumbing.files import project_root
from sawyer_utils.profiles import Profile

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SOLUTIONS = "## Solutions"
GONE = f"{SOLUTIONS}\n\nThey are in the instructor's edition of this notebook."
HAND_IN = """## Hand in

Without the #, the last line keeps in a file which exercises and questions you got right, in this and
every other notebook where you run it. Nothing else about you is in it but the name that you type."""
HAND_IN_CODE = """from sawyer_utils.classroom.handing_in import hand_in

# hand_in("the name that your class knows you by")"""
# A sentence that is true of the whole notebook alone.
AT_THE_END = r"(?i:(?:the )?solutions\s+stand\s+at\s+the\s+end)(?:\s+of\s+the\s+notebook)?\.\s?"
# The words say what the colour says; GitHub drops the style and keeps the words.
NOTE = """<div style="border-left: 6px solid #0072B2; background: #eef5fb; color: #111; padding: 0.5em 1em">

**For the teacher**

{}

</div>"""


def student(name: str, branch: str | None = None):
    """The notebook with stubs alone, without solutions and notes, answers folded, unexecuted.

    Args:
        branch: of the repository, whose top folder holds this edition: the badge opens it there.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell

    notebook = course.build(name)
    notebook.cells = _for_learners(notebook.cells)
    notebook.cells += [
        new_markdown_cell(HAND_IN, id=f"{name}-hand-in"),
        new_code_cell(HAND_IN_CODE, id=f"{name}-hand-in-code"),
    ]
    if branch:
        title, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"{title}\n{badge(name, branch)}\n{rest}"
        for cell in notebook.cells:
            if cell.cell_type == "markdown":  # Colab opens a notebook alone, and not the one with solutions
                text = re.sub(r"\]\((\w+)\.ipynb", lambda it: f"]({place(it[1], branch)}", cell.source)
                cell.source = course.absolute(text)
    return notebook


def badge(name: str, branch: str) -> str:
    """A badge that opens a notebook in the top folder of a branch."""
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})]({place(name, branch)})"


def place(name: str, branch: str) -> str:
    """Where Colab opens a notebook in the top folder of a branch."""
    return f"https://colab.research.google.com/github/{address()[0]}/blob/{branch}/{name}.ipynb"


def instructor(name: str):
    """The whole notebook with open answers and the notes for the teacher, unexecuted."""
    notebook = course.build(name, teaching=True)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _fold(cell.source, "<details open>")
        if "teaching" in course.tags(cell):
            cell.source = NOTE.format(cell.source)
    return notebook


def nbgrader(name: str):
    """The notebook with each solution in its exercise's cell, and its check in a locked one below.

    ``nbgrader generate_assignment`` takes the solutions out again; each check is worth one point.
    """
    notebook = course.build(name)
    solutions = [cell for cell in notebook.cells if "solution" in course.tags(cell)]
    numbered = enumerate(solutions, start=1)
    cells = []
    for cell in _for_learners(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = without_links(cell.source)
        cells += _graded(name, cell, *next(numbered)) if "exercise" in course.tags(cell) else [cell]
    notebook.cells = cells
    return notebook


def _graded(name: str, exercise, number: int, solution) -> list:
    """Answer and check, with the metadata that nbgrader 0.9 asks for (its schema 3)."""
    block = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    answer, check = copy.deepcopy(exercise), copy.deepcopy(exercise)
    answer.source = block.sub(lambda _: block.search(solution.source)[0], exercise.source)
    check.source = solution.source.rpartition(END)[2].strip()
    answer["id"], check["id"] = f"{name}-exercise-{number}", f"{name}-check-{number}"
    for cell, graded in ((answer, False), (check, True)):
        marks = {"grade": graded, "solution": not graded, "locked": graded, "task": False}
        points = {"points": 1} if graded else {}
        cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": cell["id"], **marks, **points}
    return [answer, check]


def _for_learners(cells: list) -> list:
    """The cells without badge, solutions and their section, of which only the heading stays."""
    kept, inside = [], False
    for cell in cells:
        if cell.cell_type == "markdown":
            text = without_badge(_fold(cell.source, "<details>"))
            cell.source = re.sub(AT_THE_END, "", text)
            if cell.source.startswith("## "):
                inside = cell.source.startswith(SOLUTIONS)
                if inside:
                    cell.source = GONE
                kept.append(cell)
                continue
        if not (inside or "solution" in course.tags(cell)):
            kept.append(cell)
    return kept


def _fold(text: str, details: str) -> str:
    return re.sub("<details(?: open)?>", details, text)


def without_badge(text: str) -> str:
    """Markdown without its line with the "Open in Colab" badge."""
    return re.sub(r"^\[!\[Open in Colab\].*\n?", "", text, flags=re.MULTILINE)


def without_links(text: str) -> str:
    """Markdown whose links to ``../docs`` are words alone, for a page that leaves the repository."""
    return re.sub(r"\[([^\]]+)\]\(\.\./docs/[^)]*\)", r"\1", text)


EDITIONS = {
    "student": (student, "student/{0}.ipynb"),
    "instructor": (instructor, "instructor/{0}.ipynb"),
    "nbgrader": (nbgrader, "nbgrader/source/{0}/{0}.ipynb"),
}


def write(edition: str, branch: str | None = None) -> dict[str, Path]:
    """Every notebook's ``edition`` into ``build/``, with the pages that it links to.

    Args:
        branch: of the student's edition, with a page of badges: see :func:`student`.

    Returns:
        notebook name -> file
    """
    import nbformat

    make, file = EDITIONS[edition]
    paths = {name: project_root() / "build" / file.format(name) for name in course.FOLDERS}
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        notebook = make(name, branch) if branch else make(name)
        nbformat.write(notebook, path)
        text = "\n".join(cell.source for cell in notebook.cells)
        for page in set(re.findall(r"\]\(\.\./(docs/[^)#]+)", text)):
            (path.parent.parent / "docs").mkdir(exist_ok=True)
            shutil.copyfile(project_root() / page, path.parent.parent / page)
    if branch:
        rows = "".join(f"| {name} | {badge(name, branch)} |\n" for name in paths)
        page = f"# Notebooks for the class\n\n| notebook | Colab |\n|---|---|\n{rows}"
        (project_root() / "build" / "student" / "README.md").write_text(page, encoding="utf-8")
    return paths


def run(paths: dict[str, Path], profile: Profile) -> None:
    """Execute what :func:`write` wrote, in order, in the run folder; the files stay as they are.

    Raises:
        nbclient.exceptions.CellExecutionError: at the first cell that fails.
    """
    import nbformat

    clock = course.Clock(list(paths), *course.expected({}))
    for name, path in paths.items():
        course.execute(nbformat.read(path, as_version=4), profile, name, clock)
        print(f"{path.parent.name}/{path.name}  runs through, {clock.finished(name) / 60:.1f} min")
