"""The judges of notebook 06's exercises."""

from __future__ import annotations

import math

import torch

from sawyer_utils import health
from sawyer_utils.classroom.checks import choice, close, exercise, fresh, number, uniform, unlike

LOOKS, ERROR = 5, 0.2
NOTHING = "nothing stands out"
SAYINGS = ("length hacking", "never finishing", "collapse", "KL running away", NOTHING)
CURVES = ("reward", "kl", "length", "length_correlation", "finished", "distinct_2")
# First and last line of three runs without a leash.
LOGS = {
    "A": dict(zip(CURVES, [(0.0, 2.5), (0.0, 17.0), (16.0, 47.0), (0.7, 0.6), (0.99, 0.95), (0.85, 0.8)])),
    "B": dict(zip(CURVES, [(0.0, 2.5), (0.0, 11.0), (16.0, 47.0), (0.1, 0.0), (0.99, 0.2), (0.85, 0.7)])),
    "C": dict(zip(CURVES, [(0.0, 2.5), (0.0, 6.0), (16.0, 18.0), (0.2, 0.1), (0.99, 0.97), (0.85, 0.8)])),
}


@exercise(
    "06.1",
    hints=(
        "One look alone is as often above zero as below. How often are all five below?",
        "You need no table: draw five such means many thousand times, and keep the highest of each five.",
        "The average of those highest ones is asked for, in gold's own unit and not in standard errors.",
    ),
    lesson="A peak that is more than a standard error high, where nothing ever happened. It is called the "
    "winner's curse: what was chosen for being high is not as high as it looked. So let other prompts say.",
)
def luckiest(answer):
    """The mean of the highest of five independent looks, each normal around 0 with this standard error."""
    value = number(answer)
    draws = ERROR * torch.randn(100_000, LOOKS, generator=fresh(), dtype=torch.double)
    wanted = float(draws.max(1).values.mean())
    if abs(value - wanted) < 0.1 * ERROR:
        return None
    if abs(value) < 0.1 * ERROR:
        return "That is what one look is worth on average, and not the highest of five."
    if abs(value * ERROR - wanted) < 0.1 * ERROR:
        return "That would be right for looks with a standard error of one."
    side = "higher" if value < wanted else "lower"
    return f"In 100,000 made-up runs the highest of the five looks is {side} on average."


@exercise(
    "06.2",
    hints=(
        "At its highest point a curve neither rises nor falls. Take the slope of d (α − β log d) in d.",
        "It is a product of two factors, and both of them change with d: the slope has two terms.",
        "Set α − β log d − β to zero. What is log d then, and what is d?",
    ),
    lesson="It depends on α/β alone: a judge that is twice as good and twice as fast to fool turns at the "
    "same distance. At e times that distance all that was won is lost again.",
)
def turning_point(answer):
    """f(alpha, beta) -> the d at which d (α − β log d) is highest."""
    for _ in range(4):
        beta = uniform(0.2, 0.9)
        alpha = beta * uniform(1.3, 3.0)
        found, wanted = number(answer(alpha, beta)), math.exp(alpha / beta - 1)
        if close(found, wanted, 1e-2):
            continue
        shown = f"With α = {alpha:.2f} and β = {beta:.2f}"
        if found <= 0:
            return f"{shown} your d is {found:.2f}; it is a root of a KL, and the turn lies above zero."
        if close(math.sqrt(found), wanted, 1e-2):
            return f"{shown} you give the KL of the turn; asked for is d, its root."
        gained = found * (alpha - beta * math.log(found))
        if abs(gained) < 1e-2:
            return f"{shown} the curve is back at zero at your d = {found:.2f}."
        way = "still rises" if found < wanted else "falls already"
        return f"{shown} the curve {way} at your d = {found:.2f}."
    return None


@exercise(
    "06.3",
    hints=(
        "Take the mean from both lists first. How much more score does one word more bring, on average?",
        "The slope is the mean product of the two, divided by the mean square of one of them. Of which?",
        "Where no answer is longer than another, that is zero by zero: then there is no slope to take out.",
    ),
    lesson="What is left cannot be earned by length as long as the answers are like these. Far beyond them "
    "the line is a guess, and a policy without a leash will go there.",
)
def at_equal_length(answer):
    """f(scores, words) -> scores less their straight line in words, (n,) each."""
    generator = fresh()
    for n in (12, 30):
        words = torch.randint(3, 40, (n,), generator=generator).double()
        scores = uniform(1.0, 3.0) + uniform(0.05, 0.2) * words
        scores = scores + torch.randn(n, generator=generator, dtype=torch.double)
        found = answer(scores.tolist(), [int(w) for w in words])
        if not close(found, _residual(scores, words)):
            return _not_the_rest(torch.as_tensor(found).detach().double(), scores, words)
    scores = 2.0 + torch.randn(8, generator=generator, dtype=torch.double)
    if close(answer(scores.tolist(), [17] * 8), scores - scores.mean()):
        return None
    return "Where all answers are equally long, their length explains nothing: only the mean should go."


def _residual(scores: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    apart = words - words.mean()
    slope = (apart * scores).sum() / apart.square().sum()
    return scores - scores.mean() - slope * apart


def _not_the_rest(found: torch.Tensor, scores: torch.Tensor, words: torch.Tensor) -> str:
    """What is seen of an answer that is wrong on answers of unequal length."""
    r = float(torch.corrcoef(torch.stack([found, words]))[0, 1])
    if not abs(r) < 1e-3:
        return f"What you return goes with the number of words: their correlation is {unlike(r, 0)}."
    if abs(float(found.mean())) > 1e-3:
        return (
            f"What you return does not go with the words, but its mean is {unlike(float(found.mean()), 0)}."
        )
    return "It has mean 0 and does not go with the words, but it is not the scores less a straight line."


@exercise(
    "06.4",
    hints=(
        "The reward rose by as much in all three. Look only at what the reward does not pay for.",
        "Two runs have grown alike. In which do longer answers score more, and in which are they cut off?",
        "One of the three gives no alarm. Read section 5 again: is that a proof of anything?",
    ),
    lesson="Length alone does not tell a hack from an answer that is cut off. And a log without an alarm is "
    "no bill of health: a judge can be fooled at any length. Only another judge, or a reader, can tell.",
)
def three_logs(answer):
    """What `health.diagnose` says of the three runs of LOGS, in order: one of SAYINGS each."""
    for (run, ends), said in zip(LOGS.items(), answer, strict=True):
        said = choice(said, SAYINGS)
        if said not in _findings(ends):
            return f"Run {run} is not what you say ({said})."
    return None


def _findings(ends: dict[str, tuple[float, float]]) -> list[str]:
    return [finding.name for finding in health.diagnose(straight_log(ends))] or [NOTHING]


def straight_log(ends: dict[str, tuple[float, float]], steps: int = 20) -> list[dict]:
    """A log whose curves go straight from the first line to the last."""
    log = []
    for t in range(steps):
        done = t / (steps - 1)
        line = {key: first + done * (last - first) for key, (first, last) in ends.items()}
        log.append({"step": t + 1, "explained_variance": 0.2, **line})
    return log
