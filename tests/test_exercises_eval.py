"""The exercises of notebook 04: their cells, their judges, and what the judges judge by."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
from exercise_tests import Exercises
from scipy import stats

from sawyer_utils import evaluation
from sawyer_utils.classroom.exercises.eval import FAULTS, SOUND, made_up_interval

NOTHING = "no difference shown"


def half_an_audit(interval):
    """Looks at the sign and at nothing else."""
    return "wrong sign" if interval(np.zeros((50, 1)), np.ones((50, 1)))[1] < 0 else "sound"


def an_audit_without_copies(interval):
    rng = np.random.default_rng()
    change, hard = rng.normal(size=(200, 1)), 9 * rng.normal(size=(200, 1))
    width = 3.92 * change.std() / math.sqrt(200)
    if half_an_audit(interval) != "sound":
        return "wrong sign"
    if np.ptp(interval(0 * change, change)) < 0.92 * width:
        return "wrong tail"
    return "unpaired" if np.ptp(interval(hard, hard + change)) > 1.5 * width else "sound"


def smallest_detectable(effect):
    return next(n for n in range(2, 2000) if evaluation.detectable_mean(n, 1.0) <= effect)


class TestEval(Exercises):
    NOTEBOOK = "04_eval"
    NAMES: ClassVar = {
        "np": np,
        "math": math,
        "stats": stats,
        "evaluation": evaluation,
        "grid": {"first judge": np.random.default_rng(0).normal(size=(40, 16))},
    }
    RIGHT: ClassVar = {
        "04.1": {
            "a list": [np.array([20]), " No difference shown"],
            "few": (14, NOTHING),
            "many": (26, NOTHING),
        },
        "04.2": {
            "not rounded": lambda d: (2.8 / d) ** 2,
            "the package": smallest_detectable,
            "an array": lambda d: np.array([math.ceil((2.8 / d) ** 2) + 2]),
        },
        "04.3": {},
    }
    WRONG: ClassVar = {
        "04.1": {
            "too few": (13, NOTHING),
            "too many": (27, NOTHING),
            "nothing falls": (0, NOTHING),
            "as few as after PPO": (11, NOTHING),
            "everything falls": (40, NOTHING),
            "a verdict on a placebo": (20, "better"),
            "a percentage": (50, NOTHING),
            "no verdict": (20, "equal"),
            "the count alone": 20,
        },
        "04.2": {
            "forgot to square": lambda d: math.ceil(2.8 / d),
            "upside down": lambda d: math.ceil((2.8 * d) ** 2),
            "forgot the power": lambda d: math.ceil((1.96 / d) ** 2),
            "one side": lambda d: math.ceil(((1.645 + 0.84) / d) ** 2),
            "two groups of strangers": lambda d: math.ceil(2 * (2.8 / d) ** 2),
            "nine of ten": lambda d: math.ceil((3.24 / d) ** 2),
            "always plenty": lambda d: 10_000_000,
            "one number for all": lambda d: 100,
        },
        "04.3": {
            "all sound": lambda interval: "sound",
            "all unpaired": lambda interval: "unpaired",
            "the sign alone": half_an_audit,
            "no copies": an_audit_without_copies,
            "a fault that is not on the list": lambda interval: "broken",
        },
    }


@pytest.mark.parametrize("fault", [SOUND, *FAULTS])
def test_each_made_up_interval_has_its_fault_and_no_other(fault):
    rng = np.random.default_rng(0)
    change, hard = rng.normal(size=(300, 1)), 5 * rng.normal(size=(300, 1))
    interval = made_up_interval(fault, rng)
    sound = np.subtract(*evaluation.bootstrap_interval(change[:, 0])[::-1])
    low, high = interval(0 * change, change + 2)
    width = (high - low) / sound
    torn = np.ptp(interval(hard, hard + change)) / sound
    copied = np.ptp(interval(np.zeros((300, 4)), change.repeat(4, 1))) / sound
    assert (low + high < 0) == (fault == "wrong sign")
    assert width == pytest.approx(1.645 / 1.96 if fault == "wrong tail" else 1.0, abs=0.05)
    assert (torn > 3) == (fault == "unpaired")
    assert (copied < 0.6) == (fault == "samples as prompts")


def test_of_samples_each_prompt_counts_once():
    values = np.random.default_rng(1).normal(size=(200, 3))
    expected = evaluation.bootstrap_interval(values.ravel(), np.arange(200).repeat(3))
    found = made_up_interval(SOUND, np.random.default_rng(2))(0 * values, values)
    assert found == pytest.approx(expected, abs=0.02)
