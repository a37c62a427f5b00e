"""The site: its table of contents, the links of its pages and, with its packages, what is built."""

import json
import re
import runpy
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from sawyer_utils.course import badges
from sawyer_utils.plumbing.files import project_root

ROOT = project_root()
SITE = runpy.run_path(str(ROOT / "docs" / "conf.py"))
NAMED = [page for pages in SITE["CONTENTS"].values() for page in pages]
COMMITTED = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").rglob("*.ipynb")]


def file_of(page):
    return next(path for end in (".md", ".ipynb") if (path := ROOT / f"{page}{end}").exists())


def prose(path):
    """The Markdown of a page or notebook, without its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        text = text.replace("https://github.com/{}/blob/{}/".format(*badges.address()), "../")
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path):
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(path))


def test_the_contents_name_every_page_once_and_stay_out_of_the_others():
    source = ["# Title"]
    SITE["contents"](None, "docs/glossary", source)
    assert source == ["# Title"]
    SITE["contents"](None, "README", source)
    assert re.findall(r"^/(.*)$", source[0], flags=re.MULTILINE) == NAMED
    assert {file_of(page) for page in NAMED} >= set(COMMITTED) - {ROOT / "README.md"}
    assert len(NAMED) == len(set(NAMED))


@pytest.mark.parametrize("page", ["README", *NAMED])
def test_links_lead_to_pages_of_the_site_and_to_headings_there(page):
    here, known, lost = file_of(page), {file_of(page) for page in ("README", *NAMED)}, []
    for link in links(here):
        target, _, heading = link.partition("#")
        path = (here.parent / target).resolve() if target else here
        shown = path in known or (path.suffix == ".png" and path.exists())
        if not shown or (heading and heading not in anchors(path)):
            lost.append(link)
    assert not lost


def test_it_names_the_repository_as_the_badges_do():
    source = "https://github.com/{}/blob/{}/".format(*badges.address())
    assert SITE["html_theme_options"]["source_view_link"] == source + "{filename}"


@pytest.mark.parametrize(("page", "up"), [("notebooks/01_sft", "../"), ("notebooks/deeper/x", "../../")])
def test_a_notebooks_links_to_the_repository_lead_to_the_pages_beside_it(page, up):
    source = ["[a](https://github.com/{}/blob/{}/docs/running.md)".format(*badges.address())]
    SITE["links"](None, page, source)
    assert source == [f"[a]({up}docs/running.md)"]


def test_the_first_page_has_the_name_that_a_server_looks_for(tmp_path):
    (tmp_path / "README.html").write_text("first")
    SITE["index"](SimpleNamespace(outdir=tmp_path), ValueError("not built"))
    assert not (tmp_path / "index.html").exists()
    SITE["index"](SimpleNamespace(outdir=tmp_path), None)
    assert (tmp_path / "index.html").read_text() == "first"


# --- as built -----------------------------------------------------------------------------------

ENVIRONMENT = ROOT / "build" / "site-env"


class Page(HTMLParser):
    """What a page loads and links to, the names of its parts, and the words of its pictures."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.names, self.words, self.formulas = [], [], set(), [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names.add(found.get("id"))
        self.formulas += tag == "math"
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") == "stylesheet":
            self.loads.append(found["href"])
        if tag == "img":
            self.words.append(found.get("alt", ""))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if not (ENVIRONMENT / "ready").exists():
        pytest.skip("no Sphinx: `make site`")
    folder = tmp_path_factory.mktemp("site")
    command = [ENVIRONMENT / "bin" / "python", "-m", "sphinx", "-qEW", "-c", ROOT / "docs", ROOT, folder]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def test_the_site_needs_no_network_but_for_the_badges(built):
    loaded = {load for page in built.values() for load in page.loads}
    assert {load for load in loaded if urlsplit(load).netloc} == {
        "https://colab.research.google.com/assets/colab-badge.svg"
    }
    assert sum(page.formulas for page in built.values()) > 0


def test_every_link_of_the_site_leads_somewhere(built):
    lost = []
    for path, page in built.items():
        for link in [*page.links, *page.loads]:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            to = (path.parent / unquote(target.path)).resolve() if target.path else path
            if not to.exists() or (
                target.fragment and to in built and target.fragment not in built[to].names
            ):
                lost.append((path.name, link))
    assert not lost


def test_figures_tables_and_twins_of_widgets_are_shown_with_their_words(built):
    for path, page in built.items():
        assert not [words for words in page.words if len(words.split()) < 3 or ".png" in words], path.name
    for notebook in (ROOT / "notebooks").rglob("*.ipynb"):
        page = next(path for path in built if path.stem == notebook.stem)
        html = page.read_text(encoding="utf-8")
        outputs = [o for c in json.loads(notebook.read_text("utf-8"))["cells"] for o in c.get("outputs", [])]
        kinds = [set(output.get("data", {})) for output in outputs]
        assert len(built[page].words) == 1 + sum("image/png" in kind for kind in kinds)  # and the badge
        assert html.count('class="output text_html"') == sum("text/html" in kind for kind in kinds)
        assert html.count(": run the notebook to use it&gt;") > 0
