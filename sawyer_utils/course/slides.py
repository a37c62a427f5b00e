"""Slides from the marked cells of an executed notebook: one HTML file that needs no network.

Tags in the source choose the cells: ``slide`` begins a slide, ``subslide`` one below it, ``fragment`` adds to
it at the next key press, all others stay away. Of a code cell only the output is shown, with ``show-code``
its code, too. Cells tagged ``teaching`` or ``notes`` are the speaker's notes (key S) of the slide before.

reveal.js comes from a PyPI wheel with a known SHA-256, fetched once (``constraints/reveal.txt``).
"""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

from sawyer_utils.course import notebooks as course
from sawyer_utils.course.editions import without_badge, without_links
from sawyer_utils.plumbing.files import project_root
from sawyer_utils.plumbing.sources import EMBEDDED

TYPES = ("slide", "subslide", "fragment", "notes")  # reveal.js's, as nbconvert calls them
TEMPLATE = EMBEDDED / "slides.html.j2"


def write(name: str) -> Path:
    """``build/slides/NAME.slides.html`` from the committed notebook ``name``.

    Raises:
        ValueError: if the notebook is not what its source says, or its marked cells make no slides.
        FileNotFoundError: offline, before reveal.js was fetched once.
    """
    import nbformat

    executed = nbformat.read(project_root() / "notebooks" / f"{name}.ipynb", as_version=4)
    path = project_root() / "build" / "slides" / f"{name}.slides.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(chosen(name, executed), reveal()), encoding="utf-8")
    return path


def chosen(name: str, executed):
    """The marked cells of a source, with the outputs of the executed notebook."""
    notebook = course.build(name, teaching=True)
    plain = [cell for cell in notebook.cells if "teaching" not in course.tags(cell)]
    sources, shown = ([course.absolute(cell.source) for cell in cells] for cells in (plain, executed.cells))
    if sources != shown:
        raise ValueError(f"{name}.ipynb is older than its source: make notebooks first.")
    for cell, done in zip(plain, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = done.outputs
    notebook.cells = list(_with_sections(notebook.cells))
    if not notebook.cells or notebook.cells[0].metadata["slideshow"]["slide_type"] != "slide":
        raise ValueError(f"{name}: the first marked cell has to be tagged 'slide'.")
    notebook.metadata["title"] = f"SAWYER {name}"
    return notebook


def _with_sections(cells):
    """The marked cells with their slide type; a slide without a heading gets its section's, small."""
    from nbformat.v4 import new_markdown_cell

    section = ""
    for cell in cells:
        tags = course.tags(cell)
        kind = "notes" if "teaching" in tags else next((tag for tag in TYPES if tag in tags), "")
        found = re.findall("^(##?#?) (.*)", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        section = next((heading for level, heading in reversed(found) if level != "###"), section)
        if kind in ("slide", "subslide") and not found:
            above = f'<p class="section">{section}</p>'
            yield new_markdown_cell(above, metadata={"slideshow": {"slide_type": kind}})
            kind = "-"  # goes on with the slide
        if kind:
            cell.metadata["slideshow"] = {"slide_type": kind}
            yield cell


def page(notebook, scripts: dict[str, str]) -> str:
    """The notebook's cells as one self-contained HTML page."""
    from nbconvert import SlidesExporter

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = draw_formulas(without_links(without_badge(cell.source)))
        elif "show-code" not in course.tags(cell):
            cell.metadata["transient"] = {"remove_source": True}
    exporter = SlidesExporter(template_file=str(TEMPLATE), exclude_anchor_links=True)
    html, _ = exporter.from_notebook_node(notebook, resources=scripts)
    return html


def draw_formulas(text: str) -> str:
    """Markdown with each ``$$…$$`` as a picture by matplotlib: MathJax would come from the network."""
    return re.sub(r"\$\$(.+?)\$\$", lambda found: _formula(found[1].strip()), text, flags=re.DOTALL)


def _formula(tex: str) -> str:
    import html

    from matplotlib import mathtext, rc_context
    from matplotlib.font_manager import FontProperties

    drawn, displayed = io.BytesIO(), tex.replace(r"\frac", r"\dfrac")
    with rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path", "text.parse_math": True}):
        mathtext.math_to_image(f"${displayed}$", drawn, FontProperties(size=26), format="svg")
    picture = base64.b64encode(drawn.getvalue()).decode()
    return f'<img class="formula" alt="{html.escape(tex)}" src="data:image/svg+xml;base64,{picture}">'


def reveal() -> dict[str, str]:
    """The three files of reveal.js that a page needs, fetched if they are not in ``build/reveal``.

    Raises:
        FileNotFoundError: with what to do.
    """
    folder, wanted = project_root() / "build" / "reveal", project_root() / "constraints" / "reveal.txt"
    files = folder / "sphinx_revealjs" / "_static" / "revealjs"
    if not (files / "dist" / "reveal.js").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "--no-deps", "--target", str(folder), "-r", str(wanted)]).returncode:
            raise FileNotFoundError(
                "reveal.js could not be fetched; pip says why above. Slides need a network once, or a folder "
                f"that holds the wheel of {wanted.name}: PIP_FIND_LINKS=FOLDER PIP_NO_INDEX=1 make slides"
            )
    names = {"reveal_css": "dist/reveal.css", "reveal_js": "dist/reveal.js"}
    names |= {"notes_js": "plugin/notes/notes.js"}
    return {key: (files / name).read_text(encoding="utf-8") for key, name in names.items()}
