"""The embedded corpus proves itself: schema, ids, disjoint prompt sets, near-duplicates, lengths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sawyer_utils.chapters import choices
from sawyer_utils.chapters.domain import DOMAIN, check_examination, near_duplicates, runs
from sawyer_utils.chapters.summaries import NEWS, prompt_for
from sawyer_utils.chapters.surface import without_reading
from sawyer_utils.chat import encode, encode_prompt
from sawyer_utils.data import FIXED_PROMPTS, normalise, pairs
from sawyer_utils.plumbing.sources import (
    CONVERSATIONS,
    EMBEDDED,
    GOLD,
    PREFERENCES,
    PROMPTS,
    DataError,
    read_jsonl,
)
from sawyer_utils.profiles import PROFILES

SCHEMAS = (CONVERSATIONS, PREFERENCES, GOLD, PROMPTS, *choices.MINIS.values(), NEWS, DOMAIN)
KINDS = {  # what a response is, and the scores it may have
    "engaging": (8, 10),
    "plain": (6, 7),
    "slip": (3, 4),
    "evasive": (3, 3),
    "flattering": (2, 2),
    "rude": (2, 2),
    "muddled": (2, 2),
    "off_topic": (1, 1),
    "false": (1, 1),
}
JUDGED = ("preferences", "gold_preferences")
LARGEST = {"words alone": 0.55, "surface": 0.60}  # share of held-out pairs that is right without reading


def _looks_english(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return not letters or sum(c.isascii() for c in letters) / len(letters) > 0.9


def check_corpus(folder: Path = EMBEDDED, tokenizer=None) -> dict[str, Any]:
    """Prove the corpus: schema, ids, disjoint prompt sets, score variety, language, lengths.

    Args:
        tokenizer: if given, lengths are checked in tokens against the ``local`` profile.

    Returns:
        Counts and shares, as the data card states them.

    Raises:
        DataError: naming the rows, for the first property that fails.
    """
    files = {schema.name: read_jsonl(folder / f"{schema.name}.jsonl", schema.check) for schema in SCHEMAS}
    ids = Counter(row["id"] for rows in files.values() for row in rows)
    if repeated := [i for i, n in ids.items() if n > 1]:
        raise DataError(f"ids used in two files: {repeated[:5]}")
    asked = {row["id"]: row["messages"][0]["content"] for row in files["conversations"]}
    asked |= {row["id"]: row["prompt"] for name in (*JUDGED, "prompts") for row in files[name]}
    asked |= {f"fixed-{i}": prompt for i, prompt in enumerate(FIXED_PROMPTS)}
    for name in choices.MINIS:
        _refuse_near(name, {row["id"]: row["question"] for row in files[name]})
    _refuse_near("prompts", asked)
    judged = [row for name in JUDGED for row in files[name]]
    said = [r["text"] for row in judged for r in row["responses"]]
    texts = [*asked.values(), *said]
    texts += [m["content"] for row in files["conversations"] for m in row["messages"]]
    if foreign := [text for text in texts if not _looks_english(text)]:
        raise DataError(f"not English: {foreign[0]!r}")
    if twice := [t for t, n in Counter(" ".join(normalise(t)) for t in said).items() if n > 1]:
        raise DataError(f"preferences: one response used twice: {twice[0]!r}")
    for row in judged:
        for response in row["responses"]:
            low, high = KINDS.get(response["kind"], (11, 0))
            if not low <= response["score"] <= high:
                raise DataError(f"{row['id']}: a {response['kind']} response scores {response['score']}")
    asked_too = [row["question"] for name in choices.MINIS for row in files[name]]
    _check_paragraphs(files["news"], [*texts, *asked_too])
    check_examination(files["domain_example"], "domain_example")
    if tokenizer is not None:
        _check_lengths(files, tokenizer)
    return _describe(files)


def check_unreadable(rows: list[dict], name: str) -> dict[str, float]:
    """What judges that cannot read get right on held-out prompts (:func:`surface.without_reading`).

    Raises:
        DataError: if one of them is right more often than :data:`LARGEST`.
    """
    found = without_reading(rows)
    for how, share in found.items():
        if share > LARGEST[how]:
            raise DataError(f"{name}: {how} is right on {share:.3f} of held-out pairs, above {LARGEST[how]}")
    return found


def _check_paragraphs(news: list[dict], others: list[str]) -> None:
    """Lengths, language, topics spread evenly over both splits, nothing said twice."""
    texts = {row["id"]: row["text"] for row in news}
    for key, text in texts.items():
        if not 45 <= len(text.split()) <= 80:
            raise DataError(f"news: {key} has {len(text.split())} words, not 45 to 80")
        if not _looks_english(text):
            raise DataError(f"news: {key} is not English: {text!r}")
    if unequal := [row["id"] for row in news if ("summary" in row) != (row["split"] == "test")]:
        raise DataError(f"news: a test row has a summary and a train row has none, but not {unequal[:5]}")
    _refuse_near("news", texts)
    known = {run: key for key, text in texts.items() for run in runs(normalise(text))}
    for text in others:
        for run in runs(normalise(text)) & known.keys():
            raise DataError(f"news: {known[run]} shares {' '.join(run)!r} with another file: {text!r}")
    topics = {row["topic"] for row in news}
    for split in ("train", "test"):
        counts = Counter(row["topic"] for row in news if row["split"] == split)
        if counts.keys() < topics or max(counts.values()) > 2 * min(counts.values()):
            raise DataError(f"news: topics are not balanced in {split}: {dict(counts)}")


def _refuse_near(name: str, texts: dict[str, str]) -> None:
    if near := near_duplicates(texts):
        a, b = near[0]
        raise DataError(
            f"{name}: {len(near)} near-duplicates, the first: {a} {texts[a]!r} and {b} {texts[b]!r}"
        )


def _check_lengths(files: dict[str, list[dict]], tokenizer) -> None:
    """No row of the corpus may be truncated under the ``local`` profile."""
    profile = PROFILES["local"]
    lengths = {r["id"]: len(encode(tokenizer, r["messages"]).ids) for r in files["conversations"]}
    if too_long := {i: n for i, n in lengths.items() if n > profile.conversation_tokens}:
        raise DataError(f"conversations over {profile.conversation_tokens} tokens: {too_long}")
    prompts = {r["id"]: r["prompt"] for name in (*JUDGED, "prompts") for r in files[name]}
    lengths = {i: len(encode_prompt(tokenizer, text)) for i, text in prompts.items()}
    if too_long := {i: n for i, n in lengths.items() if n > profile.prompt_tokens}:
        raise DataError(f"prompts over {profile.prompt_tokens} tokens: {too_long}")
    lengths = {r["id"]: len(encode_prompt(tokenizer, prompt_for(r["text"]))) for r in files["news"]}
    if too_long := {i: n for i, n in lengths.items() if n > profile.news_prompt_tokens}:
        raise DataError(f"news over {profile.news_prompt_tokens} tokens: {too_long}")


def _describe(files: dict[str, list[dict]]) -> dict[str, Any]:
    conversations = files["conversations"]
    return {
        "rows": {name: len(rows) for name, rows in files.items()},
        "multi_turn": sum(len(row["messages"]) > 2 for row in conversations),
        "test_prompts": sum(row["split"] == "test" for row in files["prompts"]),
        "topics": len({row["topic"] for row in conversations}),
        **{name: _describe_preferences(files[name]) for name in JUDGED},
        "labels": {
            name: dict(sorted(Counter(row["label"] for row in files[name]).items())) for name in choices.MINIS
        },
        "news": {
            "topics": len({row["topic"] for row in files["news"]}),
            "test": sum(row["split"] == "test" for row in files["news"]),
        },
        "domain_example": {
            "facts": sum("lessons" in row for row in files["domain_example"]),
            "lessons": sum(len(row.get("lessons", ())) for row in files["domain_example"]),
        },
    }


def _describe_preferences(rows: list[dict]) -> dict[str, Any]:
    every = pairs(rows)
    return {
        "responses": sum(len(row["responses"]) for row in rows),
        "kinds": dict(Counter(r["kind"] for row in rows for r in row["responses"])),
        "pairs": len(every),
        "shorter_wins": round(sum(pair.shorter_wins for pair in every) / len(every), 3),
    }
