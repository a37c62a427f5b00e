"""One figure a function; each returns the Figure. One style for the whole course.

Colours are Okabe and Ito's and two more, chosen so that any two differ for readers with protanopia,
deuteranopia and tritanopia, too; a marker, a line style or a hatch always says the same thing a second
time (tests/test_accessibility.py computes the one and looks at the other).
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from sawyer_utils.plumbing.files import replacing

GREY, GREEN, PURPLE = "#737373", "#009E73", "#9C3A86"
# stage -> (name, colour, hatch, marker)
STAGES = {
    "base": ("base", GREY, "", "o"),
    "sft": ("SFT", "#0072B2", "//", "s"),
    "ppo": ("SFT + RLF", "#D55E00", "..", "^"),
}

STYLE = {
    "figure.dpi": 80,
    "savefig.dpi": 80,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,  # a "$" in an answer is a dollar
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text: it can be searched, edited and read aloud
    "svg.hashsalt": "sawyer",  # the same figure gives the same file
}


def use_style() -> None:
    """Apply the course's style to every figure that follows; a "$" in a table is one, too."""
    plt.rcParams.update(STYLE)
    pd.set_option("display.html.use_mathjax", False)


def on_host(value):
    """A tensor as a NumPy array (or a number), on whatever device and in whatever precision it is, and with
    or without a gradient; the same for all tensors in lists, tuples, dicts and tables. Anything else is
    returned as it is."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        half = value.is_floating_point() and value.itemsize < 4  # NumPy has no bfloat16
        return (value.float() if half else value).numpy() if value.dim() else value.item()
    if isinstance(value, dict):
        return {key: on_host(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(on_host, value))
    if isinstance(value, pd.DataFrame):
        return value.apply(lambda column: column.map(on_host) if column.dtype == object else column)
    return value


def takes_tensors(draw: Callable) -> Callable:
    """Let a figure's function take tensors of any device (:func:`on_host`) where it takes numbers."""

    @functools.wraps(draw)
    def drawn(*args, **options):
        return draw(*on_host(args), **on_host(options))

    return drawn


def save(figure: Figure, folder: Path, name: str, numbers=None) -> Figure:
    """Write ``name.png`` and ``name.svg`` (and the numbers as ``name.csv``) into ``folder``; returns
    the figure."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("png", {}), ("svg", {"Date": None})):
        with replacing(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
    if numbers is not None:
        with replacing(folder / f"{name}.csv") as temporary:
            pd.DataFrame(on_host(numbers)).to_csv(temporary, index=False)
    plt.close(figure)  # shown once, by the cell that returns it
    return figure


def whiskers(values, lows, highs) -> np.ndarray:
    """(2, n) lengths of error bars, from a value (or n) and the ends of its interval."""
    values, lows, highs = map(np.atleast_1d, (values, lows, highs))
    return np.abs(np.stack([values - lows, highs - values]))


def bar_with_interval(ax, x, value, low, high, colour, hatch) -> None:
    """One bar, told from others by its hatch too, with its interval."""
    ax.bar(x, value, 0.62, color=colour, alpha=0.9, hatch=hatch, edgecolor="white")
    ends = whiskers(value, low, high)
    ax.errorbar(x, value, ends, fmt="none", ecolor="#222222", capsize=5, lw=1.6)


def rows_with_intervals(names, values, lows, highs, looks):
    """(Figure, axes) of a value with its interval a row, the first on top; ``looks`` are (colour, marker)."""
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(names) + 1.4))
    rows = list(zip(values, lows, highs, looks, strict=True))[::-1]
    for y, (value, low, high, (colour, marker)) in enumerate(rows):
        ends = whiskers(value, low, high)
        ax.errorbar(value, y, xerr=ends, fmt=marker, color=colour, capsize=4, ms=8, lw=1.8)
    ax.axvline(0, color="#333333", lw=1)
    ax.set_yticks(range(len(names)), list(names)[::-1])
    ax.set_ylim(-0.5, len(names) - 0.5)
    return figure, ax


# --- pictures of ideas --------------------------------------------------------------------------


def box(ax, x, y, text, colour, width=0.2, height=0.3, alpha=0.16, size=12.0) -> None:
    """A rounded box with a text, filled lightly, around (x, y) of a :func:`canvas`."""
    corner, shape = (x - width / 2, y - height / 2), "round,pad=0.01"
    fill = to_rgba(colour, alpha)
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, fc=fill, ec=colour, lw=1.8))
    ax.text(x, y, text, ha="center", va="center", fontsize=size)


def _arrow(ax, start, end, text="", bend=0.0, above=0.04):
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=16, lw=1.6, color="#333333",
            connectionstyle=f"arc3,rad={bend}", shrinkA=2, shrinkB=2,
        )
    )  # fmt: skip
    middle = (np.array(start) + np.array(end)) / 2
    ax.text(middle[0], middle[1] + above, text, ha="center", va="bottom", fontsize=11)


def canvas(width=10.0, height=3.0):
    """(Figure, axes from 0 to 1 that are not drawn)."""
    figure, ax = plt.subplots(figsize=(width, height))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    return figure, ax


def four_stages(here: str = "", results: dict[str, str] | None = None) -> Figure:
    """The course in one picture; ``here`` (sft, reward, ppo, eval) is drawn filled. A stage's line of
    ``results`` stands under its box."""
    figure, ax = canvas(11, 2.6 if results is None else 2.3)
    stages = [
        ("sft", "01  SFT\nlearn to answer", STAGES["sft"][1]),
        ("reward", "02  Reward model\nlearn what is liked", GREEN),
        ("ppo", "03  PPO\nlearn from a grade", STAGES["ppo"][1]),
        ("eval", "04  Evaluation\nis it true?", PURPLE),
    ]
    y = 0.55 if results is None else 0.7
    for i, (key, text, colour) in enumerate(stages):
        x = 0.12 + i * 0.253
        filled = key == here or (not here and results is not None)
        box(ax, x, y, text, colour, height=0.42 if results is None else 0.5, alpha=0.3 if filled else 0.08)
        if key == here:
            ax.text(x, y + 0.33, "you are here", ha="center", fontsize=11, style="italic")
        if i:
            _arrow(ax, (x - 0.148, y), (x - 0.105, y))
        if results and key in results:
            ax.text(x, 0.34, results[key], ha="center", va="top", fontsize=11)
    return figure


def rl_loop() -> Figure:
    """The loop of reinforcement learning from feedback: generate, grade, update, stay close."""
    figure, ax = canvas(10, 4.2)
    blue, orange = STAGES["sft"][1], STAGES["ppo"][1]
    box(ax, 0.12, 0.72, "prompt\nfrom a new set", GREY, 0.17, 0.24)
    box(ax, 0.42, 0.72, "policy π\n(LoRA, learns)", orange, 0.2, 0.24)
    box(ax, 0.76, 0.72, "reward model\none number", GREEN, 0.2, 0.24)
    box(ax, 0.42, 0.2, "frozen copy π_ref\n(SFT)", blue, 0.2, 0.24)
    box(ax, 0.76, 0.2, "PPO update\nreward − β · KL", PURPLE, 0.2, 0.24)
    _arrow(ax, (0.215, 0.72), (0.31, 0.72), "1  ask")
    _arrow(ax, (0.53, 0.72), (0.65, 0.72), "2  answer")
    _arrow(ax, (0.76, 0.58), (0.76, 0.34))
    ax.text(0.775, 0.46, "3  score", fontsize=11, va="center")
    _arrow(ax, (0.53, 0.2), (0.65, 0.2), "KL", above=-0.085)
    _arrow(ax, (0.65, 0.28), (0.5, 0.58), bend=0.15)
    ax.text(0.53, 0.44, "4  nudge", fontsize=11, ha="right", va="center")
    return figure


# --- training -----------------------------------------------------------------------------------


def series(log: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the lines of a log that have ``key``."""
    rows = [(line["step"], float(line[key])) for line in log if key in line]
    return tuple(map(np.array, zip(*rows, strict=True)))


@takes_tensors
def loss_curve(log: list[dict], key: str = "loss", ylabel="loss (nats per token)", levels=()) -> Figure:
    """A training curve with its running mean; ``log`` is ``[{"step": …, key: …}, …]``.

    Args:
        ylabel: says of what the loss is a mean: DPO's is one of pairs.
        levels: ``(name, value)`` pairs drawn as horizontal lines, such as held-out losses.
    """
    steps, values = series(log, key)
    figure, ax = plt.subplots(figsize=(7, 3.2))
    ax.plot(steps, values, color=STAGES["sft"][1], alpha=0.75, lw=0.7, label="each logged step")
    window = min(7, len(values))
    mean = pd.Series(values).rolling(window, min_periods=1).mean()
    ax.plot(steps, mean, color=STAGES["sft"][1], lw=2.8, label=f"mean of {window}")
    for (name, value), line, colour in zip(levels, ("--", ":"), (GREY, STAGES["ppo"][1])):
        ax.axhline(value, ls=line, color=colour, lw=1.8, label=f"{name} {value:.2f}")
    ax.set(xlabel="optimizer step", ylabel=ylabel)
    # Lines across the whole width leave no room inside.
    ax.legend(**({"ncols": 2, "loc": "lower center", "bbox_to_anchor": (0.5, 1)} if levels else {}))
    return figure


PANELS = [  # key, title, unit, healthy range in words
    ("reward", "reward", "SFT's standard deviations", "rises, then levels off"),
    ("kl", "KL to the SFT model", "nats per response", "rises slowly, stays bounded"),
    ("length", "length", "tokens", "no slow drift to the limit"),
    ("finished", "finished", "share of responses", "stays near 1"),
    ("clip_share", "clipped", "share of tokens", "0.02 to 0.2"),
    ("explained_variance", "explained variance", "of the returns", "from 0 towards 1"),
]
WITHOUT_CRITIC = ("reward_std", "spread", "of a batch's rewards", "does not go to 0")


@takes_tensors
def ppo_dashboard(log: list[dict]) -> Figure:
    """Six curves of a PPO run, each with its healthy range in words."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 5.6))
    panels = [panel if panel[0] in log[0] else WITHOUT_CRITIC for panel in PANELS]
    for ax, (key, name, unit, healthy) in zip(axes.flat, panels, strict=True):
        steps, values = series(log, key)
        ax.plot(steps, values, color=STAGES["ppo"][1], marker="o", ms=3.5, lw=1.8)
        if key == "reward":
            _, spread = series(log, "reward_std")
            ax.fill_between(steps, values - spread, values + spread, color=STAGES["ppo"][1], alpha=0.12)
        if key == "finished":
            ax.set_ylim(-0.03, 1.05)
        if key == "explained_variance":  # it has no lower end where the returns hardly vary
            ax.set_ylim(bottom=max(-1.05, ax.get_ylim()[0]))
        ax.set(title=name, ylabel=unit)
        ax.set_xlabel(f"step    (healthy: {healthy})", fontsize=11)
    return figure


# --- results ---------------------------------------------------------------------------


@takes_tensors
def reward_training(log: list[dict]) -> Figure:
    """Live: the share of each batch's pairs that the reward model gets right."""
    return loss_curve(log, key="accuracy", ylabel="accuracy in the batch")


@takes_tensors
def bars_with_intervals(
    names, values, lows, highs, counts, ylabel="", chance: float | None = None, ylim=None
) -> Figure:
    """Bars with intervals and n; a dashed line where chance or zero is."""
    figure, ax = plt.subplots(figsize=(max(5, 1.5 * len(names)), 3.6))
    stages = STAGES if len(names) == 3 else ["sft"] * len(names)
    looks = [STAGES[stage][1:3] for stage in stages]
    for x, (value, low, high, look) in enumerate(zip(values, lows, highs, looks, strict=True)):
        bar_with_interval(ax, x, value, low, high, *look)
    if chance is not None:
        ax.axhline(chance, color="#333333", ls="--", lw=1.2)
        ax.annotate("chance", (len(names) - 0.66, chance), (0, 3), textcoords="offset points", fontsize=11)
        ax.set_xlim(-0.5, len(names) - 0.1)  # room for the word beside the last bar
    ax.set_xticks(range(len(names)), [f"{n}\nn = {c}" for n, c in zip(names, counts, strict=True)])
    ax.set(ylabel=ylabel, ylim=ylim)
    ax.grid(axis="x", visible=False)
    return figure


@takes_tensors
def probe_lines(curves: dict[str, list[float]], xlabel: str, ylabel: str = "score") -> Figure:
    """A number step by step, one line each: such as a response's score by each model as it is changed."""
    figure, ax = plt.subplots(figsize=(7, 3.4))
    looks = zip(curves.items(), ("-", "--", ":"), "os^", ("#0072B2", "#D55E00", GREEN))
    for (name, scores), line, marker, colour in looks:
        ax.plot(range(len(scores)), scores, line, marker=marker, color=colour, lw=2, label=name)
    longest = max(map(len, curves.values()))
    ax.set_xticks(range(0, longest, max(1, longest // 12)))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return figure


@takes_tensors
def score_changes(names, changes, lows, highs, n: int, xlabel: str = "", verdicts=None) -> Figure:
    """Mean change of a score with its interval, a row each: orange up, blue down, grey unclear. Where more
    than the interval decides, ``verdicts`` say "better", "worse" or another word of each."""
    if verdicts is None:
        ends = zip(lows, highs, strict=True)
        verdicts = ["better" if low > 0 else "worse" if high < 0 else "" for low, high in ends]
    looks = {"better": (STAGES["ppo"][1], "^"), "worse": (STAGES["sft"][1], "v")}
    looks = [looks.get(verdict, (GREY, "o")) for verdict in verdicts]
    figure, ax = rows_with_intervals(names, changes, lows, highs, looks)
    ax.set(xlabel=f"{xlabel or 'change of score against the plain answer'} (n = {n} questions)")
    return figure


@takes_tensors
def reward_histograms(rewards: dict[str, list[float]], xlabel="reward") -> Figure:
    """Distributions of one value before and after; keys are stages, in order."""
    figure, ax = plt.subplots(figsize=(8, 3.8))
    bins = np.histogram_bin_edges(np.concatenate(list(rewards.values())), bins=24)
    lines = {"base": ":", "sft": "--", "ppo": "-"}
    for stage, values in rewards.items():
        name, colour, hatch, _ = STAGES[stage]
        ax.hist(
            values, bins, color=(colour, 0.4), hatch=hatch, edgecolor=colour,
            label=f"{name}: mean {np.mean(values).round(2) + 0.0:.2f}, SD {np.std(values, ddof=1):.2f}",
        )  # fmt: skip
        ax.axvline(np.mean(values), color=colour, lw=2.2, ls=lines[stage])
    n = len(next(iter(rewards.values())))
    ax.set(xlabel=xlabel, ylabel="answers", title=f"Rewards of {n} answers to held-out prompts")
    ax.legend()
    return figure


# --- a live panel -------------------------------------------------------------------------------


class LivePlot:
    """Redraws one figure in place as a log grows, with the time left; nothing is shown under tests.

    Call it with the whole log: ``trainer.train(prompts, on_step=LivePlot(ppo_dashboard, 24, folder=run))``.

    Args:
        draw: log -> Figure.
        total: steps of the whole training.
        every: steps between two drawings.
        folder: gets ``figures/training`` at the last step, as PNG, SVG and CSV.
        name: what is trained, for the title.
    """

    def __init__(self, draw, total: int, every: int = 2, folder: Path | None = None, name: str = ""):
        self.draw, self.total, self.every, self.name = draw, total, every, name
        self.folder = Path(folder) if folder else None
        self.handle = self.start = None

    def __call__(self, log: list[dict]) -> None:
        step, now = log[-1]["step"], time.monotonic()
        self.start = self.start or (step, now)
        rows = [{key: value for key, value in line.items() if key != "samples"} for line in log]
        done = step == self.total
        if len(log) % self.every and not done:
            return
        figure = self.draw(log)
        title = f"step {step} of {self.total}{self._left(step, now)}"
        figure.suptitle(f"{self.name}: {title}" if self.name else title, fontsize=12)
        if self.folder and done:
            save(figure, self.folder / "figures", "training", rows)
        plt.close(figure)
        if "PYTEST_CURRENT_TEST" not in os.environ:
            self._show(figure)

    def _left(self, step: int, now: float) -> str:
        """From the pace of this session: a training that goes on does not count what was before."""
        first, start = self.start
        if step == first or step == self.total:
            return ""
        minutes = (now - start) / (step - first) * (self.total - step) / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"

    def _show(self, figure: Figure) -> None:
        if self.handle is None:
            from IPython.display import display

            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)

    def clear(self) -> None:
        """Take the figure away, where a later cell shows the same with more in it."""
        if self.handle is not None:
            from IPython.display import HTML

            self.handle.update(HTML(""))
