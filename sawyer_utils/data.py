"""Conversations, preferences and prompts: loading, splitting, and pairs of responses.

What a row has to look like, and where rows come from, is ``plumbing/sources.py``.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from sawyer_utils.plumbing.sources import (
    CONVERSATIONS,
    GOLD,
    PREFERENCES,
    PROMPTS,
    DataError,
    Schema,
    drawn,
    held_of,
    key_of,
    keys_in,
    load,
    normalise,
    same_text,
    spread,
)

__all__ = ["normalise", "spread"]  # for the core and the chapters

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


def _load(schema: Schema, source: str, limit: int | None) -> list[dict]:
    """Rows of a source, without the fixed prompts: those are for the comparison at the end."""
    fixed = {key_of({"prompt": prompt}) for prompt in FIXED_PROMPTS}
    rows = load(schema, source, limit)
    kept = [row for row in rows if fixed.isdisjoint(keys_in(row))]
    if len(kept) < len(rows):
        count = f"{len(rows) - len(kept)} of {len(rows)} rows"
        print(f"{count} left out: they ask one of the fixed questions (data.FIXED_PROMPTS).")
    return kept


def load_conversations(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Conversations ``{id, topic, messages}``; ``source`` is "embedded", a file, a folder or a Hub id."""
    return _load(CONVERSATIONS, source, limit)


def load_preferences(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Scored responses ``{id, topic, prompt, responses: [{text, score, kind}]}``; with ``scored: False`` the
    scores only say which is better."""
    return _load(PREFERENCES, source, limit)


def load_gold(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Preferences by other writers, for the judge that PPO never sees; same schema."""
    return _load(GOLD, source, limit)


def load_prompts(split: str, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Prompts ``{id, topic, prompt, split}`` of one split, "train" or "test"."""
    return drawn([row for row in _load(PROMPTS, source, None) if row["split"] == split], limit, source)


def untested(rows: list[dict], prompts: list[dict]) -> list[dict]:
    """Training rows of any kind without those in which one of the test ``prompts`` is asked: one file may be
    named for several kinds. How many were left out is said.

    Raises:
        DataError: if none is left.
    """
    tested = {key_of(row) for row in prompts}
    kept = [row for row in rows if tested.isdisjoint(keys_in(row))]
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept):,} of {len(rows):,} rows left out: a test prompt is asked in them.")
    if not kept:
        raise DataError("a test prompt is asked in every row: nothing to train on")
    return kept


def talk(question: str, answer: str) -> list[dict[str, str]]:
    """One question and its answer as the messages of a conversation."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# --- splits and pairs ---------------------------------------------------------------------------


def _shared_ids(rows: list[dict]) -> list[str]:
    """The id of each row; of rows that ask the same the first id in the alphabet."""
    ids: dict[str, str] = {}
    keys = [key_of(row) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        name = row.get("id") or key
        ids[key] = min(name, ids.get(key, name))
    return [ids[key] for key in keys]


def split_rows(rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out rows); about ``share`` of the questions are held out, each with all its rows,
    and neither side is empty.

    Raises:
        DataError: if all rows ask the same.
    """
    ids = _shared_ids(rows)
    held = held_of(ids, share)
    sides = ([row for row, name in zip(rows, ids) if (name in held) == side] for side in (False, True))
    return tuple(sides)


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, the better first."""

    id: str
    topic: str
    prompt: str
    chosen: str
    rejected: str
    margin: float  # difference of the two scores; 0 where nobody gave a score
    kinds: tuple[str, str]

    @property
    def shorter_wins(self) -> bool:
        return len(self.chosen) < len(self.rejected)


def pairs(preferences: list[dict]) -> list[Pair]:
    """Every pair of responses with different scores and texts, the better first."""
    return [
        _pair({**row, "id": name}, *sorted(two, key=lambda response: -response["score"]))
        for row, name in zip(preferences, _shared_ids(preferences), strict=True)
        for two in itertools.combinations(row["responses"], 2)
        if two[0]["score"] != two[1]["score"] and not same_text(two[0]["text"], two[1]["text"])
    ]


def _pair(row: dict, best: dict, worst: dict) -> Pair:
    return Pair(
        row["id"],
        row.get("topic", ""),
        row["prompt"],
        best["text"],
        worst["text"],
        best["score"] - worst["score"] if row.get("scored", True) else 0.0,
        (best.get("kind", ""), worst.get("kind", "")),
    )


def strangers(preferences: list[dict], seed: int = 0) -> list[Pair]:
    """Each row's good responses over the one of another row that is closest in score.

    Both are equally well written, so manner cannot tell them apart: only a judge that reads the
    question can. To this question the stranger is off topic, which is a score of 1.

    Raises:
        ValueError: if there are not two rows that ask different things.
    """
    rows = random.Random(seed).sample(preferences, len(preferences))
    keys, ids = [key_of(row) for row in rows], _shared_ids(rows)
    if len(set(keys)) < 2:
        raise ValueError("strangers: a row needs another one, with another question, to borrow a response.")
    found = []
    for i, row in enumerate(rows):
        other = next(rows[k % len(rows)] for k in itertools.count(i + 1) if keys[k % len(rows)] != keys[i])
        for own in row["responses"]:
            closest = min(other["responses"], key=lambda r, own=own: abs(r["score"] - own["score"]))
            if own["score"] >= GOOD and not same_text(own["text"], closest["text"]):
                stranger = {"text": closest["text"], "score": 1, "kind": "stranger"}
                found.append(_pair({**row, "id": ids[i]}, own, stranger))
    return found
