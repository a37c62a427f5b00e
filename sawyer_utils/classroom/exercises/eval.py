"""The judges of notebook 04's exercises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from sawyer_utils.classroom.checks import choice, exercise, number

NO_DIFFERENCE = "no difference shown"
VERDICTS = ("better", "worse", NO_DIFFERENCE)
SOUND = "sound"
FAULTS = ("wrong sign", "wrong tail", "unpaired", "samples as prompts")


@exercise(
    "04.1",
    hints=(
        "Both times the same model answers. What decides which of a prompt's two answers scores higher?",
        "A coin decides it, for each prompt anew. How many heads do you expect?",
        "The verdict needs more than a coin's luck: interval and Wilcoxon must both leave out zero.",
    ),
    lesson="A share of prompts that got worse says nothing until it is held against the share that a placebo "
    "gives. And now and then a placebo gets a verdict: up to one in twenty, by the way it was built.",
)
def placebo(answer):
    """(how many of 40 prompts fall, verdict) for one model against itself."""
    fallen, verdict = answer
    fallen, verdict = number(fallen), choice(verdict, VERDICTS)
    low, high = stats.binom.interval(0.95, 40, 0.5)
    if fallen < low:
        return "In hardly any placebo so few prompts fall."
    if fallen > high:
        return "In hardly any placebo so many prompts fall."
    if verdict != NO_DIFFERENCE:
        return "The count is fair; nothing has changed, and your verdict says it has."
    return None


@exercise(
    "04.2",
    hints=(
        "The mean of n changes has a standard error of 1/√n, in standard deviations of the change.",
        "The true mean must lie far enough above zero, and far enough above the line that makes a verdict.",
        "Two normal quantiles: one for 95 % on two sides, one for four in five on one side. They add up.",
    ),
    lesson="Half the effect needs four times the prompts. And an effect size that was estimated on a few "
    "prompts, then chosen for being large, is too large: round up.",
)
def prompts_needed(answer):
    """f(effect_size) -> the number of prompts that shows it in four experiments of five."""
    rng = np.random.default_rng()
    for effect in rng.uniform([0.15, 0.25, 0.35], [0.25, 0.35, 0.5]):
        n = math.ceil(number(answer(float(effect))))
        if n < 2:
            return f"With {n} prompts there is no spread, so no test either."
        if n > 2000:
            return f"At effect size {effect:.2f} even 2,000 prompts are many more than are asked for."
        # The share of t tests at 5 % that say that the mean of n changes is above zero.
        shown = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * math.sqrt(n))
        if not 0.75 < shown < 0.87:
            return f"At effect size {effect:.2f}, {n} prompts show it in {shown:.0%} of all experiments."
    return None


@exercise(
    "04.3",
    hints=(
        "You choose the data, so choose such that you know the interval beforehand: one set for each fault.",
        "A known gain betrays the sign. And the same changes, on equal prompts and on very unequal ones?",
        "Copies of a sample are no new evidence. And for a bell curve of changes you know the right width.",
    ),
    lesson="A statistic is code like any other: feed it data whose answer you know. Each of these faults "
    "gives numbers that look plausible; none of them stops with an error.",
)
def audit(answer):
    """f(interval) -> SOUND or one of FAULTS, for made-up implementations ``interval(before, after)``."""
    rng = np.random.default_rng()
    cases = [SOUND, *FAULTS] * 2
    rng.shuffle(cases)
    for fault in cases:
        said = choice(answer(made_up_interval(fault, rng)), (SOUND, *FAULTS))
        if said == fault:
            continue
        if fault == SOUND:
            return f"One of {len(cases)} implementations is sound, and you say: {said}."
        return f"One of {len(cases)} implementations has a fault, and you say: {said}."
    return None


def made_up_interval(fault: str, rng: np.random.Generator) -> Callable:
    """``interval(before, after) -> (low, high)`` of (P, S) values, S samples of each of P prompts, that has
    this fault."""
    tail = 0.05 if fault == "wrong tail" else 0.025

    def means(values):
        return values[rng.integers(0, len(values), (2000, len(values)))].mean(1)

    def interval(before, after):
        before, after = (np.atleast_2d(np.asarray(x, dtype=float).T).T for x in (before, after))
        if fault == "unpaired":
            drawn = means(after.mean(1)) - means(before.mean(1))
        elif fault == "samples as prompts":
            drawn = means((after - before).ravel())
        else:
            drawn = means((after - before).mean(1)) * (-1 if fault == "wrong sign" else 1)
        return tuple(float(q) for q in np.quantile(drawn, [tail, 1 - tail]))

    return interval
