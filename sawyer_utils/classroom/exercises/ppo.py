"""The judges of notebook 03's exercises."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sawyer_utils import losses
from sawyer_utils.classroom.checks import choice, close, exercise, fresh, number, uniform

HEALTHY = "healthy"
SICKNESSES = ("KL running away", "collapse", "never finishing")  # as health.diagnose calls them
CLIPS = (0.1, 0.15, 0.25, 0.3)


@exercise(
    "03.1",
    hints=(
        "Section 2 does it for β = 0.1. Which part of a token's pay has β in it, and which has not?",
        "Token t earns −β · k1, and only the last one gets the score on top. Mind the sign of the second k1.",
        "All four together earn the score less β times the sum of the k1, which section 1 prints.",
    ),
    lesson="β is the exchange rate between score and drift. At 1, drift of 0.6 nats eats more than half of a "
    "score of 1; at 0.1 it is small change. At any β, what the reference likes better is paid for.",
)
def full_price(answer):
    """(second token, whole answer) of section 2, for β = 1."""
    second, whole = map(number, answer)
    k1 = 0.2, -0.2, 0.6, 0.0  # nats, as section 1 prints them
    right = close(second, -k1[1], 1e-3), close(whole, 1 - sum(k1), 1e-3)
    if all(right):
        return None
    if right[0]:
        return "The second token is right, the whole answer is not."
    return (
        "The whole answer is right, the second token is not." if right[1] else "Neither of the two is right."
    )


@exercise(
    "03.2",
    hints=(
        "Section 3 has it for one row of four tokens. With columns in place of numbers it does a batch.",
        "After the last token of an answer nothing is left to earn. What does your V(t + 1) say there?",
        "Going backwards, the loop meets the padding first. It should come out of it with nothing in hand.",
    ),
    lesson="The guess after the stop token is zero, not whatever stands in the padding. Forget it and short "
    "answers learn from noise, while a test with answers of one length sees nothing.",
)
def gae(answer):
    """f(rewards, values, mask, gamma, lam) -> advantages, all (B, R), zero outside the mask."""
    generator = fresh()
    rewards, values = torch.randn(2, 6, 12, generator=generator)
    whole = torch.ones(6, 12).bool()
    settings = uniform(0.8, 0.98, generator), uniform(0.3, 0.9, generator)
    wanted, returns = losses.gae(rewards, values, whole, *settings)
    found = answer(rewards, values, whole, *settings)
    if not close(found, wanted):
        return _wrong_gae(answer, found, returns, (rewards, values, whole), settings)
    lengths = torch.randint(1, 12, (6, 1), generator=generator)
    lengths[0] = 12
    mask = torch.arange(12) < lengths
    wanted, _ = losses.gae(rewards, values, mask, *settings)
    found = answer(rewards, values, mask, *settings)
    if close(found, wanted):
        return None
    if close(torch.where(mask, torch.as_tensor(found), 0.0), wanted):
        return "Every token's advantage is right, but outside the mask there is something else than zero."
    return "Where all answers are equally long you are right; in a batch with shorter ones you are not."


def _wrong_gae(answer, found, returns: Tensor, batch: tuple, settings: tuple) -> str:
    """What is seen of an answer that is wrong without any padding."""
    (gamma, lam), found = settings, torch.as_tensor(found).detach().double()
    if abs(float(found.mean())) < 1e-3 and abs(float(found.var(unbiased=False)) - 1) < 1e-2:
        return "Your advantages have mean 0 and variance 1 whatever the rewards are: that is a later step."
    if close(found, returns):
        return "A critic whose guesses all come true leaves advantages of zero; yours are not."
    for part, name in (((1.0, lam), "γ"), ((gamma, 1.0), "λ"), ((1.0, 1.0), "γ and λ")):
        if close(answer(*batch, *part), losses.gae(*batch, *part)[0]):
            return f"With {name} at 1 your numbers are right, below it they are not."
    return "Even without padding, the definition of δ and A in section 3 gives other numbers."


@exercise(
    "03.3",
    hints=(
        "Compute ρ A and clip(ρ) A. Where they differ, which one counts? See the two pictures of section 4.",
        "The surrogate takes the lower of the two, token by token, for good tokens and for bad ones.",
        "No gradient is left where a token went too far in the direction that pays. Where for each sign?",
    ),
    lesson="Outside the band is not enough to end the gradient: in two of the four cases a token is still "
    "pushed back, however far it went. The share `clipped` in the log counts all four.",
)
def clipped(answer):
    """f(ratio, advantages, clip) -> (surrogate to maximise, True where it has no slope), (n,) each."""
    generator = fresh()
    clip = CLIPS[int(torch.randint(len(CLIPS), (), generator=generator))]
    reach = clip + 0.05 + 0.5 * torch.rand(3, 8, generator=generator)
    inside = clip * (1.8 * torch.rand(8, generator=generator) - 0.9)
    ratio = torch.cat([1 + reach[0], 1 - reach[1], 1 + reach[2], 1 + inside]).clamp(min=0.05)
    size = 0.2 + torch.rand(32, generator=generator)
    advantages = size * torch.tensor([1.0, -1.0]).repeat(16)
    new = ratio.log().requires_grad_()
    wanted = -losses.policy_loss(new, torch.zeros(32), advantages, clip)
    (slope,) = torch.autograd.grad(wanted.sum(), new)
    surrogate, silent = answer(ratio, advantages, clip)
    if not close(surrogate, wanted):
        if close(-torch.as_tensor(surrogate), wanted):
            return "Your surrogate falls where it should rise: it is the loss, not what is to be maximised."
        off = _first((torch.as_tensor(surrogate) - wanted).abs() > 1e-4)
        return f"Your surrogate is wrong for {_token(ratio, advantages, clip, off)}."
    silent = torch.as_tensor(silent)
    if silent.dtype != torch.bool:
        return "The second part should be True or False, one a token."
    if close(silent, (slope == 0).float()):
        return None
    where = _token(ratio, advantages, clip, _first(silent != (slope == 0)))
    return f"Your surrogate is right. Whether it has a slope is not, at {where}."


def _first(wrong: Tensor) -> int:
    return int(wrong.float().argmax())


def _token(ratio: Tensor, advantages: Tensor, clip: float, i: int) -> str:
    return f"ratio {ratio[i]:.2f}, advantage {advantages[i]:+.2f}, clip {clip}"


@exercise(
    "03.4",
    hints=(
        "Compare the first steps of a log with its last ones; a single step is noise.",
        "Each sickness has a curve of its own: which one is it for each of the three in section 8?",
        "Some healthy runs answer briefly from the start: what counts is what became of the first length.",
    ),
    lesson="The reward rose in every one of these runs, the sick ones too. Start against end, several steps "
    "each, and one curve for each sickness: that is all that `health.diagnose` does, plus the evidence.",
)
def sickness(answer):
    """f(log) -> "healthy" or one of SICKNESSES, for made-up logs of runs that differ in size and length."""
    generator = fresh()
    cases = [(name, i < 4) for name in (HEALTHY, *SICKNESSES) for i in range(8)]
    for i in torch.randperm(len(cases), generator=generator).tolist():
        log = made_up_log(*cases[i], generator)
        said = choice(answer(log), (HEALTHY, *SICKNESSES))
        if said != cases[i][0]:
            return f"One of {len(cases)} fresh logs is not what you say ({said}): {_in_words(log)}."
    return None


def made_up_log(name: str, brief: bool, generator: torch.Generator) -> list[dict]:
    """A log with keys of ``health.describe``, of a run that has this sickness and no other.

    Args:
        brief: short answers from the start. Other healthy ones grow, finish, and end with an odd batch.
    """

    def draw(low, high):
        return uniform(low, high, generator)

    steps = int(draw(12, 40))
    ends = {
        "reward": (0.0, draw(0.8, 2.0)),
        "kl": (0.0, draw(3.0, 9.0)),
        "length": (1.0, draw(0.85, 1.15)),  # times the first length
        "finished": (draw(0.93, 1.0), draw(0.93, 1.0)),
        "distinct_2": (0.8, draw(0.7, 0.9)),
    }
    odd = {int(draw(4, steps // 2)): 30.0}  # one bad batch makes no sickness
    if name == HEALTHY and not brief:
        ends |= {"kl": (0.0, draw(3.0, 6.0)), "length": (1.0, draw(1.4, 1.8))}
        odd[steps - 1] = 20.0
    if name == "KL running away":
        ends["kl"] = 0.0, draw(40.0, 90.0)
    elif name == "collapse":
        ends |= {"length": (1.0, draw(0.1, 0.2)), "distinct_2": (0.8, draw(0.1, 0.25))}
    elif name == "never finishing":
        ends |= {"length": (1.0, draw(1.5, 2.0)), "finished": (draw(0.93, 1.0), draw(0.2, 0.5))}
    first = draw(5.0, 8.0) if brief else draw(30.0, 60.0)
    log = []
    for t in range(steps):
        done = min(1.0, 1.4 * t / (steps - 1))  # the last quarter is level
        line = {key: low + done * (high - low) for key, (low, high) in ends.items()}
        line["length"] *= first
        line |= {key: value * draw(0.95, 1.05) for key, value in line.items()}
        line["finished"] = min(1.0, line["finished"])
        line["kl"] += odd.get(t, 0.0)
        log.append(line | {"step": t + 1, "explained_variance": draw(0.05, 0.3)})
        log[-1]["length_correlation"] = draw(-0.2, 0.2)
    return log


def _in_words(log: list[dict]) -> str:
    """Where the curves of a log begin and end."""
    last = log[-max(1, len(log) // 4) :]
    ends = {key: math.fsum(line[key] for line in last) / len(last) for key in ("kl", "length", "finished")}
    return (
        f"KL {log[0]['kl']:.0f} → {ends['kl']:.0f} nats, length {log[0]['length']:.0f} → "
        f"{ends['length']:.0f} tokens, finished {log[0]['finished']:.0%} → {ends['finished']:.0%}"
    )
