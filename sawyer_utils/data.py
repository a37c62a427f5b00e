"""Conversations, preferences and prompts: loading, splitting, and pairs of responses.

What a row has to look like, and where rows come from, is ``plumbing/sources.py``; the chapters have kinds of
their own.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

from sawyer_utils.plumbing.sources import (
    CONVERSATIONS,
    GOLD,
    PREFERENCES,
    PROMPTS,
    held_out,
    load,
    same_text,
    spread,
)

GOOD = 5  # from this score on a response is a fair answer to its prompt, if not an engaging one
# The workshop's question and four others, kept out of every data set, asked in every notebook.
FIXED_PROMPTS = (
    "Who was America's first president?",
    "How do I greet someone?",
    "Why is the sky blue?",
    "What are your opinions on poetry?",
    "I had an argument with my best friend. Should I apologise first?",
)


# --- loaders ------------------------------------------------------------------------------------


def load_conversations(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Conversations ``{id, topic, messages}``; ``source`` is "embedded", a path or a Hub id."""
    return load(CONVERSATIONS, source, limit)


def load_preferences(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Scored responses ``{id, topic, prompt, responses: [{text, score, kind}]}``."""
    return load(PREFERENCES, source, limit)


def load_gold(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Preferences by other writers, for the judge that PPO never sees; same schema."""
    return load(GOLD, source, limit)


def load_prompts(split: str, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Prompts ``{id, topic, prompt, split}`` of one split, "train" or "test"."""
    return spread([row for row in load(PROMPTS, source) if row["split"] == split], limit)


# --- splits and pairs ---------------------------------------------------------------------------


def split_rows(rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out rows); about ``share`` of the ids are held out."""
    return (
        [row for row in rows if not held_out(row["id"], share)],
        [row for row in rows if held_out(row["id"], share)],
    )


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, the better first."""

    id: str
    topic: str
    prompt: str
    chosen: str
    rejected: str
    margin: float  # difference of the two scores
    kinds: tuple[str, str]

    @property
    def shorter_wins(self) -> bool:
        return len(self.chosen) < len(self.rejected)


def pairs(preferences: list[dict]) -> list[Pair]:
    """Every pair of responses with different scores and texts, the better first."""
    return [
        _pair(row, *sorted(two, key=lambda response: -response["score"]))
        for row in preferences
        for two in itertools.combinations(row["responses"], 2)
        if two[0]["score"] != two[1]["score"] and not same_text(two[0]["text"], two[1]["text"])
    ]


def _pair(row: dict, best: dict, worst: dict) -> Pair:
    return Pair(
        row["id"],
        row["topic"],
        row["prompt"],
        best["text"],
        worst["text"],
        best["score"] - worst["score"],
        (best.get("kind", ""), worst.get("kind", "")),
    )


def strangers(preferences: list[dict], seed: int = 0) -> list[Pair]:
    """Each row's good responses over the one of another row that is closest in score.

    Both are equally well written, so manner cannot tell them apart: only a judge that reads the
    question can. To this question the stranger is off topic, which is a score of 1.

    Raises:
        ValueError: with fewer than two rows.
    """
    if len(preferences) < 2:
        raise ValueError("strangers: a row needs another one to take a response from.")
    rows = random.Random(seed).sample(preferences, len(preferences))
    found = []
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        for own in row["responses"]:
            closest = min(other["responses"], key=lambda r, own=own: abs(r["score"] - own["score"]))
            if own["score"] >= GOOD and not same_text(own["text"], closest["text"]):
                found.append(_pair(row, own, {"text": closest["text"], "score": 1, "kind": "stranger"}))
    return found


# --- words --------------------------------------------------------------------------------------


def normalise(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.sub(r"[^\w\s]+", "", text.lower()).split()
