"""Rows from a file or the Hub, checked. Every problem names the file, the line and the field, before anything
trains.

One :class:`Schema` of a kind of rows serves the embedded corpus, a user's own JSONL (by path) and the Hub
sources, whose rows are mapped to it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sawyer_utils.plumbing import hub

EMBEDDED = Path(__file__).parents[1] / "corpus"


class DataError(ValueError):
    """A row that cannot be used; the message names file, line and field."""


# --- checks: each raises DataError for a row that breaks its schema -----------------------------


@contextmanager
def within(place: str) -> Iterator[None]:
    """Let a DataError from inside say where."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from None


def text_of(row: Any, name: str) -> str:
    """The text in a field."""
    if not isinstance(row, dict):
        raise DataError("not a JSON object")
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f"field {name!r} is missing or not text")
    if not value.strip():
        raise DataError(f"field {name!r} is empty")
    return value


def list_of(row: dict, name: str, at_least: int) -> list:
    """The list in a field."""
    value = row.get(name)
    if not isinstance(value, list) or len(value) < at_least:
        raise DataError(f"field {name!r} must be a list of at least {at_least}")
    return value


def same_text(one: str, other: str) -> bool:
    """Whether two texts differ in white space at most: then neither can be the better answer."""
    return one.split() == other.split()


def check_conversation(row: dict) -> None:
    """``{messages: [{role, content}]}``: user and assistant take turns, and the assistant is last."""
    messages = list_of(row, "messages", 2)
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role != ("user", "assistant")[i % 2]:
            raise DataError(f"field 'messages[{i}].role' is {role!r}: user and assistant take turns")
        with within(f"messages[{i}]"):
            text_of(message, "content")
    if messages[-1]["role"] != "assistant":
        raise DataError("field 'messages' must end with the assistant")


def check_preference(row: dict) -> None:
    """``{prompt, responses: [{text, score}]}``: of two scores at least, from 1 to 10."""
    text_of(row, "prompt")
    responses = list_of(row, "responses", 2)
    for i, response in enumerate(responses):
        with within(f"responses[{i}]"):
            text_of(response, "text")
            score = response.get("score")
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                raise DataError("field 'score' is missing or not a number")
            if not 1 <= score <= 10:
                raise DataError(f"field 'score' is {score}, outside 1 to 10")
    if len({r["score"] for r in responses}) < 2:
        raise DataError("field 'responses' needs at least two different scores")
    for one, other in itertools.combinations(responses, 2):
        if same_text(one["text"], other["text"]) and one["score"] != other["score"]:
            raise DataError("field 'responses' has one text with two different scores")


def check_prompt(row: dict, name: str = "prompt") -> None:
    """``{prompt, split}``; ``name`` is that of the text's field."""
    text_of(row, name)
    if row.get("split") not in ("train", "test"):
        raise DataError(f"field 'split' is {row.get('split')!r}, not train or test")


def choices_of(row: dict) -> list[str]:
    """The two or more texts in the field "choices"."""
    choices = list_of(row, "choices", 2)
    for i, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            raise DataError(f"field 'choices[{i}]' is empty")
    return choices


def check_question(row: dict, name: str = "label") -> None:
    """``{question, choices, label}``, multiple choice; ``name`` is that of the label's field."""
    text_of(row, "question")
    choices, label = choices_of(row), row.get(name)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
        raise DataError(f"field {name!r} is {label!r}, outside the {len(choices)} choices")


def read_jsonl(path: Path | str, check: Callable[[dict], None]) -> list[dict]:
    """Read and validate one JSONL file, UTF-8, one JSON object a line.

    Raises:
        DataError: with file, line and field, for bad UTF-8 or JSON, a row that fails the check, an id
            that is missing or appears twice, or a file without rows.
    """
    path = Path(path)
    rows, seen = [], {}
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        with within(f"{path.name}, line {number}"):
            try:
                row = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"bad UTF-8 at byte {error.start}") from None
            except json.JSONDecodeError as error:
                raise DataError(f"not JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError("the line is not a JSON object")
            check(row)
            identity = text_of(row, "id")
            if identity in seen:
                raise DataError(f"field 'id' {identity!r} was used in line {seen[identity]}")
        seen[identity] = number
        rows.append(row)
    if not rows:
        raise DataError(f"{path.name}: no rows")
    return rows


# --- the Hub's rows in the course's schema: a mapping raises DataError for a row that it cannot use --

SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def _turns(talk: str, marker: str) -> list[dict]:
    """A talk that is one text, ``<marker>Human: … <marker>Assistant: …``, as messages."""
    before, *parts = re.split(rf"{marker}({'|'.join(SPEAKERS)}):", talk)
    if before.strip():
        raise DataError("text before the first speaker")
    said = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": SPEAKERS[who], "content": text.strip()} for who, text in said]


def _guanaco(row: dict) -> dict:
    """A dangling question, with which many of its rows end, is dropped."""
    messages = _turns(text_of(row, "text"), "### ")
    if messages and messages[-1]["role"] == "user":
        messages.pop()
    return {"id": _id(messages[0]["content"] if messages else ""), "messages": messages}


def _preference(better: Any, worse: Any, scores: tuple) -> dict:
    """Two talks that part at the last answer, as one prompt with two scored responses."""
    for talk in (better, worse):
        check_conversation({"messages": talk})
    if [m["content"] for m in better[:-1]] != [m["content"] for m in worse[:-1]]:
        raise DataError("the two talks part before the last answer")
    both = zip((better, worse), scores, ("chosen", "rejected"), strict=True)
    prompt = _as_prompt(better[:-1])
    return {
        "id": _id(prompt),
        "prompt": prompt,
        "responses": [{"text": t[-1]["content"], "score": score, "kind": kind} for t, score, kind in both],
    }


def _id(asked: str) -> str:
    """The same for all rows that ask the same: a split by id then keeps them on one side."""
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _as_prompt(messages: list[dict]) -> str:
    """A question as it is; of a longer talk who said what, for a judge that reads it as one text."""
    if len(messages) == 1:
        return messages[0]["content"]
    names = {role: name for name, role in SPEAKERS.items()}
    return "\n\n".join(f"{names[message['role']]}: {message['content']}" for message in messages)


def _ultrafeedback(row: dict) -> dict:
    scores = row.get("score_chosen"), row.get("score_rejected")
    return _preference(row.get("chosen"), row.get("rejected"), scores)


def _hh_rlhf(row: dict) -> dict:
    """Nobody scored how far apart the two are."""
    return _preference(*(_turns(text_of(row, column), "\n\n") for column in ("chosen", "rejected")), (6, 5))


def _dolly(row: dict) -> dict:
    instruction, context = text_of(row, "instruction"), row.get("context", 0)
    if not isinstance(context, str | None):
        raise DataError("field 'context' is missing or not text")
    prompt = " ".join(filter(None, (instruction, context)))
    return with_split("prompt", prompt)


def with_split(name: str, text: str) -> dict:
    """A text of a source that has no split: one in eight is kept for testing, always the same ones."""
    return {name: text, "split": "test" if held_out(text, 1 / 8) else "train"}


@dataclass(frozen=True)
class Schema:
    """One kind of rows."""

    name: str  # of its file in the corpus
    check: Callable[[dict], None]
    # Hub id -> (split, mapping to this schema)
    hub: dict[str, tuple[str, Callable[[dict], dict]]] = field(default_factory=dict)


CONVERSATIONS = Schema(
    "conversations", check_conversation, {"timdettmers/openassistant-guanaco": ("train", _guanaco)}
)
PREFERENCES = Schema(
    "preferences",
    check_preference,
    {
        "HuggingFaceH4/ultrafeedback_binarized": ("train_prefs", _ultrafeedback),
        "Anthropic/hh-rlhf": ("train", _hh_rlhf),
    },
)
GOLD = replace(PREFERENCES, name="gold_preferences")
PROMPTS = Schema("prompts", check_prompt, {"databricks/databricks-dolly-15k": ("train", _dolly)})


# --- loading ------------------------------------------------------------------------------------


def load(schema: Schema, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Rows of the corpus ("embedded"), of a .jsonl or of a Hub data set that the schema knows.

    Raises:
        DataError: naming file, line and field, or a source that is not known or has changed.
    """
    if source == "embedded":
        rows = read_jsonl(EMBEDDED / f"{schema.name}.jsonl", schema.check)
    elif source.endswith(".jsonl"):
        rows = read_jsonl(source, schema.check)
    else:
        rows = from_hub(schema, source, limit or 4000)
    return spread(rows, limit)


def spread(rows: list[dict], limit: int | None) -> list[dict]:
    """``limit`` of the rows. A slice of a file ordered by topic would hold few topics: every k-th row."""
    return rows if limit is None or limit >= len(rows) else rows[:: len(rows) // limit][:limit]


READ_AHEAD = 3  # rows that are read for each one that is kept: a file may be ordered
PATIENCE = 100  # rows: if none of the first ones can be used, the source is not what it was


def from_hub(schema: Schema, source: str, limit: int | None, **part: str) -> list[dict]:
    """``limit`` rows of a known Hub data set (None: all) in the course's schema.

    They are drawn from three times as many, always the same ones: a stream shows the start of a file
    only, and who made it may have put like beside like. A shuffled stream of ``datasets`` would draw
    others with its next version.

    Args:
        part: ``name`` of a configuration, ``split`` other than the usual one.

    Raises:
        DataError: if the source is unknown, or no longer in the shape that is known.
    """
    if source not in schema.hub:
        known = ", ".join(schema.hub)
        raise DataError(f"{source}: neither a .jsonl path nor a known Hub data set ({known})")
    split, mapping = schema.hub[source]
    left_out: Counter[str] = Counter()
    try:
        stream = hub.stream(source, **{"split": split, **part})
        found = map_rows(schema.check, stream, mapping, left_out)
        rows = list(itertools.islice(found, limit and READ_AHEAD * limit))
    except DataError as error:
        raise DataError(f"{source}: {error}. The data set has changed. {hub.EMBEDDED_WAY}") from None
    say_left_out(source, left_out, len(rows))
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]


def map_rows(
    check: Callable,
    rows: Iterable[dict],
    mapping: Callable[[dict], dict],
    left_out: Counter[str] | None = None,
) -> Iterator[dict]:
    """Yield mapped rows that pass the check. Real data has empty, broken and undecided rows: they are left
    out, and ``left_out`` counts them by reason.

    Raises:
        DataError: with the reasons and the columns, if none of the first ``PATIENCE`` rows can be used,
            or none at all.
    """
    left_out = Counter() if left_out is None else left_out
    number, row = -1, {}
    for number, row in enumerate(rows):
        try:
            mapped = {"id": f"row-{number}", "topic": "hub", **mapping(row)}
            check(mapped)
        except DataError as error:
            left_out[re.sub(r"\[\d+\]", "", str(error))] += 1
            if number + 1 == PATIENCE == left_out.total():
                break
        else:
            yield mapped
    if number + 1 == left_out.total():
        raise DataError(f"none of {number + 1} rows can be used ({_counts(left_out)}); columns: {list(row)}")


def say_left_out(what: str, reasons: Counter[str], kept: int) -> None:
    """One line on the rows that were left out, if any were: how many, and why."""
    if total := reasons.total():
        print(f"{what}: {total:,} of {total + kept:,} rows left out: {_counts(reasons)}")


def _counts(reasons: Counter[str]) -> str:
    """The five commonest reasons, and how many rows have others."""
    common = reasons.most_common(5)
    said = [f"{n:,} × {reason}" for reason, n in common]
    others = reasons.total() - sum(n for _, n in common)
    return "; ".join(said + [f"{others:,} × others"] * (others > 0))


def held_out(key: str, share: float) -> bool:
    """Whether an item belongs to the held-out share: by hash, so stable under any reordering."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8 < share
