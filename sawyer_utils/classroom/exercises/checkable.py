"""The judges of notebook 09's exercises."""

from __future__ import annotations

import math

import torch

from sawyer_utils.chapters import checkable
from sawyer_utils.classroom.checks import Wrong, close, exercise, fresh, kind, mistake, number, uniform


@exercise(
    "09.1",
    hints=(
        "Ask the opposite: with what chance do four drawn answers hold no right one?",
        "Four of the wrong ones, out of all ways to draw four of all answers: `math.comb` counts both.",
    ),
    lesson="1 − C(N − c, k)/C(N, k). Drawing with replacement would say less; the formula uses each of the "
    "sampled answers and needs no luck.",
)
def _(answer):
    right = 1 - math.comb(7, 4) / math.comb(10, 4)
    found = number(answer)
    if abs(found - right) < 0.002:
        return None
    mistakes = {
        "That is the chance that all four are wrong.": 1 - right,
        "That is pass@1.": 3 / 10,
        "That draws with replacement: no answer is drawn twice.": 1 - 0.7**4,
        "That adds up four chances; more than one of the four may be right.": 4 * 3 / 10,
    }
    return mistake(found, mistakes, "One answer or more of the four has to be right.", 0.002)


@exercise(
    "09.2",
    hints=(
        "The advantage is a reward less the mean of the others. When is it zero for all of a row?",
        "It is not about low rewards: four right answers are as silent as four wrong ones.",
        "Compare a row's largest reward with its smallest: `.max(1).values`, `.min(1).values`.",
    ),
    lesson="All answers of a group score the same: all wrong (too hard), all right (too easy), or a reward "
    "that is always one number (a check that never matches). TRL logs it as frac_reward_zero_std.",
)
def _(answer):
    for high in (1.0, 0.25):
        rewards = high * torch.randint(0, 2, (12, 4), generator=fresh()).double()
        rewards[0], rewards[1], rewards[2] = 0.0, high, torch.tensor([0.0, high, 0.0, high])
        right = rewards.max(1).values == rewards.min(1).values
        found = answer(rewards)
        if close(found, right.double()):
            continue
        found = torch.as_tensor(found)
        if found[0] and not found[1]:
            return "A prompt whose answers are all right is not in yours, and it gives no gradient either."
        if found[2]:
            return "A prompt with two right and two wrong answers is in yours, and it has a gradient."
        return "A prompt is silent if and only if all of its answers got the same reward."
    return None


@exercise(
    "09.3",
    hints=(
        "Two ways to get the same reward: all right, or all wrong.",
        "Independent chances multiply, and the two ways exclude each other.",
    ),
    lesson="pⁿ + (1 − p)ⁿ: least where half of the answers are right. At a pass@1 of a tenth, groups of four "
    "are silent two times in three; larger groups help, and so do easier tasks.",
)
def _(answer):
    for n in (2, 4, 8):
        p = uniform(0.15, 0.45)
        found, right = number(answer(p, n)), p**n + (1 - p) ** n
        if abs(found - right) < 1e-4:
            continue
        mistakes = {
            "That is the chance of all wrong; all right is silent, too.": (1 - p) ** n,
            "That is the chance of all right; all wrong is silent, too.": p**n,
            "That is the chance that they differ.": 1 - right,
        }
        said = f"For p = {p:.2f} and n = {n} that is not the chance that all of them agree."
        return mistake(found, mistakes, said)
    return None


@exercise(
    "09.4",
    hints=(
        "Read `checkable.is_list`: what makes a list? Then what else a right answer needs.",
        "The number of items decides, or that they differ. Which of the two can go wrong for all numbers?",
    ),
    lesson="A policy that is paid for the form finds the cheapest text that has it. What you want has to be "
    "in the check, and what is in the check is all that you get.",
)
def _(answer):
    if not isinstance(answer, str):
        raise Wrong(f"A text is asked for; this is {kind(answer)}.")
    task = checkable.own_task("list", train=8, test=4)
    if not task.form(answer):
        return "The form is not there: two items or more between commas, each of one to three words."
    right = [n for n in range(2, 6) if task.check(answer, str(n))]
    return f"For a list of {right[0]} your text is right." if right else None
