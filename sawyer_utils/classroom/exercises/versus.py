"""The judges of notebook 05's exercises. Numbers are drawn anew at each check, but for the first."""

from __future__ import annotations

import math

import torch

from sawyer_utils.classroom.checks import Wrong, close, exercise, fresh, number, unlike
from sawyer_utils.losses import dpo_loss

LOSS_OF = (-42.0, -55.0, -40.0, -50.0, 0.1)  # 05.1: policy chosen and rejected, reference both, β


def loss_of(chosen: float, rejected: float, ref_chosen: float, ref_rejected: float, beta: float) -> float:
    """DPO's loss of one pair."""
    sums = (torch.tensor([x], dtype=torch.double) for x in (chosen, rejected, ref_chosen, ref_rejected))
    return float(dpo_loss(*sums, beta=beta))


@exercise(
    "05.1",
    hints=(
        "First each answer by itself: how much likelier or less likely is it than under the reference?",
        "Take the change of the rejected one from the change of the chosen one. Which sign does that have?",
        "Times β, and then Bradley and Terry's loss: minus the logarithm of a logistic function.",
    ),
    lesson="The chosen answer became less likely, the rejected one still less, and the loss is below that of "
    "the start, log 2. DPO asks for a difference, not for the chosen answer.",
)
def _(answer):
    found = number(answer)
    if abs(found - loss_of(*LOSS_OF)) < 0.002:
        return None
    if found < 0:
        return "A loss that is minus the logarithm of a chance cannot be below zero."
    if abs(found - loss_of(-55.0, -42.0, -50.0, -40.0, 0.1)) < 0.002:
        return "That is the loss if the pair had been turned round."
    if found >= math.log(2):
        return "The policy has moved in the right direction: the loss is below that of the start."
    return "The direction is right, but not the size."


@exercise(
    "05.2",
    hints=(
        "Each answer is compared with the mean of the others to the same prompt. Is it one of them itself?",
        "The sum of the others is the row's sum less the reward itself. How many others are there?",
        "`rewards.sum(1, keepdim=True)` is (P, 1) and goes with (P, n).",
    ),
    lesson="No critic: the other answers to the same prompt say what was to be expected. It costs several "
    "answers a prompt. And each row sums to zero: where all are equally good, nobody learns.",
)
def _(answer):
    for prompts, n in ((3, 4), (5, 2), (1, 7)):
        rewards = torch.randn(prompts, n, generator=fresh(), dtype=torch.double) + 2.0
        found = answer(rewards)
        others = torch.stack([rewards[:, [j for j in range(n) if j != i]].mean(1) for i in range(n)], 1)
        if close(found, rewards - others):
            continue
        found = torch.as_tensor(found).detach().double()
        if found.shape == rewards.shape and found.sum(1).abs().max() > 1e-4:
            total = float(found.sum(1)[found.sum(1).abs().argmax()])
            return f"A row of yours sums to {unlike(total, 0)}; the advantages of one prompt cancel."
        if close(found, rewards - rewards.mean(1, keepdim=True)):
            return f"With {n} answers a prompt yours are too small: each is in its own baseline."
        return "A reward less the mean of the other rewards in its row is wanted."
    return None


@exercise(
    "05.3",
    hints=(
        "Both answer the same number of questions. What does each of the two generate for one question?",
        "The trained model pays first, and then one answer a question; the other n answers from the start.",
        "After how many questions are the extra answers as many tokens as the training has cost?",
    ),
    lesson="tokens of training / ((n − 1) · tokens an answer). Below that many questions, sampling more is "
    "cheaper; above it, training. This counts generated tokens alone, and says nothing on who is better.",
)
def _(answer):
    for n in (2, 4, 16):
        training = int(torch.randint(2_000, 90_000, (1,), generator=fresh()))
        tokens = int(torch.randint(10, 60, (1,), generator=fresh()))
        found, right = number(answer(training, n, tokens)), training / ((n - 1) * tokens)
        if abs(found - right) < 1:  # a whole question more or less
            continue
        trained, sampled = training + found * tokens, found * n * tokens
        return (
            f"With n = {n}, at the number that you give one has generated {trained:,.0f} tokens and the "
            f"other {sampled:,.0f}."
        )
    return None


@exercise(
    "05.4",
    hints=(
        "The loss knows one number of a pair: change of the chosen less change of the rejected.",
        "Let the chosen answer fall by some nats. What must the rejected one do for the loss to fall, too?",
        "Choose the reference's two sums freely, then both of the policy's lower, the rejected one by more.",
    ),
    lesson="Such a model has learned to dislike, not to like: what it says instead of both, no pair has "
    "judged. That is why the log shows both answers' log-probs, and why the gold judge reads fresh ones.",
)
def _(answer):
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if not isinstance(answer, (list, tuple)) or len(answer) != 4:
        raise Wrong("Four numbers are wanted: policy chosen, policy rejected, reference chosen and rejected.")
    chosen, rejected, ref_chosen, ref_rejected = map(number, answer)
    if max(chosen, rejected, ref_chosen, ref_rejected) > 0:
        return "A log-probability is never above zero."
    if chosen >= ref_chosen:
        return "The chosen answer has to be less likely than under the reference; yours is not."
    loss = loss_of(chosen, rejected, ref_chosen, ref_rejected, beta=0.1)
    return None if loss < math.log(2) - 1e-6 else "The loss of your pair is not below that of the start."
