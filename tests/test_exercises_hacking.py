"""The exercises of 06: their cells, and the mistakes that each must refuse."""

from __future__ import annotations

import math
import statistics
from typing import ClassVar

import numpy as np
import pytest
import torch
from exercise_tests import Exercises

from sawyer_utils import health
from sawyer_utils.chapters import hacking
from sawyer_utils.classroom.exercises import hacking as exercises_hacking

torch.set_num_threads(1)


def line(scores, words):
    """(slope, intercept), by somebody else's least squares."""
    return np.polyfit(words, scores, 1) if len(set(words)) > 1 else (0.0, np.mean(scores))


def rest(scores, words):
    slope, intercept = line(scores, words)
    return [s - intercept - slope * w for s, w in zip(scores, words)]


def through_zero(scores, words):
    slope = np.dot(words, scores) / np.dot(words, words)
    return [s - slope * w for s, w in zip(scores, words)]


def swapped(scores, words):
    slope, _ = line(words, scores)
    return [s - np.mean(scores) - slope * (w - np.mean(words)) for s, w in zip(scores, words)]


def by_correlation(scores, words):
    r = np.corrcoef(scores, words)[0, 1] if len(set(words)) > 1 else 0.0
    return [s - np.mean(scores) - r * (w - np.mean(words)) for s, w in zip(scores, words)]


def no_care(scores, words):
    apart = [w - statistics.mean(words) for w in words]
    slope = sum(a * s for a, s in zip(apart, scores)) / sum(a * a for a in apart)
    return [s - statistics.mean(scores) - slope * a for a, s in zip(apart, scores)]


def curved(scores, words):
    curve = np.polyfit(words, scores, 2) if len(set(words)) > 2 else [0.0, 0.0, np.mean(scores)]
    return [s - np.polyval(curve, w) for s, w in zip(scores, words)]


def searched(alpha, beta):
    d = np.linspace(0.01, 30, 30_000)
    return d[np.argmax(d * (alpha - beta * np.log(d)))]


def adjusted(scores, words):
    judge = hacking.length_adjusted(lambda p, r: scores, [""] * len(words), ["a " * w for w in words])
    return judge([""] * len(words), ["a " * w for w in words])


class TestHacking(Exercises):
    NOTEBOOK = "06_reward_hacking"
    NAMES: ClassVar = {"math": math, "statistics": statistics}
    RIGHT: ClassVar = {
        "06.1": {"from below": 0.22, "from above": 0.25, "a tensor": torch.tensor([0.2326])},
        "06.2": {"an array": lambda alpha, beta: np.array([np.exp(alpha / beta - 1)]), "searched": searched},
        "06.3": {
            "an array": lambda scores, words: np.array(rest(scores, words)),
            "the package": adjusted,
            "fp32": lambda scores, words: torch.tensor(rest(scores, words), dtype=torch.float32),
        },
        "06.4": {"in any case": [" Length Hacking", "never finishing", "NOTHING stands out"]},
    }
    WRONG: ClassVar = {
        "06.1": {
            "what one look is worth": 0.0,
            "one standard error": 0.2,
            "two standard errors": 0.4,
            "in standard errors": 1.163,
            "the error of the mean of five": 0.2 / math.sqrt(5),
            "of ten looks": 0.2 * 1.539,
            "the lowest": -0.2326,
        },
        "06.2": {
            "where it is back at zero": lambda alpha, beta: math.exp(alpha / beta),
            "the KL": lambda alpha, beta: math.exp(2 * (alpha / beta - 1)),
            "its logarithm": lambda alpha, beta: alpha / beta - 1,
            "the inner factor's zero slope": lambda alpha, beta: 1.0,
            "turned round": lambda alpha, beta: math.exp(beta / alpha - 1),
            "the sign": lambda alpha, beta: math.exp(1 - alpha / beta),
            "how high it is there": lambda alpha, beta: beta * math.exp(alpha / beta - 1),
            "below zero": lambda alpha, beta: -math.exp(alpha / beta - 1),
            "5 % off": lambda alpha, beta: 1.05 * math.exp(alpha / beta - 1),
        },
        "06.3": {
            "less the mean alone": lambda scores, words: [s - np.mean(scores) for s in scores],
            "a score a word": lambda scores, words: [s / w for s, w in zip(scores, words)],
            "a line through zero": through_zero,
            "words on scores": swapped,
            "the correlation for the slope": by_correlation,
            "kept the intercept": lambda scores, words: [x + np.mean(scores) for x in rest(scores, words)],
            "in its own spread": lambda scores, words: list(np.divide(rest(scores, words), 3.0)),
            "a curve": curved,
            "the line itself": lambda scores, words: [s - x for s, x in zip(scores, rest(scores, words))],
            "zero by zero": no_care,
            "unchanged if equally long": lambda scores, words: (
                rest(scores, words) if len(set(words)) > 1 else scores
            ),
            "nothing if equally long": lambda scores, words: (
                rest(scores, words) if len(set(words)) > 1 else [0.0] * len(scores)
            ),
        },
        "06.4": {
            "the reward rises, so all is well": ("nothing stands out",) * 3,
            "all that grows is a hack": ("length hacking", "length hacking", "nothing stands out"),
            "the two swapped": ("never finishing", "length hacking", "nothing stands out"),
            "an alarm everywhere": ("length hacking", "never finishing", "KL running away"),
            "two of three": ("length hacking", "never finishing"),
            "a name of its own": ("length hacking", "never finishing", "healthy"),
            "one name": "length hacking",
        },
    }


@pytest.mark.parametrize(
    ("run", "finding"), [("A", "length hacking"), ("B", "never finishing"), ("C", exercises_hacking.NOTHING)]
)
def test_each_log_has_one_reading(run, finding):
    ends = exercises_hacking.LOGS[run]
    assert exercises_hacking._findings(ends) == [finding]
    log = exercises_hacking.straight_log(ends)
    for key, pair in ends.items():
        assert (log[0][key], log[-1][key]) == pytest.approx(pair)
    assert len({ends["reward"] for ends in exercises_hacking.LOGS.values()}) == 1, "the reward tells nothing"
    assert {f.name for f in health.diagnose(log)} <= set(exercises_hacking.SAYINGS)
