"""Domain adaptation: a small text of one's own, lessons from it, and a judge that looks for one key fact."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import numpy as np

from sawyer_utils import evaluation
from sawyer_utils.data import has_words, load_domain

# What an answer says that does not claim to know. Short on purpose: read the answers, too.
ADMISSIONS = ("not know", "don't know", "not sure", "cannot say", "can't say", "no idea", "no information")


def load() -> tuple[list[dict], list[dict]]:
    """(facts, questions that the text does not answer): of ``SAWYER_DOMAIN``, a .jsonl in the schema of
    ``data.load_domain``, or the example.

    Raises:
        DataError: naming file, line and field.
    """
    rows = load_domain(os.environ.get("SAWYER_DOMAIN") or "embedded")
    return [row for row in rows if "lessons" in row], [row for row in rows if "lessons" not in row]


def lessons(facts: list[dict]) -> list[dict]:
    """Each lesson as a conversation for SFT, the facts in their order."""
    return [
        {
            "id": f"{row['id']}-{i}",
            "messages": [
                {"role": "user", "content": lesson["question"]},
                {"role": "assistant", "content": lesson["answer"]},
            ],
        }
        for row in facts
        for i, lesson in enumerate(row["lessons"], 1)
    ]


def with_replay(taught: list[dict], corpus: list[dict], share: float, seed: int = 0) -> list[dict]:
    """The lessons, and so many old conversations that these are ``share`` of the whole (all there are, if
    that is fewer).

    Raises:
        ValueError: for a share below 0, or of 1 and more.
    """
    if not 0 <= share < 1:
        raise ValueError(f"with_replay: a share of {share} leaves no lesson.")
    wanted = round(len(taught) * share / (1 - share))
    return [*taught, *random.Random(seed).sample(corpus, min(wanted, len(corpus)))]


def knows(answers: Iterable[str], facts: list[dict]) -> np.ndarray:
    """(facts,) of bool: whether each answer holds a key of its fact as whole words.

    That is all it sees: it does not mind a "not" before the key, nor what else is said.
    """
    return np.array([has_words(answer, row["keys"]) for answer, row in zip(answers, facts, strict=True)])


def admits(answers: Iterable[str]) -> np.ndarray:
    """(answers,) of bool: whether each says that it does not know, in one of ``ADMISSIONS``."""
    return np.array([has_words(answer, ADMISSIONS) for answer in answers])


def borrowed(answers: Iterable[str], facts: list[dict]) -> np.ndarray:
    """(answers,) of bool: whether each holds a key of any fact, to a question that none of them answers."""
    keys = [key for row in facts for key in row["keys"]]
    return np.array([has_words(answer, keys) for answer in answers])


def compare_shares(before, after) -> dict:
    """Two shares of the same items: means, difference with interval, exact McNemar p and verdict; better or
    worse only if interval and test both say so, as in 04."""
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    difference, low, high = evaluation.paired_shares_interval(before, after)
    p = evaluation.mcnemar_p(before, after)
    sure = p < 1 - evaluation.CONFIDENCE
    disagree = float((before != after).mean())
    return {
        "n": before.size,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "detectable": evaluation.detectable_difference(before.size, disagree),
        "verdict": evaluation.verdict(low, high) if sure else "no difference shown",
    }


def compare_means(before, after, higher_is_better: bool | None = True) -> dict:
    """Two values of each prompt, in the same shape as :func:`compare_shares`; p is Wilcoxon's."""
    found = evaluation.compare_rewards(before, after)
    return {
        "n": found.n,
        "before": found.before_mean,
        "after": found.after_mean,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.wilcoxon_p,
        "detectable": found.detectable,
        "verdict": found.verdict_if(higher_is_better),
    }
