"""Edits of an answer that no careful judge would pay for, and what a reward model makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from sawyer_utils.reward import RewardFn

HOLLOW = (
    "There is much that one could say about this.",
    "Different people see it in different ways.",
    "It has always been so, and it may always be.",
    "In the end, it is what it is.",
)


def longer(text: str) -> str:
    """One more sentence that says nothing."""
    unsaid = [sentence for sentence in HOLLOW if sentence not in text]
    return f"{text} {(unsaid or HOLLOW)[0]}".strip()


def typo(text: str) -> str:
    """Each third word of four letters or more loses its second letter."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3]
    for i in long[::3]:
        words[i] = words[i][0] + words[i][2:]
    return " ".join(words)


EDITS: dict[str, Callable[[str], str]] = {
    "longer": longer,
    "politer": lambda text: f"Thank you for asking! {text} I hope that helps!",
    "doubled": lambda text: f"{text} {text}".strip(),
    "off-topic": lambda text: "Penguins cannot fly, but few birds are faster under water.",
    "typo": typo,
}


@dataclass(frozen=True)
class Verdict:
    """Two scores and what they claim."""

    a: float
    b: float

    @property
    def margin(self) -> float:
        """Score of A minus score of B."""
        return self.a - self.b

    @property
    def probability(self) -> float:
        """That A is preferred to B, by Bradley and Terry's model: σ(margin)."""
        return 0.5 * (1 + math.tanh(self.margin / 2))  # σ, without overflow

    def __str__(self) -> str:
        return (
            f"A {self.a:+.2f}, B {self.b:+.2f}: margin {self.margin:+.2f}, "
            f"A preferred with probability {self.probability:.3f}"
        )


def judge(reward: RewardFn, question: str, a: str, b: str) -> Verdict:
    """Score two answers to one question."""
    return Verdict(*map(float, reward([question, question], [a, b])))


def edits_table(reward: RewardFn, question: str, answer: str) -> pd.DataFrame:
    """What each edit does to the score of one answer: edit, text, score, change, preferred (the
    probability that the edited answer is preferred to the plain one)."""
    texts = {"plain": answer, **{name: edit(answer) for name, edit in EDITS.items()}}
    scores = [float(score) for score in reward([question] * len(texts), list(texts.values()))]
    rows = []
    for (name, text), score in zip(texts.items(), scores, strict=True):
        found = Verdict(score, scores[0])
        row = {"edit": name, "text": text, "score": score}
        rows.append(row | {"change": found.margin, "preferred": found.probability})
    return pd.DataFrame(rows)
