"""The judges of notebook 02's exercises."""

from __future__ import annotations

import random

import torch

from sawyer_utils.classroom.checks import close, exercise, fresh, mistake, number, unlike
from sawyer_utils.losses import bradley_terry


@exercise(
    "02.1",
    hints=(
        "Which score is subtracted from which? Here the chosen answer is the one with the lower score.",
        "The margin is subtracted too: it asks for a lead that is not there.",
        "The loss is log(1 + e^−x), with x what is left after both subtractions.",
    ),
    lesson="A judge who is behind pays for that and for the margin: 0.97 nats without it, 1.31 with it. "
    "Further down, −log σ(x) is nearly −x. Such pairs pull hardest, mislabelled ones too.",
)
def _(answer):
    found = number(answer)
    difference = torch.tensor(2.0 - 2.5)
    wanted = float(bradley_terry(difference, 0.5))
    if abs(found - wanted) < 0.01:
        return None
    seen = {
        "That is the loss without the margin.": bradley_terry(difference),
        "That is the loss of a judge who puts the chosen answer ahead.": bradley_terry(-difference),
        "That is the price of a coin flip: the margin was added, not subtracted.": bradley_terry(
            difference, -0.5
        ),
        "That is a probability, not a loss.": torch.sigmoid(difference - 0.5),
        "That is the logarithm without its minus sign.": -bradley_terry(difference, 0.5),
    }
    return mistake(found, seen, f"That is too {'small' if found < wanted else 'large'}.", 0.01)


@exercise(
    "02.2",
    hints=(
        "Try it on two equal scores without a margin: it must be the price of a coin flip.",
        "What happens to the result when 5 is added to all scores? And when the margins grow?",
        "For a pair that is badly lost, e to the power of the difference does not fit a float. "
        "`torch.nn.functional` has this function in one piece, where it cannot overflow.",
    ),
    lesson="One line, and the same as `losses.bradley_terry`. Written out as −log(1 / (1 + e^−x)) it is "
    "infinite on pairs that are lost by a hundred, and a single such pair ruins the step.",
)
def _(answer):
    for _ in range(3):
        chosen, rejected = 2 * torch.randn(2, 6, generator=fresh())
        margin = torch.rand(6, generator=fresh())
        wanted = bradley_terry(chosen - rejected, margin)
        found = number(answer(chosen, rejected, margin))
        if not close(found, wanted.mean()):
            return _wrong_preference(found, chosen - rejected, margin)
    lost = torch.tensor([-60.0, -1000.0])  # the second overflows in fp64, too
    found = answer(lost, -lost, torch.zeros(2))
    if not torch.as_tensor(found).isfinite().all():
        return "Where the chosen answer is behind by more than a hundred, the loss is not finite."
    return None if close(number(found), 1060.0, 1e-3) else "Pairs that are badly lost cost too little."


def _wrong_preference(found: float, difference, margin) -> str:
    right = bradley_terry(difference, margin)
    seen = {
        "The result grows with the number of pairs.": right.sum(),
        "A larger margin makes the loss smaller.": bradley_terry(difference, -margin).mean(),
        "The margin makes no difference.": bradley_terry(difference).mean(),
        "It is lower where the rejected answer is ahead.": bradley_terry(-difference, margin).mean(),
        "The sign is wrong: a won pair has the higher loss.": -right.mean(),
    }
    return mistake(found, seen, "On fresh scores it is another number than the mean loss of the pairs.")


@exercise(
    "02.3",
    hints=(
        "A choice is the sign of a difference. What can you do to a number without touching its sign?",
        "The calls are σ(difference). Where does σ come close to 1?",
    ),
    lesson="Not one choice changed, so the accuracy is what it was, and the judge is now sure of its "
    "mistakes too. Accuracy cannot see that; the calibration error can. A temperature undoes it.",
)
def _(answer):
    for _ in range(3):
        gaps = torch.randn(40, generator=fresh())
        gaps += 0.05 * gaps.sign()  # none so close to a tie that rounding decides
        found = answer(gaps)
        close(found, gaps)  # of the same shape, and finite
        found = torch.as_tensor(found).double()
        if (found.sign() != gaps.sign()).any():
            return "Some choice changed: another answer of the pair is ahead now."
        order = found[gaps.argsort()].diff()
        if (order < 0).any():
            return "Two differences changed places: a pair that was called more surely now comes behind."
        if (order[gaps.sort().values.diff() > 0.01] == 0).any():  # closer ones rounding may join
            return "Two differences that were apart are the same now: their order is lost."
        said = float(torch.sigmoid(found.abs()).mean())
        if said < 0.99:
            return f"It says {unlike(said, 0.99)} on average: not sure enough of itself."
    return None


@exercise(
    "02.4",
    hints=(
        "Collect what was seen in training first. In how many places of a pair can an answer stand?",
        "An answer may be the chosen one of one pair and the rejected one of another.",
        "Count held-out pairs, each once, and divide by their number.",
    ),
    lesson="Split by pair, many held-out pairs hold an answer that was graded in training, and the accuracy "
    "on them is partly memory. Split by prompt, the share is zero. Ask for the unit of every split.",
)
def _(answer):
    for by_prompt in (False, True, False, False):
        train, held = split(by_prompt)
        seen = {text for pair in train for text in (pair["chosen"], pair["rejected"])}
        wanted = sum(pair["chosen"] in seen or pair["rejected"] in seen for pair in held) / len(held)
        found = number(answer(train, held))
        if abs(found - wanted) < 1e-6:
            continue
        if not 0 <= found <= 1:
            return "A share lies between 0 and 1."
        if by_prompt:
            return "It finds a leak in a split by prompt, where no answer stands on both sides."
        return f"On a small leaky split it finds too {'few' if found < wanted else 'many'} pairs."
    return None


def split(by_prompt: bool):
    """Fresh pairs ``{"prompt", "chosen", "rejected"}`` of 8 prompts, split into train and held out."""
    dice = random.Random()
    made = []
    for prompt in range(8):
        texts = [f"answer {prompt}.{i}.{dice.random():.6f}" for i in range(5)]
        ranks = [(i, j) for i in range(5) for j in range(i + 1, 5)]
        for i, j in dice.sample(ranks, 4):
            made.append({"prompt": f"question {prompt}", "chosen": texts[i], "rejected": texts[j]})
    if by_prompt:
        return made[:20], made[20:]
    dice.shuffle(made)
    return made[:10], made[10:]
