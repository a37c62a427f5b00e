"""Figures that one notebook alone draws, in the style of ``plots.py``; each function returns the Figure."""

from __future__ import annotations

import itertools
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sawyer_utils import plots
from sawyer_utils.chapters import surface
from sawyer_utils.plots import GREEN, GREY, PANELS, PURPLE, STAGES, takes_tensors

# --- 02 ---------------------------------------------------------------------------------------------


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
def calibration(predicted, observed, counts, lows, highs) -> Figure:
    """Predicted preference against how often it was right, a point a bin."""
    figure, ax = plt.subplots(figsize=(5, 4.2))
    ax.plot([0.5, 1], [0.5, 1], "--", color=GREY, label="perfectly calibrated")
    ends, blue = plots.whiskers(observed, lows, highs), STAGES["sft"][1]
    ax.errorbar(predicted, observed, ends, fmt="o", color=blue, capsize=4, label="reward model")
    for x, y, n in zip(predicted, observed, counts, strict=True):
        # Beside the whisker, on the side where the diagonal is not.
        place = {"xytext": (6, -4), "ha": "left"} if y < x else {"xytext": (-6, -4), "ha": "right"}
        ax.annotate(f"n={n}", (x, y), **place, textcoords="offset points", fontsize=11)
    ax.margins(x=0.12)
    ax.set(xlabel="predicted probability of its choice", ylabel="share that was right")
    ax.legend(loc="upper left")
    return figure


def score_by_length(sets: dict[str, list[dict]]) -> Figure:
    """Mean score of the responses in each band of length, a line for each set of preferences."""
    ends = ["", *map(str, surface.EDGES)]
    names = [f"{int(low or 0) + 1}–{high}" for low, high in itertools.pairwise(ends)] + [f"over {ends[-1]}"]
    figure, ax = plt.subplots(figsize=(8, 3.4))
    for (name, rows), stage in zip(sets.items(), ("base", "sft"), strict=False):
        _, colour, _, marker = STAGES[stage]
        ax.plot(*zip(*surface.mean_scores(rows).items()), color=colour, marker=marker, label=name)
    ax.set(xticks=range(len(names)), xticklabels=names, xlabel="words of the response")
    ax.set(ylabel="mean score", ylim=(0, 10.5))
    ax.legend()
    return figure


@takes_tensors
def score_groups(groups: dict[str, list[float]], own: str = "", xlabel: str = "score") -> Figure:
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


# --- 04 ---------------------------------------------------------------------------------------------


def three_elements(results: dict[str, str] | None = None) -> Figure:
    """The three elements of alignment, the notebooks that stand in each, and (``results``) what a run held
    there."""
    figure, ax = plots.canvas(11, 2.6)
    elements = [
        ("Data", "01, 02: whose answers, whose taste?", STAGES["sft"][1]),
        ("Training", "01, 02, 03: what is rewarded?", STAGES["ppo"][1]),
        ("Evaluation", "04: who checks, against what?", PURPLE),
    ]
    for i, (title, asked, colour) in enumerate(elements):
        x = 0.17 + i * 0.33
        lines = "\n".join(filter(None, [asked, (results or {}).get(title)]))
        plots.box(ax, x, 0.42, lines, colour, 0.3, 0.74)
        ax.text(x, 0.88, title, ha="center", fontsize=14, weight="bold")
    return figure


def three_answers(prompts: list[str], answers: dict[str, list[str]], large: int = 3) -> Figure:
    """A row a question: the answer of each stage in its own box, cut where the box is full; the first
    ``large`` rows in large letters."""
    # Of each row: inches, letters a line, points, lines.
    sizes = [(2.15, 33, 15.5, 5) if i < large else (1.7, 44, 12, 4) for i in range(len(prompts))]
    inches = sum(row for row, *_ in sizes) + 0.3
    figure, ax = plots.canvas(12, inches)
    for i, stage in enumerate(answers):
        name, colour, _, _ = STAGES[stage]
        x = (i + 0.5) / len(answers)
        ax.text(x, 1, name, ha="center", va="top", fontsize=16, weight="bold", color=colour)
    y = 1 - 0.4 / inches
    for row, (prompt, (high, letters, size, most)) in enumerate(zip(prompts, sizes, strict=True)):
        ax.text(0.5, y, f"“{prompt}”", ha="center", va="top", fontsize=size, weight="bold")
        for i, (stage, texts) in enumerate(answers.items()):
            lines = textwrap.wrap(texts[row], letters) or ["(nothing)"]
            lines = lines[:most] + ["…"] * (len(lines) > most)
            place = (i + 0.5) / len(answers), y - (0.5 * high + 0.06) / inches
            width, height = 0.92 / len(answers), (high - 0.72) / inches
            plots.box(ax, *place, "\n".join(lines), STAGES[stage][1], width, height, alpha=0.1, size=size)
        y -= high / inches
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
    # Points may lie anywhere: no corner inside is sure to be free.
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=1.2)
    return figure


def _panels(n: int, width: float, height: float, **shared):
    """(Figure, its n axes in a row), each so many inches wide."""
    figure, axes = plt.subplots(1, n, figsize=(width * n, height), squeeze=False, **shared)
    return figure, axes[0]


@takes_tensors
def benchmark_bars(table: pd.DataFrame) -> Figure:
    """Accuracy by benchmark and stage (a key of STAGES) with intervals; the other columns of the table are
    accuracy, low, high, n and chance."""
    benchmarks = list(dict.fromkeys(table.benchmark))
    figure, axes = _panels(len(benchmarks), 4.6, 3.7, sharey=True)
    for ax, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark]
        for x, row in enumerate(rows.itertuples()):
            _, colour, hatch, _ = STAGES[row.stage]
            plots.bar_with_interval(ax, x, row.accuracy, row.low, row.high, colour, hatch)
        ax.axhline(rows.chance.iloc[0], color="#333333", ls="--", lw=1.2, label="chance")
        ax.set_xticks(range(len(rows)), [STAGES[s][0] for s in rows.stage])
        ax.set(title=f"{benchmark} (n = {rows.n.iloc[0]})", ylim=(0, 1))
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("accuracy")
    axes[0].legend()
    return figure


@takes_tensors
def differences(table: pd.DataFrame, title="SFT + RLF minus SFT") -> Figure:
    """Differences in standard deviations with intervals, coloured by their verdict.

    Args:
        table: columns measure, difference, low, high, verdict, scale (one standard deviation). A verdict on
            a judge is "pays for the hack" or "does not pay for it": a higher score is then the bad case.
    """
    looks = {
        "better": (GREEN, "^"), "worse": (STAGES["ppo"][1], "v"),
        "pays for the hack": (STAGES["ppo"][1], "X"), "does not pay for it": (GREEN, "P"),
        "no difference shown": (GREY, "o"), "changed": (STAGES["sft"][1], "D"),
    }  # fmt: skip
    scaled = (table[name] / table.scale for name in ("difference", "low", "high"))
    figure, ax = plots.rows_with_intervals(table.measure, *scaled, [looks[v] for v in table.verdict])
    present = [v for v in looks if v in set(table.verdict)]
    handles = [plt.Line2D([], [], color=looks[v][0], marker=looks[v][1], ls="", ms=8) for v in present]
    below = -0.7 / (0.5 * len(table) + 0.4)  # 0.7 inches, whatever the height
    ax.legend(handles, present, loc="upper center", bbox_to_anchor=(0.4, below), ncols=4)
    ax.set(xlabel="difference, in standard deviations of the SFT answers", title=title)
    return figure


@takes_tensors
def frontier(best_of: pd.DataFrame, ppo: pd.DataFrame, judges: dict[str, str]) -> Figure:
    """What each nat of KL buys: best of n from SFT beside PPO, a panel a judge, on one scale.

    Args:
        best_of: columns n, kl and, for each judge, its name, ``<name>_low`` and ``<name>_high``.
        ppo: the same with step in the place of n.
        judges: name -> title.
    """
    figure, axes = _panels(len(judges), 5.2, 3.9, sharex=True, sharey=True)
    looks = ((best_of, "n", "best of n", "sft", "--"), (ppo, "step", "PPO", "ppo", "-"))
    for ax, (judge, title) in zip(axes, judges.items(), strict=True):
        for table, label, name, stage, line in looks:
            _, colour, _, marker = STAGES[stage]
            value = table[judge]
            ends = plots.whiskers(value, table[f"{judge}_low"], table[f"{judge}_high"])
            ax.errorbar(table.kl, value, ends, fmt=marker, ls=line, color=colour, capsize=4, label=name)
            for x, y, text in zip(table.kl, value, table[label], strict=True):
                # Right of the whisker; below the line, which rises, but not on the axis.
                place = {"xytext": (7, -14 if y > 0 else 5), "textcoords": "offset points"}
                ax.annotate(f"{text}", (x, y), **place, fontsize=11)
        ax.axhline(0, color=GREY, lw=1)
        ax.margins(x=0.15)
        ax.set(xlabel="KL to SFT (nats an answer)", title=title)
    axes[0].set_ylabel("gain over SFT (its standard deviations)")
    axes[0].legend()
    return figure


# --- 05 ---------------------------------------------------------------------------------------------


@takes_tensors
def reward_by_batch(log: list[dict], steps: int) -> Figure:
    """Mean reward of each batch of answers, in the log of a trainer that takes several optimizer steps with a
    batch: only those lines that have a reward begin a new one."""
    _, rewards = plots.series(log, "reward")
    figure, ax = plt.subplots(figsize=(7, 3.2))
    ax.plot(range(1, len(rewards) + 1), rewards, "-o", color=STAGES["sft"][1], lw=2)
    ax.set(xlabel=f"batch (optimizer steps with each: {steps})", ylabel="mean reward of the batch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return figure


# --- 06 and 07 --------------------------------------------------------------------------------------


@takes_tensors
def overoptimisation(looks: list[dict]) -> Figure:
    """What is paid and what is wanted, over √KL (Gao et al. 2022, figure 1), gold with its intervals; above
    the axes each look's step, moved to the right where looks lie close together. A look has step, kl, proxy,
    gold, gold_low and gold_high."""
    figure, ax = plt.subplots(figsize=(8, 4.2))
    d = np.sqrt([max(0.0, one["kl"]) for one in looks])
    proxy, gold, low, high = (
        np.array([one[key] for one in looks]) for key in ("proxy", "gold", "gold_low", "gold_high")
    )
    ax.plot(d, proxy, "-^", color=STAGES["ppo"][1], lw=2, ms=7, label="proxy: what PPO is paid by")
    ends = plots.whiskers(gold, low, high)
    label = "gold: what it is paid for"
    ax.errorbar(d, gold, ends, fmt="--s", color=STAGES["sft"][1], capsize=4, lw=2, ms=7, label=label)
    ax.axhline(0, color=GREY, lw=1)
    ax.margins(x=0.08, y=0.2)
    ax.set(xlabel="√KL to SFT (√nats an answer); above: step", ylabel="SFT standard deviations")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    place, gap = -np.inf, 0.05 * np.ptp(d)  # a step of three digits is 0.04 of the axes wide
    above = ax.get_xaxis_transform()  # x in data, y in parts of the axes
    for x, step in sorted(zip(d, [one["step"] for one in looks])):
        place = max(x, place + gap)
        arrow = {"arrowstyle": "-"}
        ax.annotate(f"{step}", (x, 1), (place, 1.06), above, above, arrow, ha="center")
    return figure


@takes_tensors
def ppo_overlay(logs: dict[str, list[dict]]) -> Figure:
    """Reward, KL, length and finished answers of several PPO runs by step, a line a run."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.6), sharex=True)
    colours = (STAGES["ppo"][1], STAGES["sft"][1], GREEN, PURPLE)
    looks = list(zip(logs.items(), colours, "os^D", ("-", "--", "-.", ":")))
    for ax, (key, title, unit, _) in zip(axes.flat, PANELS, strict=False):
        for (name, log), colour, marker, line in looks:
            ax.plot(*plots.series(log, key), marker=marker, ms=4, ls=line, lw=2, color=colour, label=name)
        ax.set(title=title, ylabel=unit)
    axes[1, 1].set_ylim(-0.03, 1.05)
    for ax in axes[1]:
        ax.set_xlabel("step")
    if len(logs) > 1:
        named = axes[0, 0].get_legend_handles_labels()
        figure.legend(*named, loc="outside upper center", ncols=len(logs))
    return figure


@takes_tensors
def reward_parts(runs: dict[str, list[dict]]) -> Figure:
    """The parts of a ``reward.Mixture`` by step, a panel each on one scale, and the KL that they were bought
    with; a line for each run (name -> log)."""
    log = next(iter(runs.values()))
    names = [key for key in log[0] if key.startswith("reward_") and key != "reward_std"]
    figure, axes = plt.subplots(1, len(names) + 1, figsize=(12, 3.6))
    for ax, key in zip(axes, [*names, "kl"], strict=True):
        if key != "kl":
            ax.sharey(axes[0])
        looks = ((STAGES["ppo"][1], "o", "-"), (STAGES["sft"][1], "^", "--"))
        for (run, lines), (colour, marker, style) in zip(runs.items(), looks):
            ax.plot(*plots.series(lines, key), marker=marker, ms=4, ls=style, color=colour, label=run)
        ax.set(xlabel="step", title="KL to the start" if key == "kl" else key.removeprefix("reward_"))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("standard deviations")
    axes[-1].set_ylabel("nats a summary")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
