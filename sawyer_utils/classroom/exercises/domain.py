"""The judges of notebook 08's exercises. The small text is made up anew at each check."""

from __future__ import annotations

import torch

from sawyer_utils.chapters import domain
from sawyer_utils.classroom.checks import Wrong, exercise, fresh, kind, number, unlike
from sawyer_utils.evaluation import mcnemar_p

WORDS = ("amber", "bolt", "cedar", "drum", "ember", "fern", "gale", "hazel", "ivory", "jade", "kelp", "lark")


def whole(answer) -> int:
    """The answer as a whole number, 0 or more.

    Raises:
        Wrong: if it is none.
    """
    value = number(answer)
    if value != round(value) or value < 0:
        raise Wrong("One counts in whole numbers, none of them below zero.")
    return int(value)


def made_up_facts(size: int = 5) -> list[dict]:
    """Facts with keys that nobody could have written into an answer beforehand."""
    order = torch.randperm(len(WORDS), generator=fresh()).tolist()
    years = torch.randint(1000, 2000, (size,), generator=fresh()).tolist()
    rows = []
    for i, year in enumerate(years):
        key, other = WORDS[order[i]], WORDS[order[i + size]]
        rows.append(
            {
                "id": f"d-{i}",
                "question": f"What stands on shelf {i}?",
                "keys": [f"{key} {year}"],
                "choices": [f"{other} {year}", f"{key} {year}"],
                "label": 1,
            }
        )
    return rows


def p_of(gained: int) -> float:
    """McNemar's p where one model has ``gained`` of 24 questions right and the other none."""
    return mcnemar_p([False] * 24, [i < gained for i in range(24)])


@exercise(
    "08.1",
    hints=(
        "McNemar's test looks only at the questions that just one of the two got right. How many are those?",
        "If both were equally good, each of them would be a coin toss. How likely is it that all fall on one "
        "side?",
        "Either side would have been a surprise, so double that probability. From how many tosses on is it "
        "below 0.05?",
    ),
    lesson="k questions won and none lost have a p of 2 · ½ᵏ. Five wins out of five are 0.06, and six are "
    "the first that a coin would rarely give, out of 24 questions or of a thousand.",
)
def _(answer):
    gained = whole(answer)
    if gained > 24:
        return "There are only 24 questions."
    if (p := p_of(gained)) >= 0.05:
        return f"A coin would do that too easily: the exact p is {p:.3f}."
    if p_of(gained - 1) < 0.05:
        return "A smaller number of questions gained would be enough already."
    return None


@exercise(
    "08.2",
    hints=(
        "The share is one of the whole mixture, and the mixture has the lessons in it as well.",
        "Call the old conversations n. Which fraction of n and the lessons has to equal the share?",
        "n = share · (lessons + n). Bring n to one side, and round at the very end.",
    ),
    lesson="n = lessons · share / (1 − share). At one half it is one old conversation for each new one, at "
    "nine tenths nine: a replay that is most of the mixture costs most of the time.",
)
def _(answer):
    for rest in (2, 5):  # of sevenths: for 0.3, six sevenths too few or too many are cut off
        taught = 7 * int(torch.randint(3, 29, (1,), generator=fresh())) + rest
        for share in (0.0, 0.25, 0.3, 0.45, 0.5, 0.9):
            found = whole(answer(taught, share))
            if found == round(taught * share / (1 - share)):
                continue
            came = unlike(found / (found + taught), share)
            return f"With {taught} lessons, a share of {share} was asked for and {came} came out."
    return None


@exercise(
    "08.3",
    hints=(
        "Read `domain.knows`. Does it care what else an answer says?",
        "One text shall be right for every question. What must stand in it for each of them?",
        "`row['keys'][0]` of each row, and something to join them.",
    ),
    lesson="A judge that looks for one word is won by saying all of them. It suits a model that was never "
    "trained on it; a reward must not be made of it, or a model would find this text, too.",
)
def _(answer):
    for _ in range(3):
        facts = made_up_facts()
        text = answer(facts)
        if not isinstance(text, str):
            raise Wrong(f"One text is asked for; this is {kind(text)}.")
        right = domain.knows([text] * len(facts), facts)
        if not right.all():
            return f"The judge takes it for the answer to {right.sum()} of {len(facts)} questions."
    return None
