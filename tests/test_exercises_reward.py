"""The exercises of 02, with the mistakes that each must refuse."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from exercise_tests import Exercises

from sawyer_utils.classroom.checks import check
from sawyer_utils.losses import bradley_terry


def as_typed(chosen, rejected, margin):
    return -torch.log(1 / (1 + torch.exp(-(chosen - rejected - margin)))).mean()


def capped(chosen, rejected, margin):
    return bradley_terry((chosen - rejected).clamp(min=-50), margin).mean()


def in_plain_python(chosen, rejected, margin):
    return sum(math.log(1 + math.exp(-float(x))) for x in chosen - rejected - margin) / len(chosen)


def share(held, leaked):
    return sum(leaked) / len(held)


def chosen_alone(train, held):
    seen = {pair["chosen"] for pair in train}
    return share(held, [pair["chosen"] in seen for pair in held])


def by_prompt(train, held):
    seen = {pair["prompt"] for pair in train}
    return share(held, [pair["prompt"] in seen for pair in held])


def both_answers(train, held):
    seen = {text for pair in train for text in (pair["chosen"], pair["rejected"])}
    return share(held, [pair["chosen"] in seen and pair["rejected"] in seen for pair in held])


def any_answer(train, held):
    seen = {text for pair in train for text in (pair["chosen"], pair["rejected"])}
    return [pair["chosen"] in seen or pair["rejected"] in seen for pair in held]


def each_in_its_place(train, held):
    chosen, rejected = ({pair[key] for pair in train} for key in ("chosen", "rejected"))
    return share(held, [pair["chosen"] in chosen or pair["rejected"] in rejected for pair in held])


class TestReward(Exercises):
    NOTEBOOK = "02_reward"
    RIGHT: ClassVar[dict] = {
        "02.1": {"two decimals": 1.31, "a tensor": torch.tensor([1.3133])},
        "02.2": {
            "one in a row": lambda c, r, m: F.softplus(r - c + m).mean().view(1),
            "numpy": lambda c, r, m: np.logaddexp(0, (r - c + m).numpy()).mean(),
            "fp64": lambda c, r, m: bradley_terry((c - r).double(), m).mean(),
            "a classifier's loss": lambda c, r, m: F.binary_cross_entropy_with_logits(
                c - r - m, torch.ones(len(c))
            ),
        },
        "02.3": {
            "numpy": lambda gaps: 100 * gaps.numpy(),
            "a list": lambda gaps: [100 * x for x in gaps],
            "no straight line": lambda gaps: 100 * torch.sinh(4 * gaps),
            "a step at zero": lambda gaps: gaps + 10 * gaps.sign(),
        },
        "02.4": {
            "numpy": lambda train, held: np.mean(any_answer(train, held)),
            "one in a row": lambda train, held: torch.tensor([share(held, any_answer(train, held))]),
        },
    }
    NAMES: ClassVar[dict] = {"math": math}
    WRONG: ClassVar[dict] = {
        "02.1": {
            "without the margin": 0.974,
            "the other way round": 0.474,
            "margin added": 0.693,
            "probability": 0.269,
            "sign": -1.313,
            "the sum of the two": 1.0,
            "too large": 3,
        },
        "02.2": {
            "sum instead of mean": lambda c, r, m: bradley_terry(c - r, m).sum(),
            "margin added": lambda c, r, m: bradley_terry(c - r, -m).mean(),
            "margin forgotten": lambda c, r, m: bradley_terry(c - r).mean(),
            "swapped": lambda c, r, m: bradley_terry(r - c, m).mean(),
            "sign": lambda c, r, m: -bradley_terry(c - r, m).mean(),
            "the formula as typed": as_typed,
            "capped": capped,
            "plain Python": in_plain_python,
            "fp64": lambda c, r, m: -(c - r - m).double().sigmoid().log().mean(),
            "one loss a pair": lambda c, r, m: bradley_terry(c - r, m),
        },
        "02.3": {
            "adds a constant": lambda gaps: gaps + 5,
            "squares": lambda gaps: 100 * gaps**2,
            "absolute value": lambda gaps: 100 * gaps.abs(),
            "halves": lambda gaps: gaps / 2,
            "not enough": lambda gaps: 2 * gaps,
            "turns the order round": lambda gaps: 50 / gaps,
            "nothing": lambda gaps: gaps,
            "the signs alone": lambda gaps: 100 * gaps.sign(),
            "three steps": lambda gaps: 100 * gaps.sign() * gaps.abs().ceil().clamp(max=3),
        },
        "02.4": {
            "chosen alone": chosen_alone,
            "same prompt": by_prompt,
            "both answers": both_answers,
            "count instead of share": lambda train, held: sum(any_answer(train, held)),
            "share of the training pairs": lambda train, held: sum(any_answer(train, held)) / len(train),
            "never a leak": lambda train, held: 0.0,
            "each in its place": each_in_its_place,
        },
    }

    def test_the_mistakes_of_a_loss_are_told_apart(self):
        said = {name: check("02.2", wrong).said for name, wrong in self.WRONG["02.2"].items()}
        assert said.pop("fp64") == said["the formula as typed"]
        assert len(set(said.values())) == len(said)
        assert "not finite" in said["the formula as typed"]
        assert "larger margin" in said["margin added"]
