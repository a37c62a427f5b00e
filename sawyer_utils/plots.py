"""One figure a function; each returns the Figure. One style for the whole course.

Colours are Okabe and Ito's and two more, chosen so that any two differ for readers with protanopia,
deuteranopia and tritanopia, too; a marker, a line style or a hatch always says the same thing a second
time (tests/test_accessibility.py computes the one and looks at the other).
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from sawyer_utils.plumbing.files import replacing, write_json

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
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text: it can be searched, edited and read aloud
    "svg.hashsalt": "sawyer",  # the same figure gives the same file
}


def use_style() -> None:
    """Apply the course's style to every figure that follows."""
    plt.rcParams.update(STYLE)


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


# --- pictures of ideas --------------------------------------------------------------------------


def _box(ax, x, y, text, colour, width=0.2, height=0.3, alpha=0.16):
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.01", fc=colour, ec=colour, alpha=alpha)
    )
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.01", fc="none", ec=colour, lw=1.8)
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=12)


def _arrow(ax, start, end, text="", bend=0.0, above=0.04):
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=16, lw=1.6, color="#333333",
            connectionstyle=f"arc3,rad={bend}", shrinkA=2, shrinkB=2,
        )
    )  # fmt: skip
    middle = (np.array(start) + np.array(end)) / 2
    ax.text(middle[0], middle[1] + above, text, ha="center", va="bottom", fontsize=11)


def _canvas(width=10.0, height=3.0):
    figure, ax = plt.subplots(figsize=(width, height))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    return figure, ax


def four_stages(here: str = "", results: dict[str, str] | None = None) -> Figure:
    """The course in one picture; ``here`` (sft, reward, ppo, eval) is drawn filled.

    Args:
        results: stage -> a line of real results to print under its box.
    """
    figure, ax = _canvas(11, 2.6 if results is None else 2.3)
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
        _box(ax, x, y, text, colour, height=0.42 if results is None else 0.5, alpha=0.3 if filled else 0.08)
        if key == here:
            ax.text(x, y + 0.33, "you are here", ha="center", fontsize=11, style="italic")
        if i:
            _arrow(ax, (x - 0.148, y), (x - 0.105, y))
        if results and key in results:
            ax.text(x, 0.34, results[key], ha="center", va="top", fontsize=11)
    return figure


def rl_loop() -> Figure:
    """The loop of reinforcement learning from feedback: generate, grade, update, stay close."""
    figure, ax = _canvas(10, 4.2)
    blue, orange = STAGES["sft"][1], STAGES["ppo"][1]
    _box(ax, 0.12, 0.72, "prompt\nfrom a new set", GREY, 0.17, 0.24)
    _box(ax, 0.42, 0.72, "policy π\n(LoRA, learns)", orange, 0.2, 0.24)
    _box(ax, 0.76, 0.72, "reward model\none number", GREEN, 0.2, 0.24)
    _box(ax, 0.42, 0.2, "frozen copy π_ref\n(SFT)", blue, 0.2, 0.24)
    _box(ax, 0.76, 0.2, "PPO update\nreward − β · KL", PURPLE, 0.2, 0.24)
    _arrow(ax, (0.215, 0.72), (0.31, 0.72), "1  ask")
    _arrow(ax, (0.53, 0.72), (0.65, 0.72), "2  answer")
    _arrow(ax, (0.76, 0.58), (0.76, 0.34))
    ax.text(0.775, 0.46, "3  score", fontsize=11, va="center")
    _arrow(ax, (0.53, 0.2), (0.65, 0.2))
    ax.text(0.59, 0.02, "how far from π_ref?", fontsize=11, ha="center", va="center")
    _arrow(ax, (0.65, 0.28), (0.5, 0.58), bend=0.15)
    ax.text(0.53, 0.44, "4  nudge", fontsize=11, ha="right", va="center")
    return figure


def three_elements() -> Figure:
    """The three elements of alignment, and the notebooks that stand in each."""
    figure, ax = _canvas(9, 3)
    elements = [
        ("Data", "whose answers,\nwhose preferences?\n01, 02", STAGES["sft"][1]),
        ("Training", "what is rewarded,\nwhat is held fixed?\n01, 02, 03", STAGES["ppo"][1]),
        ("Evaluation", "who checks,\nagainst what?\n04", PURPLE),
    ]
    for i, (title, text, colour) in enumerate(elements):
        x = 0.17 + i * 0.33
        _box(ax, x, 0.47, text, colour, 0.26, 0.6)
        ax.text(x, 0.86, title, ha="center", fontsize=14, weight="bold")
    return figure


@takes_tensors
def low_rank(target, approximations: dict[int, np.ndarray]) -> Figure:
    """A matrix and its approximations by rank, each number written in its cell."""
    panels = [("the update", np.asarray(target))]
    panels += [(f"rank {rank}", np.asarray(matrix)) for rank, matrix in approximations.items()]
    reach = np.abs(panels[0][1]).max()
    figure, axes = plt.subplots(1, len(panels), figsize=(2.8 * len(panels), 3.4))
    for ax, (name, matrix) in zip(axes, panels, strict=True):
        ax.imshow(matrix, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
        for (y, x), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.7 * reach else "#111111"
            ax.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=11, color=colour)
        error = np.linalg.norm(matrix - panels[0][1]) / np.linalg.norm(panels[0][1])
        ax.set_title(name if matrix is panels[0][1] else f"{name}: {error:.0%} missing")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    return figure


# --- training -----------------------------------------------------------------------------------


@takes_tensors
def loss_curve(
    log: list[dict], key: str = "loss", ylabel="loss (nats per token)", smooth=7, levels=()
) -> Figure:
    """A training curve with its running mean; ``log`` is ``[{"step": …, key: …}, …]``.

    Args:
        levels: ``(name, value)`` pairs drawn as horizontal lines, such as held-out losses.
    """
    rows = [(line["step"], float(line[key])) for line in log if key in line]
    steps, values = map(np.array, zip(*rows, strict=True))
    figure, ax = plt.subplots(figsize=(7, 3.2))
    ax.plot(steps, values, color=STAGES["sft"][1], alpha=0.75, lw=0.7, label="each logged step")
    window = min(smooth, len(values))
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


@takes_tensors
def ppo_dashboard(log: list[dict], title: str = "") -> Figure:
    """Six curves of a PPO run, each with its healthy range in words."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 5.6))
    steps = [line["step"] for line in log]
    for ax, (key, name, unit, healthy) in zip(axes.flat, PANELS, strict=True):
        values = np.array([line[key] for line in log], dtype=float)
        ax.plot(steps, values, color=STAGES["ppo"][1], marker="o", ms=3.5, lw=1.8)
        if key == "reward":
            spread = np.array([line["reward_std"] for line in log])
            ax.fill_between(steps, values - spread, values + spread, color=STAGES["ppo"][1], alpha=0.12)
        if key == "finished":
            ax.set_ylim(-0.03, 1.05)
        ax.set(title=name, ylabel=unit)
        ax.set_xlabel(f"step    (healthy: {healthy})", fontsize=11)
    if title:
        figure.suptitle(title, fontsize=14, weight="bold")
    return figure


# --- the reward model ---------------------------------------------------------------------------


@takes_tensors
def preference_loss(margins=(0.0, 1.0, 3.0)) -> Figure:
    """Bradley-Terry loss against the difference of two scores, for several margins."""
    figure, ax = plt.subplots(figsize=(7, 3.4))
    x = np.linspace(-4, 6, 200)
    styles = zip(margins, ("-", "--", ":"), ("#0072B2", "#D55E00", GREEN), strict=True)
    for margin, line, colour in styles:
        ax.plot(x, np.log1p(np.exp(-(x - margin))), line, color=colour, lw=2.2, label=f"margin {margin:g}")
    ax.axvline(0, color=GREY, lw=1)
    ax.set(xlabel="score of chosen − score of rejected", ylabel="loss (nats)")
    ax.legend()
    return figure


@takes_tensors
def reward_training(log: list[dict]) -> Figure:
    """Live: the share of each batch's pairs that the reward model gets right."""
    return loss_curve(log, key="accuracy", ylabel="accuracy in the batch")


@takes_tensors
def bars_with_intervals(
    names, values, lows, highs, counts=None, ylabel="", chance: float | None = None, title="", ylim=None
) -> Figure:
    """Bars with intervals and n; a dashed line where chance or zero is."""
    figure, ax = plt.subplots(figsize=(max(5, 1.5 * len(names)), 3.6))
    x = np.arange(len(names))
    colours = [s[1] for s in STAGES.values()] if len(names) == 3 else [STAGES["sft"][1]] * len(names)
    hatches = [s[2] for s in STAGES.values()] if len(names) == 3 else ["//"] * len(names)
    values = np.asarray(values, dtype=float)
    whiskers = np.abs(np.stack([values - lows, highs - values]))
    drawn = ax.bar(x, values, 0.62, color=colours, alpha=0.9, edgecolor="white")
    for bar, hatch in zip(drawn, hatches, strict=True):
        bar.set_hatch(hatch)
    ax.errorbar(x, values, whiskers, fmt="none", ecolor="#222222", capsize=5, lw=1.6)
    if chance is not None:
        ax.axhline(chance, color="#333333", ls="--", lw=1.2)
        ax.annotate(
            "chance", (len(names) - 0.66, chance), xytext=(0, 3), textcoords="offset points", fontsize=11
        )
        ax.set_xlim(-0.5, len(names) - 0.1)  # room for the word beside the last bar
    labels = names if counts is None else [f"{n}\nn = {c}" for n, c in zip(names, counts, strict=True)]
    ax.set_xticks(x, labels)
    ax.set(ylabel=ylabel, title=title, ylim=ylim)
    ax.grid(axis="x", visible=False)
    return figure


@takes_tensors
def calibration(predicted, observed, counts, lows, highs) -> Figure:
    """Predicted preference against how often it was right, a point a bin."""
    figure, ax = plt.subplots(figsize=(5, 4.2))
    ax.plot([0.5, 1], [0.5, 1], "--", color=GREY, label="perfectly calibrated")
    whiskers = np.abs(np.stack([np.subtract(observed, lows), np.subtract(highs, observed)]))
    ax.errorbar(
        predicted, observed, whiskers, fmt="o", color=STAGES["sft"][1], capsize=4, label="reward model"
    )
    for x, y, n in zip(predicted, observed, counts, strict=True):
        ax.annotate(f"n={n}", (x, y), xytext=(6, -14), textcoords="offset points", fontsize=11)
    ax.set(xlabel="predicted probability of its choice", ylabel="share that was right")
    ax.legend(loc="lower right")
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
def score_groups(groups: dict[str, list[float]], own: str = "", xlabel="score") -> Figure:
    """Scores by group, a box a row and a dot a text; ``own`` names the row that stands out."""
    figure, ax = plt.subplots(figsize=(8, 0.55 * len(groups) + 1.2))
    rng = np.random.default_rng(0)
    for y, (name, values) in enumerate(reversed(groups.items())):
        _, colour, hatch, marker = STAGES["sft" if name == own else "base"]
        box = ax.boxplot(
            [values], positions=[y], widths=0.55, orientation="horizontal",
            showfliers=False, patch_artist=True, medianprops={"color": "black", "lw": 2},
        )  # fmt: skip
        box["boxes"][0].set(facecolor=(colour, 0.3), hatch=hatch, edgecolor=colour)
        ax.scatter(values, y + rng.uniform(-0.18, 0.18, len(values)), s=12, marker=marker, color=colour)
    names = [f"{name} (n = {len(values)})" for name, values in groups.items()]
    ax.set_yticks(range(len(groups)), names[::-1])
    ax.set(xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    return figure


@takes_tensors
def score_changes(names, changes, lows, highs, n: int, xlabel: str = "") -> Figure:
    """Mean change of a score with its interval, a row each: orange up, blue down, grey unclear."""
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(names) + 1.2))
    grey, blue, orange = (stage[1] for stage in STAGES.values())
    for y, (change, low, high) in enumerate(zip(changes[::-1], lows[::-1], highs[::-1], strict=True)):
        colour, marker = (orange, "^") if low > 0 else (blue, "v") if high < 0 else (grey, "o")
        whiskers = [[change - low], [high - change]]
        ax.errorbar(change, y, xerr=whiskers, fmt=marker, color=colour, capsize=4, ms=9, lw=1.8)
    ax.axvline(0, color="#333333", lw=1)
    ax.set_yticks(range(len(names)), list(names)[::-1])
    ax.set(xlabel=f"{xlabel or 'change of score against the plain answer'} (n = {n} questions)")
    return figure


@takes_tensors
def overoptimisation(curves: dict[str, list[dict]], fit: tuple[float, float, float] | None = None) -> Figure:
    """What is paid and what is wanted, over √KL (Gao et al. 2022, figure 1): a line a run, the first one
    bold, with gold's intervals and its steps.

    Args:
        curves: run -> one row a look with kl, proxy and gold (the first also gold_low, gold_high, step).
        fit: (α, β, gold at the start) of R(d) = d (α − β log d).
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 3.9), sharex=True)
    styles = zip(curves.items(), ("-", "--", ":", "-."), "^osD")
    for i, ((name, looks), line, marker) in enumerate(styles):
        d = np.sqrt([max(0.0, one["kl"]) for one in looks])
        for ax, judge, stage in zip(axes, ("proxy", "gold"), ("ppo", "sft"), strict=True):
            look = {"color": STAGES[stage][1] if i == 0 else GREY, "lw": 2.2 if i == 0 else 1.3}
            ax.plot(
                d,
                [one[judge] for one in looks],
                line,
                marker=marker,
                ms=7 if i == 0 else 4,
                label=name,
                **look,
            )
    first = next(iter(curves.values()))
    for one in first:
        at = (math.sqrt(max(0.0, one["kl"])), one["gold"])
        axes[1].plot([at[0]] * 2, [one["gold_low"], one["gold_high"]], color=STAGES["sft"][1], lw=1)
        axes[1].annotate(f"{one['step']}", at, xytext=(6, 6), textcoords="offset points", fontsize=11)
    if fit:
        alpha, beta, start = fit
        d = np.linspace(1e-3, math.sqrt(max(one["kl"] for one in first)), 200)
        axes[1].plot(d, start + d * (alpha - beta * np.log(d)), color="#BBBBBB", lw=3, zorder=0, label="fit")
    for ax, title in zip(axes, ("the proxy: what PPO is paid by", "gold: what it is paid for"), strict=True):
        ax.axhline(0, color="#767676", lw=1)
        ax.set(xlabel="√KL to SFT (√nats an answer)", title=title)
        ax.legend()
    axes[0].set_ylabel("SFT standard deviations")
    return figure


@takes_tensors
def seed_spread(each: dict[str, list[float]], xlabel: str) -> Figure:
    """A row a method: one dot a seed, a stroke at their mean, a line at no difference."""
    figure, ax = plt.subplots(figsize=(8, 0.55 * len(each) + 1.3))
    for y, values in enumerate(reversed(each.values())):
        label = ("a seed", "their mean") if y == 0 else (None, None)
        ax.plot([min(values), max(values)], [y, y], color=GREY, lw=1.4)
        ax.plot(values, [y] * len(values), "o", color=STAGES["sft"][1], ms=8, label=label[0])
        mean = sum(values) / len(values)
        ax.plot(mean, y, "|", color=STAGES["ppo"][1], ms=20, mew=3, label=label[1])
        ax.annotate(f"{mean:+.2f}", (mean, y), xytext=(0, 11), textcoords="offset points", ha="center")
    ax.axvline(0, color="#333333", lw=1)
    ax.set_yticks(range(len(each)), list(each)[::-1])
    ax.set(xlabel=xlabel, ylim=(-0.5, len(each) - 0.35))
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


# --- before and after ---------------------------------------------------------------------------


@takes_tensors
def reward_parts(log: list[dict]) -> Figure:
    """The parts of a ``reward.Mixture`` by step, and the KL that they were bought with."""
    names = [key for key in log[0] if key.startswith("reward_") and key != "reward_std"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    steps = [line["step"] for line in log]
    colours = (STAGES["ppo"][1], STAGES["sft"][1], GREEN, PURPLE)
    for name, colour, marker, line in zip(names, colours, "o^sD", ("-", "--", "-.", ":")):
        label = name.removeprefix("reward_")
        values = [entry[name] for entry in log]
        left.plot(steps, values, marker=marker, ms=4, ls=line, color=colour, label=label)
    left.axhline(0, color="#767676", lw=1)
    left.set(xlabel="step", ylabel="start model's standard deviations", title="each part, before its weight")
    left.legend()
    right.plot(steps, [entry["kl"] for entry in log], marker="o", ms=4, color="#333333")
    right.set(xlabel="step", ylabel="nats a summary", title="KL to the start")
    return figure


@takes_tensors
def reward_histograms(rewards: dict[str, list[float]], title="Rewards on the held-out prompts") -> Figure:
    """Distributions of one value before and after; keys are stages, in order."""
    figure, ax = plt.subplots(figsize=(8, 3.8))
    everything = np.concatenate([np.asarray(v, dtype=float) for v in rewards.values()])
    bins = np.histogram_bin_edges(everything, bins=24)
    lines = {"base": ":", "sft": "--", "ppo": "-"}
    for stage, values in rewards.items():
        name, colour, hatch, _ = STAGES[stage]
        ax.hist(
            values, bins, color=(colour, 0.4), hatch=hatch, edgecolor=colour,
            label=f"{name}: {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}",
        )  # fmt: skip
        ax.axvline(np.mean(values), color=colour, lw=2.2, ls=lines[stage])
    n = len(next(iter(rewards.values())))
    ax.set(xlabel="reward", ylabel="prompts", title=f"{title} (n = {n})")
    ax.legend()
    return figure


@takes_tensors
def slopes(before, after) -> Figure:
    """One line a prompt, from before to after: what a mean hides."""
    before, after = np.asarray(before), np.asarray(after)
    figure, ax = plt.subplots(figsize=(5, 4.4))
    for b, a in zip(before, after, strict=True):
        worse = a < b
        ax.plot(
            [0, 1], [b, a], color=GREY if worse else STAGES["ppo"][1],
            ls="--" if worse else "-", alpha=0.85, lw=0.8,
        )  # fmt: skip
    ax.plot([0, 1], [before.mean(), after.mean()], color="black", lw=3, marker="o", label="mean")
    share = (after < before).mean()
    ax.set_xticks([0, 1], ["SFT", "SFT + RLF"])
    ax.set(ylabel="reward", title=f"Dashed: fell ({share:.0%} of {len(before)})", xlim=(-0.1, 1.1))
    ax.legend()
    return figure


@takes_tensors
def benchmark_bars(table: pd.DataFrame) -> Figure:
    """Accuracy by benchmark and stage with intervals.

    Args:
        table: columns benchmark, stage (key of STAGES), accuracy, low, high, n, chance.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    figure, axes = plt.subplots(1, len(benchmarks), figsize=(4.6 * len(benchmarks), 3.7), sharey=True)
    for ax, benchmark in zip(np.atleast_1d(axes), benchmarks, strict=True):
        rows = table[table.benchmark == benchmark]
        for x, row in enumerate(rows.itertuples()):
            _, colour, hatch, _ = STAGES[row.stage]
            ax.bar(x, row.accuracy, 0.62, color=colour, alpha=0.9, hatch=hatch, edgecolor="white")
            ax.errorbar(
                x, row.accuracy, [[row.accuracy - row.low], [row.high - row.accuracy]],
                fmt="none", ecolor="#222222", capsize=5, lw=1.6,
            )  # fmt: skip
        ax.axhline(rows.chance.iloc[0], color="#333333", ls="--", lw=1.2, label="chance")
        ax.set_xticks(range(len(rows)), [STAGES[s][0] for s in rows.stage])
        ax.set(title=f"{benchmark} (n = {rows.n.iloc[0]})", ylim=(0, 1))
        ax.grid(axis="x", visible=False)
    np.atleast_1d(axes)[0].set_ylabel("accuracy")
    np.atleast_1d(axes)[0].legend()
    return figure


@takes_tensors
def differences(table: pd.DataFrame, title="SFT + RLF minus SFT") -> Figure:
    """Differences in standard deviations with intervals, coloured by their verdict.

    Args:
        table: columns measure, difference, low, high, verdict, scale (one standard deviation).
    """
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(table) + 1.4))
    looks = {
        "better": (GREEN, "^"), "worse": (STAGES["ppo"][1], "v"),
        "no difference shown": (GREY, "o"), "changed": (STAGES["sft"][1], "D"),
    }  # fmt: skip
    for y, row in enumerate(table[::-1].itertuples()):
        colour, marker = looks[row.verdict]
        value, low, high = (v / row.scale for v in (row.difference, row.low, row.high))
        ax.errorbar(value, y, xerr=[[value - low], [high - value]], fmt=marker, color=colour, capsize=4, ms=8)
    ax.axvline(0, color="#333333", lw=1)
    ax.set_yticks(range(len(table)), list(table.measure)[::-1])
    present = [v for v in looks if v in set(table.verdict)]
    handles = [plt.Line2D([], [], color=looks[v][0], marker=looks[v][1], ls="", ms=8) for v in present]
    ax.legend(handles, present, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=4)
    ax.set(xlabel="difference, in standard deviations of the SFT answers", title=title)
    return figure


@takes_tensors
def frontier(best_of: pd.DataFrame, ppo: pd.DataFrame, judges: dict[str, str]) -> Figure:
    """What each nat of KL buys: best of n from SFT beside PPO's checkpoints, a panel a judge.

    Args:
        best_of: columns n, kl and, for each judge, its name, ``<name>_low`` and ``<name>_high``.
        ppo: the same with step in the place of n.
        judges: name -> title.
    """
    figure, axes = plt.subplots(1, len(judges), figsize=(5.2 * len(judges), 3.9), sharex=True)
    looks = ((best_of, "n", "best of n", "sft", "--"), (ppo, "step", "PPO, by step", "ppo", "-"))
    for ax, (judge, title) in zip(np.atleast_1d(axes), judges.items(), strict=True):
        for table, label, name, stage, line in looks:
            _, colour, _, marker = STAGES[stage]
            value = table[judge]
            whiskers = [value - table[f"{judge}_low"], table[f"{judge}_high"] - value]
            ax.errorbar(table.kl, value, whiskers, fmt=marker, ls=line, color=colour, capsize=4, label=name)
            for x, y, text in zip(table.kl, value, table[label], strict=True):
                ax.annotate(f"{text}", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=11)
        ax.axhline(0, color=GREY, lw=1)
        ax.set(xlabel="KL to SFT (nats an answer)", title=title)
    np.atleast_1d(axes)[0].set_ylabel("gain over SFT (its standard deviations)")
    np.atleast_1d(axes)[0].legend()
    return figure


def three_answers(prompt: str, answers: dict[str, str]) -> Figure:
    """One question, the answer of each stage in its own box."""
    import textwrap

    figure, ax = _canvas(11, 3.6)
    ax.text(0.5, 0.97, f"“{prompt}”", ha="center", va="top", fontsize=14, weight="bold")
    for i, (stage, text) in enumerate(answers.items()):
        name, colour, _, _ = STAGES[stage]
        lines = textwrap.wrap(text, 34) or ["(nothing)"]
        lines = lines[:9] + ["…"] * (len(lines) > 9)
        x = (i + 0.5) / len(answers)
        _box(ax, x, 0.39, "\n".join(lines), colour, 0.9 / len(answers), 0.72, alpha=0.1)
        ax.text(x, 0.79, name, ha="center", fontsize=14, weight="bold", color=colour)
    return figure


@takes_tensors
def change_against_length(longer, change, slope: float, intercept: float) -> Figure:
    """Change of reward against change of length, one point a prompt, with the fitted line."""
    longer, change, orange = np.asarray(longer), np.asarray(change), STAGES["ppo"][1]
    figure, ax = plt.subplots(figsize=(7, 3.8))
    ax.axhline(0, color=GREY, lw=1)
    ax.axvline(0, color=GREY, lw=1)
    ax.scatter(longer, change, s=26, color=(orange, 0.4), edgecolor=orange, label="one prompt")
    x = np.array([longer.min(), longer.max()])
    ax.plot(x, intercept + slope * x, "--", color=STAGES["sft"][1], lw=2, label="fitted line")
    ax.plot(0, intercept, "D", ms=9, color="black", label=f"gain at equal length: {intercept:+.2f}")
    ax.set(xlabel="change of length (tokens)", ylabel="change of reward")
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
        folder: gets ``progress.json`` at each step, and at the last ``figures/training`` as PNG, SVG, CSV.
    """

    def __init__(self, draw, total: int, every: int = 2, folder: Path | None = None):
        self.draw, self.total, self.every = draw, total, every
        self.folder = Path(folder) if folder else None
        self.handle = self.start = None

    def __call__(self, log: list[dict]) -> None:
        step, now = log[-1]["step"], time.monotonic()
        self.start = self.start or (step, now)
        rows = [{key: value for key, value in line.items() if key != "samples"} for line in log]
        if self.folder:  # what `python -m sawyer_utils course` shows while the notebook runs
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "progress.json", {**rows[-1], "total": self.total})
        done = step == self.total
        if len(log) % self.every and not done:
            return
        figure = self.draw(log)
        figure.suptitle(f"step {step} of {self.total}{self._left(step, now)}", fontsize=12)
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
