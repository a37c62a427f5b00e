"""Notebook 05's exercises: right answers, named mistakes and nonsense."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from exercise_tests import Exercises


def leave_one_out(rewards):
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


class TestVersus(Exercises):
    NOTEBOOK = "05_ppo_vs_dpo"
    NAMES: ClassVar[dict] = {"math": math}
    RIGHT: ClassVar[dict] = {
        "05.1": {"two decimals": 0.554, "a tensor": torch.tensor([0.5544])},
        "05.2": {
            "numpy": lambda rewards: leave_one_out(rewards).numpy(),
            "a list": lambda rewards: leave_one_out(rewards).tolist(),
        },
        "05.3": {
            "an array": lambda training, n, tokens: np.array([training / ((n - 1) * tokens)]),
            "rounded up": lambda training, n, tokens: math.ceil(training / ((n - 1) * tokens)),
            "rounded down": lambda training, n, tokens: training // ((n - 1) * tokens),
        },
        "05.4": {
            "a list": [-31, -47, -30, -40],
            "a tensor": torch.tensor([-31.0, -47.0, -30.0, -40.0]),
            "an array": np.array([-31.0, -47.0, -30.0, -40.0]),
        },
    }
    WRONG: ClassVar[dict] = {
        "05.1": {
            "turned round": math.log1p(math.exp(0.3)),
            "without β": math.log1p(math.exp(-3)),
            "the chosen one alone": math.log1p(math.exp(0.2)),
            "no reference": math.log1p(math.exp(-1.3)),
            "the margin": 0.3,
            "not negated": -math.log1p(math.exp(-0.3)),
            "at the start": math.log(2),
        },
        "05.2": {
            "each in its own baseline": lambda r: r - r.mean(1, keepdim=True),
            "the mean of all": lambda r: r - r.mean(),
            "down the columns": lambda r: r - (r.sum(0, keepdim=True) - r) / max(1, r.shape[0] - 1),
            "the baseline itself": lambda r: (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1),
            "turned round": lambda r: (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1) - r,
            "by n": lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1],
            "whitened": lambda r: (r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True),
            "one a prompt": lambda r: r.mean(1),
        },
        "05.3": {
            "by n": lambda training, n, tokens: training / (n * tokens),
            "without the tokens": lambda training, n, tokens: training / (n - 1),
            "one answer more": lambda training, n, tokens: training / ((n + 1) * tokens),
            "upside down": lambda training, n, tokens: (n - 1) * tokens / training,
            "times": lambda training, n, tokens: training * (n - 1) / tokens,
            "for any n": lambda training, n, tokens: training / tokens,
        },
        "05.4": {
            "the chosen one rose": (-29.0, -47.0, -30.0, -40.0),
            "the loss rose": (-35.0, -41.0, -30.0, -40.0),
            "both by the same": (-35.0, -45.0, -30.0, -40.0),
            "chances": (0.2, 0.1, 0.3, 0.3),
            "above zero": (-31.0, 4.0, -30.0, 5.0),
            "three numbers": (-31.0, -47.0, -30.0),
            "nested": [[-31.0, -47.0], [-30.0, -40.0]],
        },
    }
