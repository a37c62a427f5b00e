"""Slides: the marked cells and their outputs, in one page that loads nothing from anywhere."""

import base64
import subprocess
from html.parser import HTMLParser

import matplotlib
import nbformat
import pytest

from sawyer_utils import plots
from sawyer_utils.__main__ import main
from sawyer_utils.course import notebooks as course
from sawyer_utils.course import slides
from sawyer_utils.plumbing.files import project_root

NAMES = list(course.FOLDERS)
SCRIPTS = {"reveal_css": "/* reveal's css */", "reveal_js": "/* reveal */", "notes_js": "/* notes */"}
SOURCE = r"""# %% [markdown] tags=["slide"]
# # 01 · Toy
# [![Open in Colab](https://example.org/badge.svg)](https://example.org/01_sft.ipynb)

# %% [markdown]
# ## 1. A question?
#
# Nobody sees this.

# %% tags=["slide"]
print("shown" + " output")

# %% [markdown] tags=["teaching"]
# Ask **why**.

# %% tags=["fragment", "show-code"]
print("revealed")

# %% [markdown] tags=["subslide"]
# ### A [formula](../docs/glossary.md#formula)
#
# $$ \frac{1}{2} $$
"""


class Page(HTMLParser):
    """What a page would load, and how its sections and fragments nest."""

    def __init__(self, html):
        super().__init__()
        self.loads, self.open, self.seen, self.images = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("script", "img", "iframe", "video") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link":
            self.loads.append(found.get("href"))
        if tag == "img":
            self.images.append(found)
        if tag in ("section", "aside", "div"):
            name = "fragment" if found.get("class") == "fragment" else tag
            self.open.append(name)
            if name != "div":
                self.seen.append(">".join(part for part in self.open if part != "div"))

    def handle_endtag(self, tag):
        if tag in ("section", "aside", "div"):
            self.open.pop()


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """(write a source, its executed notebook)"""
    path = tmp_path / "01_sft.py"
    monkeypatch.setattr(course, "source_path", lambda name: path)

    def write(source=SOURCE):
        path.write_text(source, encoding="utf-8")
        executed = course.build("01_sft")
        for cell in executed.cells:
            if cell.cell_type == "code":
                said = cell.source.removeprefix('print("').removesuffix('")').replace('" + "', "")
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=said)]
        return executed

    return write


def page_of(executed):
    return slides.page(slides.chosen("01_sft", executed), SCRIPTS)


def test_marked_cells_become_slides_and_the_others_stay_away(toy):
    html = page_of(toy())
    body = html[html.index("<body") :]
    assert "Nobody sees this" not in body
    assert "shown output" in body
    assert '" output"' not in body, "the code of a cell without show-code"
    assert body.count('class="highlight') == 1, "the code of a cell with show-code"
    assert Page(html).seen == [
        *("section", "section>section"),
        *("section", "section>section", "section>section>aside", "section>section>fragment"),
        "section>section",
    ]
    assert not Page(html).open


def test_a_slide_without_a_heading_names_its_section(toy):
    html = page_of(toy())
    assert html.count('<p class="section">') == 1
    assert '<p class="section">1. A question?</p>' in html


def test_notes_are_for_the_speaker(toy):
    html = page_of(toy())
    aside = html[html.index('<aside class="notes">') : html.index("</aside>")]
    assert "Ask <strong>why</strong>" in aside


def test_nothing_is_loaded(toy):
    html = page_of(toy())
    assert all(script in html for script in SCRIPTS.values())
    assert all(address.startswith("data:") for address in Page(html).loads)
    assert "Open in Colab" not in html
    assert "MathJax" not in html
    assert "A formula" in html
    assert "glossary" not in html


def test_a_formula_is_a_picture_that_says_what_it_shows(toy):
    (formula,) = Page(page_of(toy())).images
    assert formula["alt"] == r"\frac{1}{2}"
    assert formula["src"].startswith("data:image/svg+xml;base64,")
    with matplotlib.rc_context(plots.STYLE):  # in which a "$" of a text is no formula
        drawn = Page(slides.draw_formulas("$$x$$")).images[0]["src"].split(",")[1]
    assert b"Cmmi10" in base64.b64decode(drawn)
    assert slides.draw_formulas("it costs $5 and $6") == "it costs $5 and $6"
    with pytest.raises(ValueError, match="Unknown symbol"):
        slides.draw_formulas(r"$$\nonsense$$")


def test_a_stale_notebook_is_refused(toy):
    executed = toy()
    toy(SOURCE.replace("shown", "another"))
    with pytest.raises(ValueError, match=r"01_sft\.ipynb is older than its source"):
        slides.chosen("01_sft", executed)


@pytest.mark.parametrize("source", ["# %%\n1\n", '# %% tags=["fragment"]\n1\n'])
def test_a_source_without_a_first_slide_is_refused(toy, source):
    with pytest.raises(ValueError, match="has to be tagged 'slide'"):
        slides.chosen("01_sft", toy(source))


def test_without_a_network_it_says_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "constraints").mkdir()
    monkeypatch.setattr(slides, "project_root", lambda: tmp_path)
    monkeypatch.setattr(slides.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr(slides, "write", lambda name: slides.reveal())
    with pytest.raises(SystemExit, match=r"pip says why above.*PIP_FIND_LINKS"):
        main(["slides"])


def test_reveal_is_pinned_by_its_checksum():
    lines = (project_root() / "constraints" / "reveal.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert len(wanted) == 1
    assert "--hash=sha256:" in wanted[0]


@pytest.mark.parametrize("name", NAMES)
def test_each_notebook_has_a_talk_in_it(name):
    executed = nbformat.read(project_root() / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook = slides.chosen(name, executed)
    marked = [cell for cell in notebook.cells if set(course.tags(cell)) & set(slides.TYPES)]
    assert 12 <= len(marked) <= 20
    assert not [cell.source[:60] for cell in marked if cell.cell_type == "code" and not cell.outputs]
    html = slides.page(notebook, SCRIPTS)
    assert all(address.startswith("data:") for address in Page(html).loads)
    assert not Page(html).open
