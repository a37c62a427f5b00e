"""The judges of notebook 10's exercises."""

from __future__ import annotations

import math

from sawyer_utils.classroom.checks import close, exercise, number, uniform, unlike

WRITER, JUDGE = 0.6, 0.8


@exercise(
    "10.1",
    hints=(
        "The judge can be right in two ways. In one of them the writer would have been wrong.",
        "Of ten pairs the writer is right about six. About how many of these does the judge agree with it?",
        "Add the pairs in which both are right to those in which the writer errs and the judge errs from it.",
    ),
    lesson="0.6 · 0.8 + 0.4 · 0.2 = 0.56. With independent errors a pupil lands nearer to one half than its "
    "teacher. Only errors of the teacher that look like noise are averaged out; a taste is learned.",
)
def _(answer):
    value = number(answer)
    right = WRITER * JUDGE + (1 - WRITER) * (1 - JUDGE)
    if close(value, right, 1e-2):
        return None
    if close(value, WRITER * JUDGE, 1e-2):
        return "That counts the pairs in which both are right, and no others."
    if not 0 <= value <= 1:
        return "A share lies between 0 and 1."
    side = "more" if value < right else "less"
    return f"Of a thousand made-up pairs the judge is right about {side} of them."


@exercise(
    "10.2",
    hints=(
        "Write the log-odds of both orders as s + b and −s + b: s is what it thinks of `a`, b its taste for "
        "the first place.",
        "Which combination of the two has no b in it, and s just once?",
        "Half the difference is s. The logistic function (02, section 2) makes a probability of it.",
    ),
    lesson="Half the difference of the two loses whatever the place adds, and keeps the rest. It "
    "costs twice as many questions, and mends this one bias and no other.",
)
def _(answer):
    for _ in range(4):
        taste, place = uniform(0.3, 1.4), uniform(2.5, 4.0)  # what is shown is no probability
        taste, place = (x if uniform(-1, 1) > 0 else -x for x in (taste, place))
        found, wanted = number(answer(taste + place, -taste + place)), 1 / (1 + math.exp(-taste))
        if close(found, wanted, 1e-3):
            continue
        shown = f"With {taste + place:.2f} in the first order and {-taste + place:.2f} in the other"
        if not 0 <= found <= 1:
            return f"{shown} you give {unlike(found, round(found))}, which is no probability."
        if close(found, 1 - wanted, 1e-3):
            return f"{shown} yours is the probability that `b` is better."
        if close(found, 1 / (1 + math.exp(-2 * taste)), 1e-3):
            return f"{shown} the place cancels in yours, but what the model thinks of `a` counts twice."
        return f"{shown} your probability still changes if the same number is added to both."
    return None
