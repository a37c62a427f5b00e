"""The site that ``make site`` builds with Sphinx: the executed notebooks, the documents, the glossary.

Notebooks are shown with the outputs that they were committed with and never run. The packages are those of
constraints/site.txt; the course has none of them, so what needs them is imported where it is used.
"""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["sawyer"]


def _notebooks(pattern):
    found = sorted((ROOT / "notebooks").glob(pattern))
    return [path.relative_to(ROOT).with_suffix("").as_posix() for path in found]


CONTENTS = {
    "The course": _notebooks("0[1-4]*.ipynb"),
    "Extras": [name for name in _notebooks("*.ipynb") if name not in _notebooks("0[1-4]*.ipynb")],
    "Reference": ["docs/glossary", "docs/results", "docs/running", "docs/your_model"],
    "For teachers": ["docs/teaching", "docs/editions", "docs/offline"],
    "More": ["benchmarks/README", "sawyer_utils/corpus/DATACARD"],
}
project = html_title = "SAWYER"
root_doc = "README"
include_patterns = ["README.md", *(f"{page}.*" for pages in CONTENTS.values() for page in pages)]
exclude_patterns = [".*", "build", "runs"]
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.githubpages"]  # the last: Pages serves _static, too
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_theme_options = {
    "source_view_link": "https://github.com/{repository}/blob/{ref}/".format(**PLACE) + "{filename}",
    "top_of_page_buttons": ["view"],
}
html_math_renderer = "mathml"
html_copy_source = html_use_index = html_show_copyright = False
html_static_path = html_css_files = ["site.css"]
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"


def contents(app, docname, source):
    """The table of contents, which the README on GitHub shall not show."""
    for caption, pages in CONTENTS.items():
        if docname == root_doc and pages:
            listed = "\n".join(f"/{page}" for page in pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def links(app, docname, source):
    """A notebook's links to the repository, absolute for Colab's sake, lead to the pages of the site."""
    if docname.startswith("notebooks/"):
        up = "../" * docname.count("/")
        source[0] = source[0].replace("https://github.com/{repository}/blob/{ref}/".format(**PLACE), up)


def words_of_figures(app, doctree):
    """A figure's alternative text: the summary in words that follows it, in italics or printed."""
    from docutils import nodes

    heading, figures = "", []
    for node in doctree.findall():
        words = " ".join(node.astext().split())
        summary = isinstance(node, nodes.literal_block) and words.startswith("In words")
        if isinstance(node, nodes.title):
            heading, figures = words, []
        elif isinstance(node, nodes.image) and not node.get("alt"):
            node["alt"] = f"Figure in the section “{heading}”"
            figures.append(node)
        elif summary or (isinstance(node, nodes.paragraph) and isinstance(node.next_node(), nodes.emphasis)):
            for figure in figures:
                figure["alt"] = words
            figures = []


def mathml(self, node):
    """A formula as MathML, which a browser shows without a script."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def index(app, error):
    """The first page once more, under the name that a server looks for."""
    if not error:
        shutil.copyfile(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app):
    app.connect("source-read", contents)
    app.connect("source-read", links)
    app.connect("doctree-read", words_of_figures)
    app.connect("build-finished", index)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
