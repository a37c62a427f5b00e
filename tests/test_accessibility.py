"""Pages that can be read aloud, figures that can be told apart: headings, links, tables, twins, colours."""

import ast
import codecs
import itertools
import re
from html.parser import HTMLParser

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Text

from sawyer_utils import plots, show
from sawyer_utils.chapters import drawings
from sawyer_utils.classroom import widgets
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import project_root, read_json

ROOT = project_root()
NAMES = sorted(path.stem for path in (ROOT / "notebooks" / "source").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BOTH = [(name, kind) for name in NAMES for kind in ("source", "committed")]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def notebook(name, kind):
    if kind == "source":
        return jupytext.read(course.source_path(name))
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def prose(name, kind="source"):
    return [cell.source for cell in notebook(name, kind).cells if cell.cell_type == "markdown"]


def every_text():
    """(where, Markdown) of all that is read: sources, committed notebooks, pages."""
    for name, kind in BOTH:
        yield f"{name}, {kind}", "\n\n".join(prose(name, kind))
    for page in PAGES:
        yield page.name, page.read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def problems_of_headings(text):
    """What a screen reader's list of headings would stumble over."""
    lines = [line for line in without_code(text).splitlines() if re.match(r"#+ ", line)]
    levels = [len(line.split(" ")[0]) for line in lines]
    found = [] if levels.count(1) == 1 and levels[0] == 1 else [f"{levels.count(1)} titles"]
    jumps = [b for (a, b) in itertools.pairwise(levels) if b - a > 1]
    emoji = [x for x in lines if not x.isprintable() or re.search("[\u2600-\u27bf\U0001f300-\U0001faff]", x)]
    return found + [f"jump to level {level}" for level in jumps] + emoji


def problems_of_links(text):
    """Links whose words do not say where they go, and pictures without words."""
    text = without_code(text)
    empty = {"", "here", "this", "link", "click here", "more", "read more", "this link", "page"}
    pictures = re.findall(r"!\[([^\]]*)\]\([^)]*\)", text)
    links = re.findall(r"(?<!!)\[([^\[\]]*)\]\([^)]*\)", text)
    found = [f"picture {words!r}" for words in pictures if len(words.split()) < 3]
    found += [f"link {w!r}" for w in links if w.strip().lower() in empty or w.startswith("http")]
    return found + [tag for tag in re.findall(r"<img\b[^>]*>", text) if not re.search(r'alt="[^"]+"', tag)]


def problems_of_tables(text):
    """Tables in Markdown that do not start with a header row."""
    found, block = [], []
    for line in [*without_code(text).splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if block and (len(block) < 2 or not re.fullmatch(r"[|:\- ]+", block[1])):
            found.append(block[0])
        block = []
    return found


@pytest.mark.parametrize("problems_of", [problems_of_headings, problems_of_links, problems_of_tables])
def test_headings_links_and_tables_can_be_read_aloud(problems_of):
    found = {where: problems_of(text) for where, text in every_text()}
    assert len(found) == len(BOTH) + len(PAGES)
    assert not {where: problems for where, problems in found.items() if problems}


def test_the_lint_finds_what_it_looks_for():
    assert problems_of_headings("# One\n### Three\n# Again") == ["2 titles", "jump to level 3"]
    assert problems_of_headings("# One\n## \U0001f680 Go") == ["## \U0001f680 Go"]
    assert problems_of_links("[here](a) ![x](b) <img src='c'>") == [
        "picture 'x'", "link 'here'", "<img src='c'>",
    ]  # fmt: skip
    assert problems_of_tables("| a | b |\n| 1 | 2 |\n\ntext") == ["| a | b |"]
    assert not problems_of_tables("| a |\n|---|\n| 1 |")


# --- HTML ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Counts pictures without words and tables without header cells."""

    def __init__(self, text):
        super().__init__()
        self.bare, self.headers = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img" and not dict(attributes).get("alt"):
            self.bare.append(self.get_starttag_text())
        if tag == "table":
            self.headers.append(0)
        if tag == "th" and self.headers:
            self.headers[-1] += 1


@pytest.mark.parametrize("name", NAMES)
def test_what_cells_show_as_html_has_header_cells_and_words_for_pictures(name):
    cells = notebook(name, "committed").cells
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    pages = [Page(html) for o in outputs if (html := o.get("data", {}).get("text/html"))]
    assert pages
    assert not [bare for page in pages for bare in page.bare]
    assert all(n > 0 for page in pages for n in page.headers)


def test_tables_of_the_package_have_them_too():
    table = Page(show.side_by_side(["a"], {"b": ["c"]}).data)
    assert table.headers == [2]


# --- a figure's text twin -----------------------------------------------------------------------

DRAWS = ("plots.save(", "climb(", "bars(")


def shows_a_figure(cell):
    """Whether the last line of a cell gives a figure to look at."""
    if cell.cell_type != "code":
        return False
    lines = ast.parse(cell.source).body
    last = ast.unparse(lines[-1]) if lines else ""
    return isinstance(lines[-1], ast.Expr) and any(call in last for call in DRAWS)


def has_words(cell):
    """A summary in italics or after "In words", in prose or printed."""
    if cell.cell_type == "code":
        return "In words" in cell.source
    paragraphs = [part.strip() for part in cell.source.split("\n\n")]
    return any(re.match(r"\*[^*]|\**In words", part) for part in paragraphs)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_followed_by_its_summary_in_words(name):
    cells = notebook(name, "source").cells
    figures = [i for i, cell in enumerate(cells) if shows_a_figure(cell)]
    assert len(figures) >= 3 or name > "05"
    silent = []
    for here, following in zip(figures, [*figures[1:], len(cells)], strict=True):
        if not any(has_words(cell) for cell in cells[here + 1 : following]):
            silent.append(cells[here].source)
    assert not silent


# --- colours ------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009 (IEEE TVCG 15(6), doi 10.1109/TVCG.2009.113), severity 1.0; they
# work on linear RGB.
SEEN_BY = {
    "everybody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
APART = 0.05  # in Oklab; 0.02 is just noticeable side by side
GRAPHICAL, TEXT, LARGE_TEXT = 3.0, 4.5, 3.0  # WCAG 2.2, success criteria 1.4.11 and 1.4.3


def linear(colour):
    """(3,) linear RGB; a colour with alpha lies on white."""
    red_green_blue, alpha = np.array(to_rgb(colour)), to_rgba(colour)[3]
    values = red_green_blue * alpha + 1 - alpha
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(one, two="white"):
    """WCAG's ratio of relative luminances, 1 to 21."""
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def oklab(rgb):
    """(3,) Oklab of linear sRGB (Ottosson 2020, "A perceptual color space for image processing")."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    opponents = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(opponents) @ np.cbrt(np.array(cones) @ rgb)


def difference(one, two, eyes):
    a, b = (oklab(np.clip(np.array(SEEN_BY[eyes]) @ linear(colour), 0, 1)) for colour in (one, two))
    return float(np.linalg.norm(a - b))


@pytest.mark.parametrize(
    ("colour", "expected"),
    [  # as the CSS Color Module Level 4 has them
        ("white", (1, 0, 0)),
        ("red", (0.62796, 0.22486, 0.12585)),
        ("lime", (0.86644, -0.23389, 0.17950)),
        ("blue", (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_is_the_published_one(colour, expected):
    assert oklab(linear(colour)) == pytest.approx(expected, abs=1e-4)


def test_the_contrast_is_wcags():
    assert contrast("black") == pytest.approx(21)
    assert contrast("#777777") == pytest.approx(4.48, abs=0.01)  # the usual "just too pale" grey


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_white_stays_white_for_every_eye_and_red_and_green_come_together_for_two(eyes):
    assert np.allclose(np.array(SEEN_BY[eyes]) @ [1, 1, 1], 1, atol=1e-5)
    apart = difference("#C04040", "#6F6F20", eyes)
    assert (apart < 0.08) == (eyes in ("protanopia", "deuteranopia"))


STAGE_COLOURS = [colour for _, colour, _, _ in plots.STAGES.values()]
PALETTE = [*STAGE_COLOURS, plots.GREEN, plots.PURPLE]


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_any_two_colours_differ_for_every_eye(eyes):
    near = {
        (a, b): round(apart, 3)
        for a, b in itertools.combinations(PALETTE, 2)
        if (apart := difference(a, b, eyes)) < APART
    }
    assert not near


def test_the_palette_stands_out_from_white():
    assert not {c: contrast(c) for c in PALETTE if contrast(c) < GRAPHICAL}


def test_words_on_coloured_bars_can_be_read():
    panel = widgets.RewardExplorer(lambda q, a: [float(len(x)) for x in a], "q", "aa", "b")
    panel.judge()
    bars = re.findall(r"background:(#\w{6});?(?:color:(\w+))?", panel.result.value)
    assert [colour for colour, _ in bars] == [plots.STAGES["sft"][1], plots.STAGES["ppo"][1]]
    for background, words in bars:
        assert contrast(background, words or "white") >= TEXT


# --- figures ------------------------------------------------------------------------------------


def log(n=8):
    keys = ("reward", "kl", "length", "finished", "clip_share", "explained_variance", "loss", "accuracy")
    return [{"step": i + 1, "reward_std": 1.0, **dict.fromkeys(keys, i / n)} for i in range(n)]


def frontier_table(label):
    numbers = {"kl": [0.1, 0.5], label: [1, 2]}
    return pd.DataFrame({**numbers, **{f"judge{end}": [0.1, 0.2] for end in ("", "_low", "_high")}})


def figures():
    """How to draw every figure of the course that shows several things in several colours."""
    three = ([0.2, 0.4, 0.5], [0.1, 0.3, 0.4], [0.3, 0.5, 0.6])
    table = pd.DataFrame(
        {"measure": list("abcd"), "difference": 0.5, "low": 0.1, "high": 0.9, "scale": 1.0}
        | {"verdict": ["better", "worse", "no difference shown", "changed"]}
    )
    bench = {"benchmark": "b", "stage": list(plots.STAGES), "n": 9, "chance": 0.25}
    bench |= dict(zip(("accuracy", "low", "high"), three, strict=True))
    numbers = {stage: list(np.linspace(i, i + 3, 9)) for i, stage in enumerate(plots.STAGES)}
    scored = [{"responses": [{"text": "a " * n, "score": n / 10} for n in (4, k, 70)]} for k in (20, 50)]
    return {
        "bars": lambda: plots.bars_with_intervals(
            ["a", "b", "c"], *map(np.array, three), [9] * 3, chance=0.5
        ),
        "benchmarks": lambda: drawings.benchmark_bars(pd.DataFrame(bench)),
        "calibration": lambda: drawings.calibration([0.6, 0.9], [0.5, 0.8], [3, 4], [0.4, 0.7], [0.6, 0.9]),
        "changes": lambda: plots.score_changes(list("abc"), [1, -1, 0], [0.5, -2, -1], [2, -0.5, 1], 9),
        "differences": lambda: drawings.differences(table),
        "frontier": lambda: drawings.frontier(
            frontier_table("n"), frontier_table("step"), {"judge": "a judge"}
        ),
        "score by length": lambda: drawings.score_by_length({"these": scored, "those": scored[:1]}),
        "groups": lambda: drawings.score_groups({"a": [1.0, 2, 3], "own": [2.0, 3, 4]}, own="own"),
        "histograms": lambda: plots.reward_histograms(numbers),
        "length": lambda: drawings.change_against_length([1.0, 2, 3], [0.1, 0.3, 0.2], 0.1, 0.0),
        "loss": lambda: plots.loss_curve(log(), levels=[("before", 1.0), ("after", 0.5)]),
        "margins": lambda: drawings.preference_loss(),
        "over-optimisation": lambda: drawings.overoptimisation(
            [{"step": i, "kl": i, "proxy": i, "gold": 1, "gold_low": 0, "gold_high": 2} for i in range(4)]
        ),
        "overlay": lambda: drawings.ppo_overlay(dict.fromkeys("abcd", log())),
        "probes": lambda: plots.probe_lines({"a": [1, 2], "b": [2, 3], "c": [3, 4]}, "x"),
    }


@pytest.fixture(scope="module", params=list(figures()))
def axes(request):
    plots.use_style()
    figure = figures()[request.param]()
    return figure.axes


def looks(ax):
    """(colour, second cue) of everything that stands for data: marker, line style or hatch."""
    whiskers = {line for c in ax.containers if isinstance(c, ErrorbarContainer) for line in c.lines[1]}
    for line in ax.lines:
        if line not in whiskers and isinstance(line, Line2D):
            yield (
                line.get_color(),
                ("line", line.get_linestyle(), str(line.get_marker()), line.get_linewidth()),
            )
    for container in ax.containers:
        if isinstance(container, BarContainer):
            for bar in container.patches:
                yield bar.get_facecolor(), ("bar", bar.get_hatch() or "")
    for dots in ax.collections:
        if len(dots.get_offsets()) > 1:
            yield dots.get_facecolor()[0], ("dots", str(dots.get_paths()[0].vertices.round(2).tolist()))


def test_what_differs_in_colour_differs_in_something_else(axes):
    for ax in axes:
        cues = {}
        for colour, cue in looks(ax):
            cues.setdefault(tuple(np.round(to_rgb(colour), 3)), set()).add(cue)
        for one, two in itertools.combinations(cues.values(), 2):
            assert not one & two


def test_the_figures_have_something_to_tell_apart():
    several = [name for name, draw in figures().items() if len({*map(str, looks(draw().axes[0]))}) > 1]
    assert len(several) >= 12


def visible(face, edge):
    """The better contrast of the two, as drawn on white."""
    return max(contrast(face), contrast(edge) if edge is not None else 1.0)


def test_what_stands_for_data_stands_out_from_white(axes):
    for ax in axes:
        for line in ax.lines:
            assert contrast(to_rgba(line.get_color(), line.get_alpha())) >= GRAPHICAL
        for container in ax.containers:
            for bar in container.patches if isinstance(container, BarContainer) else ():
                assert visible(bar.get_facecolor(), bar.get_edgecolor()) >= GRAPHICAL
        for dots in ax.collections:
            if len(dots.get_offsets()) > 1:
                assert visible(dots.get_facecolor()[0], dots.get_edgecolor()[0]) >= GRAPHICAL


def test_words_in_figures_are_large_enough_for_their_colour(axes):
    for ax in axes:
        for text in [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]:
            large = text.get_fontsize() >= 18 or (text.get_fontsize() >= 14 and text.get_weight() == "bold")
            assert contrast(text.get_color()) >= (LARGE_TEXT if large else TEXT)
            assert text.get_fontsize() >= 11


def test_no_step_number_lies_on_a_mark_or_on_another():
    plots.use_style()
    recorded = read_json(project_root() / "results" / "local.json")["hacking"]["looks"]
    close = [{"step": i, "kl": k, "proxy": k / 9, "gold": k / 9, "gold_low": 0, "gold_high": 1.2}
             for i, k in enumerate((0, 4, 4.3, 9, 9.2, 9.4))]  # fmt: skip
    for looks in (recorded, close):
        figure = drawings.overoptimisation(looks)
        (ax,) = figure.axes
        figure.draw_without_rendering()
        numbers = [Text.get_window_extent(text) for text in ax.texts]  # without the lines to their looks
        assert [text.get_text() for text in ax.texts] == [str(one["step"]) for one in looks]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(numbers, 2))
        for line in ax.lines:
            path = line.get_transform().transform_path(line.get_path())
            places = path.vertices if line.get_linestyle() == "None" else path.interpolated(50).vertices
            assert not any(number.count_contains(places) for number in numbers)
        for bars in ax.collections:
            for ends in bars.get_segments():
                assert not any(Path(ax.transData.transform(ends)).intersects_bbox(n) for n in numbers)


def test_the_legend_covers_no_point_wherever_the_points_lie():
    plots.use_style()
    across, up = (grid.ravel() for grid in np.meshgrid(np.linspace(-40, 20, 25), np.linspace(-3, 1, 25)))
    figure = drawings.change_against_length(across, up, 0.01, -0.75)
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend().get_window_extent()
    assert not legend.count_contains(figure.axes[0].transData.transform(np.column_stack([across, up])))
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1


def test_a_judge_that_pays_for_the_hack_has_the_colour_of_what_is_worse():
    def colours(*verdicts):
        numbers = {"measure": list("ab"), "difference": 0.5, "low": 0.1, "high": 0.9, "scale": 1.0}
        figure = drawings.differences(pd.DataFrame(numbers | {"verdict": verdicts}))
        return [handle.get_color() for handle in figure.axes[0].get_legend().legend_handles]

    better, worse = colours("better", "worse")
    assert colours("pays for the hack", "does not pay for it") == [worse, better]


def drawn(figure) -> list[tuple]:
    """Marker and place of each mark with whiskers."""
    lines = [bars.lines[0] for bars in figure.axes[0].containers if isinstance(bars, ErrorbarContainer)]
    return [(line.get_marker(), *np.ravel(line.get_xdata())) for line in lines]


def test_marks_stand_where_their_numbers_are_and_the_first_row_on_top():
    figure = plots.score_changes(["a", "b"], [1.0, -1.0], [0.5, -2.0], [2.0, -0.5], 9)
    assert drawn(figure) == [("v", -1.0), ("^", 1.0)]
    rows = {"measure": list("ab"), "verdict": ["better", "worse"], "difference": [3.0, -1.0]}
    rows |= {"low": [1.0, -2.0], "high": [4.0, -0.5], "scale": [2.0, 1.0]}
    assert drawn(drawings.differences(pd.DataFrame(rows))) == [("v", -1.0), ("^", 1.5)]
    look = {"step": 1, "proxy": 1.0, "gold": 0.5, "gold_low": 0.0, "gold_high": 1.0}
    assert drawn(drawings.overoptimisation([look | {"kl": 4.0}, look | {"kl": 9.0}])) == [("s", 2.0, 3.0)]
    (ax,) = drawings.score_groups({"low": [1.0] * 3, "high": [5.0] * 3}).axes
    dots = {round(place[1]): place[0] for points in ax.collections for place in points.get_offsets()}
    names = {
        round(y): t.get_text().split()[0] for y, t in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
    }
    assert {names[y]: x for y, x in dots.items()} == {"low": 1.0, "high": 5.0}


def test_a_batch_of_several_optimizer_steps_is_one_point():
    lines = [{"step": i, "loss": 0.0} | ({"reward": i / 9} if i % 2 else {}) for i in range(1, 9)]
    (ax,) = drawings.reward_by_batch(lines, steps=2).axes
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert "batch" in ax.get_xlabel()


def test_each_loss_says_of_what_it_is_a_mean():
    cells = [cell.source for cell in notebook("05_ppo_vs_dpo", "source").cells if cell.cell_type == "code"]
    (dpo,) = (cell for cell in cells if "DPOTrainer(" in cell)
    assert "nats per pair" in dpo


def test_orange_is_above_zero_and_blue_below():
    page = show.shaded_tokens([(["up", "down", "none"], [0.5, -1.0, 0.0])]).data
    shown = re.findall(r'title="([^"]*)".*?2px solid (#\w+).*?>(\w+)</span>', page)
    assert shown == [("+0.500", plots.STAGES["ppo"][1], "up"), ("-1.000", plots.STAGES["sft"][1], "down")]


@pytest.mark.parametrize("where", ["prompt", "name", "answer", "note", "first"])
def test_a_text_with_a_less_than_sign_is_shown_and_is_no_html(where):
    said = {"prompt": "p", "name": "n", "answer": "a", "note": "o", "first": "f", where: "1 <b 2 & <i>x</i>"}
    columns, notes = {said["name"]: [said["answer"]]}, {said["name"]: [said["note"]]}
    page = show.side_by_side([said["prompt"]], columns, notes, said["first"]).data
    assert "1 &lt;b 2 &amp; &lt;i&gt;x&lt;/i&gt;" in page
    assert "<i>" not in page


def test_an_indecent_word_of_a_model_is_masked_and_the_table_says_so():
    plain = show.side_by_side(["?"], {"a": ["Whoever sits in the wheelhouse reads."]}).data
    assert show.MASK not in plain
    unfit = codecs.decode("Na Betnfz, ohyyfuvg.", "rot13")
    table = show.side_by_side(["?"], {"a": [unfit]}).data
    assert f"An {show.MASK}, {show.MASK}." in table
    assert table.endswith(f"{show.MASK}: an indecent word.</div>")


def test_the_names_over_three_answers_are_large_enough_for_their_colours():
    figure = drawings.three_answers(["Why?"], {stage: ["so"] for stage in plots.STAGES})
    coloured = [text for text in figure.axes[0].texts if text.get_color() in STAGE_COLOURS]
    assert len(coloured) == 3
    for text in coloured:
        assert text.get_fontsize() >= 14
        assert text.get_weight() == "bold"
        assert contrast(text.get_color()) >= LARGE_TEXT
