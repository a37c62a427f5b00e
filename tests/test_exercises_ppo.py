"""The exercises of notebook 03: their cells, their judges, and what the judges judge by."""

from __future__ import annotations

import statistics
from typing import ClassVar

import numpy as np
import pytest
import torch
from exercise_tests import Exercises

from sawyer_utils import health, losses
from sawyer_utils.classroom.checks import check, fresh
from sawyer_utils.classroom.exercises import ppo as exercises_ppo

torch.set_num_threads(1)


def slow_gae(rewards, values, mask, gamma, lam):
    """A_t = Σ_l (γλ)^l δ_(t+l), summed token by token."""
    found = torch.zeros_like(rewards)
    for row, n in enumerate(mask.sum(1).tolist()):
        guesses = [*values[row, :n].tolist(), 0.0]
        deltas = [float(rewards[row, t]) + gamma * guesses[t + 1] - guesses[t] for t in range(n)]
        for t in range(n):
            found[row, t] = sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n))
    return found


def whitened(*args):
    advantages = slow_gae(*args)
    return (advantages - advantages.mean()) / advantages.std(unbiased=False)


def forwards(rewards, values, mask, gamma, lam):
    turned = [x.flip(1) for x in (rewards, values, mask)]
    return slow_gae(*turned, gamma, lam).flip(1)


def unclipped_when_bad(ratio, advantages, clip):
    return ratio.clamp(max=1 + clip) * advantages, ratio > 1 + clip


def surrogate(ratio, advantages, clip):
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def outside(ratio, clip):
    return (ratio - 1).abs() > clip


def by_the_end(log, length=0.0, kl=20.0):
    last = {key: statistics.mean(line[key] for line in log[-3:]) for key in ("kl", "length", "finished")}
    if last["length"] < (length or 0.5 * log[0]["length"]):
        return "collapse"
    if last["kl"] > kl:
        return "KL running away"
    return "never finishing" if last["finished"] < 0.7 else "healthy"


def at_one_bad_step(log):
    return "KL running away" if max(line["kl"] for line in log) > 20 else by_the_end(log)


def at_the_last_step(log):
    return by_the_end([log[0], *[log[-1]] * 3])


def without_the_finished(log):
    said = by_the_end([{**line, "finished": 1.0} for line in log])
    longer = statistics.mean(line["length"] for line in log[-3:]) > 1.3 * log[0]["length"]
    return "never finishing" if said == "healthy" and longer else said


def my_gae(*batch):
    return losses.gae(*batch)[0]


def silent(ratio, advantages, clip):
    return surrogate(ratio, advantages, clip) != ratio * advantages


def by_cases(ratio, advantages, clip):
    silent = [(a > 0 and r > 1 + clip) or (a < 0 and r < 1 - clip) for r, a in zip(ratio, advantages)]
    return surrogate(ratio, advantages, clip), torch.tensor(silent)


class TestPPO(Exercises):
    NOTEBOOK = "03_ppo"
    RIGHT: ClassVar = {
        "03.1": {"a tensor": torch.tensor([0.2, 0.4]), "an array": np.array([0.2, 0.4])},
        "03.2": {
            "a list": lambda *batch: my_gae(*batch).tolist(),
            "numpy": lambda *batch: my_gae(*batch).double().numpy(),
        },
        "03.3": {
            "lists": lambda *batch: [surrogate(*batch).tolist(), silent(*batch).tolist()],
            "numpy": lambda *batch: (surrogate(*batch).numpy(), silent(*batch).numpy()),
            "by cases": by_cases,
        },
        "03.4": {
            "the last three": by_the_end,
            "the package": lambda log: [*(finding.name for finding in health.diagnose(log)), "healthy"][0],
        },
    }
    NAMES: ClassVar = {"statistics": statistics}
    WRONG: ClassVar = {
        "03.1": {
            "the sign of the second k1": (-0.2, 0.4),
            "the sign of the KL": (-0.2, 1.6),
            "the β of section 2": (0.02, 0.94),
            "the score on every token": (1.2, 3.4),
            "the two swapped": (0.4, 0.2),
            "one number": 0.2,
        },
        "03.2": {
            "forgot the mask": lambda r, v, m, g, k: slow_gae(r, v, torch.ones_like(m), g, k),
            "masked only the result": lambda r, v, m, g, k: slow_gae(r, v, torch.ones_like(m), g, k) * m,
            "left the guesses in the padding": lambda r, v, m, g, k: slow_gae(r, v, m, g, k) - v * ~m,
            "returns whitened": whitened,
            "returns the returns": lambda r, v, m, g, k: slow_gae(r, v, m, g, k) + v * m,
            "both advantages and returns": losses.gae,
            "forgot γ": lambda r, v, m, g, k: slow_gae(r, v, m, 1.0, k),
            "forgot λ": lambda r, v, m, g, k: slow_gae(r, v, m, g, 1.0),
            "forwards": forwards,
        },
        "03.3": {
            "clipped always": lambda r, a, c: (r.clamp(1 - c, 1 + c) * a, outside(r, c)),
            "clipped from above only": unclipped_when_bad,
            "the larger of the two": lambda r, a, c: (torch.maximum(r * a, r.clamp(1 - c, 1 + c) * a), r < 0),
            "the loss": lambda r, a, c: (-surrogate(r, a, c), outside(r, c)),
            "everybody outside is silent": lambda r, a, c: (surrogate(r, a, c), outside(r, c)),
            "nobody is silent": lambda r, a, c: (surrogate(r, a, c), r < 0),
            "the silent as numbers": lambda r, a, c: (surrogate(r, a, c), outside(r, c).float()),
            "forgot the silent": lambda r, a, c: surrogate(r, a, c),
        },
        "03.4": {
            "always healthy": lambda log: "healthy",
            "short is sick": lambda log: by_the_end(log, length=10.0),
            "alarm at one bad step": at_one_bad_step,
            "the last step alone": at_the_last_step,
            "longer is unfinished": without_the_finished,
            "any KL is too much": lambda log: by_the_end(log, kl=4.0),
            "the reward rises, so all is well": lambda log: (
                "healthy" if log[-1]["reward"] > log[0]["reward"] else "collapse"
            ),
            "a name of its own": lambda log: "sick",
        },
    }


def test_the_slow_sum_is_what_the_judge_compares_with():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 5, 8, generator=generator)
    mask = torch.arange(8) < torch.tensor([[8], [1], [3], [7], [5]])
    expected, _ = losses.gae(rewards, values, mask, 0.9, 0.7)
    assert torch.allclose(slow_gae(rewards, values, mask, 0.9, 0.7), expected, atol=1e-6)


@pytest.mark.parametrize("of", [torch.Tensor.tolist, torch.Tensor.numpy])
def test_what_stands_outside_the_mask_is_told_of_any_kind_of_numbers(of):
    said = check("03.2", lambda r, v, m, g, k: of(my_gae(r, v, m, g, k) + ~m)).said
    assert "outside the mask" in said


@pytest.mark.parametrize("name", [exercises_ppo.HEALTHY, *exercises_ppo.SICKNESSES])
def test_the_packages_own_diagnosis_of_the_made_up_logs(name):
    generator = fresh()
    for i in range(60):
        log = exercises_ppo.made_up_log(name, i % 2 == 0, generator)
        found = [finding.name for finding in health.diagnose(log)]
        assert found == [name] * (name != exercises_ppo.HEALTHY)
