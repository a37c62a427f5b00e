"""Load and validate conversations, preferences, prompts and questions.

One schema and one validator serve the embedded corpus, a user's own JSONL (by path) and the
Hub sources, whose rows are mapped to it. Every problem names the file, the line and the field,
before anything trains.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer_utils.plumbing import hub

EMBEDDED = Path(__file__).parent / "corpus"
KINDS = {  # what a response is, and the scores it may have
    "engaging": (9, 10),
    "curt": (5, 7),
    "dull": (5, 7),
    "padded": (3, 5),
    "flattering": (2, 4),
    "evasive": (2, 4),
    "rambling": (2, 4),
    "rude": (2, 4),
    "off_topic": (1, 1),
    "false": (1, 1),
    "degenerate": (1, 1),
}
GOOD = 5  # from this score on a response is a fair answer to its prompt, if not an engaging one
# The workshop's question and four others, kept out of every data set, asked in every notebook.
FIXED_PROMPTS = (
    "Who was America's first president?",
    "How do I greet someone?",
    "Why is the sky blue?",
    "What are your opinions on poetry?",
    "I had an argument with my best friend. Should I apologise first?",
)


class DataError(ValueError):
    """A row that cannot be used; the message names file, line and field."""


# --- schema -------------------------------------------------------------------------------------


def same_text(one: str, other: str) -> bool:
    """Whether two texts differ in white space at most: then neither can be the better answer."""
    return one.split() == other.split()


def _text(row: dict, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"field {field!r} is missing or not text")
    if not value.strip():
        raise DataError(f"field {field!r} is empty")
    return value


def _list(row: dict, field: str, at_least: int) -> list:
    value = row.get(field)
    if not isinstance(value, list) or len(value) < at_least:
        raise DataError(f"field {field!r} must be a list of at least {at_least}")
    return value


def _check_conversation(row: dict) -> None:
    messages = _list(row, "messages", 2)
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role != ("user", "assistant")[i % 2]:
            raise DataError(f"field 'messages[{i}].role' is {role!r}: user and assistant take turns")
        try:
            _text(message, "content")
        except DataError as error:
            raise DataError(f"messages[{i}]: {error}") from None
    if messages[-1]["role"] != "assistant":
        raise DataError("field 'messages' must end with the assistant")


def _check_preference(row: dict) -> None:
    _text(row, "prompt")
    responses = _list(row, "responses", 2)
    for i, response in enumerate(responses):
        try:
            if not isinstance(response, dict):
                raise DataError("not a JSON object")
            _text(response, "text")
            score = response.get("score")
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                raise DataError("field 'score' is missing or not a number")
            if not 1 <= score <= 10:
                raise DataError(f"field 'score' is {score}, outside 1 to 10")
        except DataError as error:
            raise DataError(f"responses[{i}]: {error}") from None
    if len({r["score"] for r in responses}) < 2:
        raise DataError("field 'responses' needs at least two different scores")
    for one, other in itertools.combinations(responses, 2):
        if same_text(one["text"], other["text"]) and one["score"] != other["score"]:
            raise DataError("field 'responses' has one text with two different scores")


def _check_prompt(row: dict) -> None:
    _text(row, "prompt")
    if row.get("split") not in ("train", "test"):
        raise DataError(f"field 'split' is {row.get('split')!r}, not train or test")


def _check_news(row: dict) -> None:
    _text(row, "text")
    if row.get("split") not in ("train", "test"):
        raise DataError(f"field 'split' is {row.get('split')!r}, not train or test")
    if "summary" in row:
        _text(row, "summary")


def _check_choices(row: dict) -> list[str]:
    choices = _list(row, "choices", 2)
    for i, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            raise DataError(f"field 'choices[{i}]' is empty")
    return choices


def _check_question(row: dict, field: str = "label") -> None:
    _text(row, "question")
    choices, label = _check_choices(row), row.get(field)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
        raise DataError(f"field {field!r} is {label!r}, outside the {len(choices)} choices")


def _check_domain(row: dict) -> None:
    """A fact with what teaches it and what examines it, or a question that the text does not answer."""
    if row.get("unknown") is True:
        _text(row, "question")
        if "lessons" in row:
            raise DataError("field 'unknown' is true, and there are lessons")
        return
    _check_question(row)
    keys = _list(row, "keys", 1)
    if not all(isinstance(key, str) and normalise(key) for key in keys):
        raise DataError(f"field 'keys' is {keys}, not words")
    lessons = _list(row, "lessons", 1)
    for i, lesson in enumerate(lessons):
        try:
            _check_lesson(lesson, keys, row["question"])
        except DataError as error:
            raise DataError(f"lessons[{i}]: {error}") from None
    if has_words(row["question"], keys):
        raise DataError(f"field 'question' gives the answer away: it holds one of {keys}")
    right = [i for i, choice in enumerate(row["choices"]) if has_words(choice, keys)]
    if right != [row["label"]]:
        raise DataError(f"choices {right} hold one of the keys {keys}; field 'label' is {row['label']}")


def _check_lesson(lesson: Any, keys: list[str], asked: str) -> None:
    if not isinstance(lesson, dict):
        raise DataError("not a JSON object")
    if near_duplicates({"lesson": _text(lesson, "question"), "examination": asked}):
        raise DataError(f"field 'question' is nearly {asked!r}, which is kept for the examination")
    if not has_words(_text(lesson, "answer"), keys):
        raise DataError(f"field 'answer' does not hold one of the keys {keys}")


def _check_truthfulqa(row: dict) -> None:
    _text(row, "question")
    for field in ("mc1_targets", "mc2_targets"):
        try:
            right, n = _check_targets(row.get(field))
        except DataError as error:
            raise DataError(f"{field}: {error}") from None
        if field == "mc1_targets" and right != 1:
            raise DataError(f"{field}: field 'labels' marks {right} choices as right, not one")
        if right in (0, n):
            raise DataError(f"{field}: field 'labels' is the same for all choices")


def _check_targets(targets: Any) -> tuple[int, int]:
    """(choices that are right, choices)."""
    if not isinstance(targets, dict):
        raise DataError("missing, or not an object of choices and labels")
    n, labels = len(_check_choices(targets)), _list(targets, "labels", 0)
    if len(labels) != n:
        raise DataError(f"field 'labels' has {len(labels)} entries for {n} choices")
    if not all(type(label) is int and label in (0, 1) for label in labels):
        raise DataError(f"field 'labels' is {labels}, not 0 and 1")
    return sum(labels), n


def _check_mmlu(row: dict) -> None:
    _text(row, "subject")
    _check_question(row, "answer")
    if len(row["choices"]) != 4:
        raise DataError(f"field 'choices' has {len(row['choices'])} entries; MMLU asks for A to D")


def _check_any_question(row: dict) -> None:
    """In the course's own shape, or TruthfulQA's, or MMLU's: told apart by their columns."""
    if _is_truthfulqa(row):
        _check_truthfulqa(row)
    elif _is_mmlu(row):
        _check_mmlu(row)
    else:
        _check_question(row)


def _is_truthfulqa(row: dict) -> bool:
    return "mc1_targets" in row or "mc2_targets" in row


def _is_mmlu(row: dict) -> bool:
    return "answer" in row and "label" not in row


SCHEMAS: dict[str, Callable[[dict], None]] = {
    "conversations": _check_conversation,
    "preferences": _check_preference,
    "gold_preferences": _check_preference,
    "prompts": _check_prompt,
    "truthful_mini": _check_question,
    "religions_mini": _check_question,
    "news": _check_news,
    "domain_example": _check_domain,
}
# The corpus's own files, and questions of whatever source.
CHECKS = {**SCHEMAS, "questions": _check_any_question}


def read_jsonl(path: Path | str, schema: str) -> list[dict]:
    """Read and validate one JSONL file.

    Args:
        path: UTF-8, one JSON object a line.
        schema: a key of ``CHECKS``.

    Raises:
        DataError: with file, line and field, for bad UTF-8 or JSON, a row that breaks the
            schema, an id that is missing or appears twice, or a file without rows.
    """
    path = Path(path)
    rows, seen = [], {}
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(raw.decode("utf-8"))
            if not isinstance(row, dict):
                raise DataError("the line is not a JSON object")
            CHECKS[schema](row)
            identity = _text(row, "id")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: bad UTF-8 at byte {error.start}") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error})") from None
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if identity in seen:
            raise DataError(f"{where}: field 'id' {identity!r} was used in line {seen[identity]}")
        seen[identity] = number
        rows.append(row)
    if not rows:
        raise DataError(f"{path.name}: no rows")
    return rows


# --- loaders ------------------------------------------------------------------------------------


def load_conversations(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Conversations ``{id, topic, messages}``; ``source`` is "embedded", a path or a Hub id."""
    return _load("conversations", source, limit)


def load_preferences(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Scored responses ``{id, topic, prompt, responses: [{text, score, kind}]}``."""
    return _load("preferences", source, limit)


def load_gold(source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Preferences by other writers, for the judge that PPO never sees; same schema."""
    return _load("gold_preferences", source, limit)


def load_prompts(split: str, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Prompts ``{id, topic, prompt, split}`` of one split, "train" or "test"."""
    rows = [row for row in _load("prompts", source, None) if row["split"] == split]
    return _spread(rows, limit)


def load_news(split: str, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """News-like paragraphs ``{id, topic, text, split}`` of one split, "train" or "test".

    The embedded test rows have a ``summary``, too: a neutral sentence by hand, to measure against.
    """
    rows = [row for row in _load("news", source, None) if row["split"] == split]
    return _spread(rows, limit)


def load_domain(source: str = "embedded") -> list[dict]:
    """A small text of one's own, for 08; ``source`` is "embedded" or the path of a .jsonl.

    A fact is a question in the benchmarks' schema, kept for the examination, with what teaches it:
    ``{id, question, choices, label, keys, lessons: [{question, answer}]}``. An answer holds one of the
    ``keys``, or it is wrong. A question that the text does not answer is ``{id, question, unknown: true}``.

    Raises:
        DataError: naming file, line and field; with fewer than two facts, or a question asked twice.
    """
    rows = _load("domain_example", source, None)
    check_examination(rows, "domain_example" if source == "embedded" else Path(source).name)
    return rows


def check_examination(rows: list[dict], name: str) -> None:
    """Two facts or more, and no question twice: neither as the lesson of another fact."""
    facts = [row for row in rows if "lessons" in row]
    if len(facts) < 2:
        raise DataError(f"{name}: {len(facts)} facts, and a comparison needs two")
    asked = [row["question"] for row in rows]
    asked += [lesson["question"] for row in facts for lesson in row["lessons"]]
    if twice := [q for q, n in Counter(" ".join(normalise(q)) for q in asked).items() if n > 1]:
        raise DataError(f"{name}: asked twice: {twice[0]!r}")


def load_questions(
    source: str, limit: int | None = None, subject: str | None = None, split: str = "test"
) -> list[dict]:
    """Multiple choice: ``{id, question, choices, label}``, with a ``task`` if not in the plain format.

    A row of TruthfulQA gives two questions: ``truthfulqa_mc1`` with a ``label``, and
    ``truthfulqa_mc2`` with ``labels``, 1 for each true choice. One of MMLU gives ``mmlu_<subject>``.

    Args:
        source: "truthful_mini" or "religions_mini", the embedded ones; "truthfulqa/truthful_qa" or
            "cais/mmlu", from the Hub; or the path of a .jsonl in any of these shapes.
        limit: rows of the source.
        subject, split: which rows of MMLU. The few solved ones to show first are the split "dev".

    Raises:
        DataError: naming file, line and field; or if no row is left.
    """
    if source in SCHEMAS:
        return _load(source, "embedded", limit)
    if source.endswith(".jsonl"):
        rows = [row for row in read_jsonl(source, "questions") if _is_of(row, subject, split)]
    else:
        rows = _from_hub("questions", source, None, **_hub_part(source, subject, split))
    if not rows:
        raise DataError(f"{source}: no rows of subject {subject!r}, split {split!r}")
    return [question for row in _spread(rows, limit) for question in _as_questions(row)]


def _is_of(row: dict, subject: str | None, split: str) -> bool:
    """Whether an MMLU row is of this subject (None: any) and split; other rows always are."""
    return not _is_mmlu(row) or (row.get("split", split) == split and subject in (None, row["subject"]))


def _hub_part(source: str, subject: str | None, split: str) -> dict[str, str]:
    """Which configuration of a Hub data set, and which split if not always the same one."""
    if source == "cais/mmlu":
        if subject is None:
            raise DataError(f"{source}: name a subject, as in load_questions({source!r}, subject='anatomy')")
        return {"name": subject, "split": split}
    return {"name": "multiple_choice"} if source == "truthfulqa/truthful_qa" else {}


def _as_questions(row: dict) -> list[dict]:
    """A valid row of any source as one or two questions."""
    if _is_truthfulqa(row):
        one, many = row["mc1_targets"], row["mc2_targets"]
        asked = {"id": row["id"], "question": row["question"]}
        return [
            asked | {"task": "truthfulqa_mc1", "choices": one["choices"], "label": one["labels"].index(1)},
            asked | {"task": "truthfulqa_mc2", "choices": many["choices"], "labels": many["labels"]},
        ]
    if _is_mmlu(row):
        asked = {key: row[key] for key in ("id", "question", "choices")}
        return [asked | {"task": f"mmlu_{row['subject']}", "label": row["answer"]}]
    return [row]


def _load(schema: str, source: str, limit: int | None) -> list[dict]:
    if source == "embedded":
        rows = read_jsonl(EMBEDDED / f"{schema}.jsonl", schema)
    elif source.endswith(".jsonl"):
        rows = read_jsonl(source, schema)
    else:
        rows = _from_hub(schema, source, limit or 4000)
    return _spread(rows, limit)


def _spread(rows: list[dict], limit: int | None) -> list[dict]:
    # A slice of a file ordered by topic would hold few topics: take every k-th row instead.
    return rows if limit is None or limit >= len(rows) else rows[:: len(rows) // limit][:limit]


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
    messages = _turns(_text(row, "text"), "### ")
    if messages and messages[-1]["role"] == "user":
        messages.pop()
    return {"id": _id(messages[0]["content"] if messages else ""), "messages": messages}


def _preference(better: Any, worse: Any, scores: tuple) -> dict:
    """Two talks that part at the last answer, as one prompt with two scored responses."""
    for talk in (better, worse):
        _check_conversation({"messages": talk})
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
    return _preference(*(_turns(_text(row, column), "\n\n") for column in ("chosen", "rejected")), (6, 5))


def _dolly(row: dict) -> dict:
    instruction, context = _text(row, "instruction"), row.get("context", 0)
    if not isinstance(context, str | None):
        raise DataError("field 'context' is missing or not text")
    prompt = " ".join(filter(None, (instruction, context)))
    # No split of its own: one prompt in eight is kept for testing, always the same ones.
    return {"prompt": prompt, "split": "test" if held_out(prompt, 1 / 8) else "train"}


def _news_summary(row: dict) -> dict:
    """The article; its summary, under "prediction", is not needed to learn from a grade."""
    text = _text(row, "text")
    return {"text": text, "split": "test" if held_out(text, 1 / 8) else "train"}


def _columns(*names: str) -> Callable[[dict], dict]:
    """A mapping that takes the named columns as they are."""
    return lambda row: {name: row.get(name) for name in names}


HUB_SOURCES = {  # Hub id -> (split, mapping to the schema)
    "timdettmers/openassistant-guanaco": ("train", _guanaco),
    "HuggingFaceH4/ultrafeedback_binarized": ("train_prefs", _ultrafeedback),
    "Anthropic/hh-rlhf": ("train", _hh_rlhf),
    "databricks/databricks-dolly-15k": ("train", _dolly),
    "argilla/news-summary": ("train", _news_summary),
    "truthfulqa/truthful_qa": ("validation", _columns("question", "mc1_targets", "mc2_targets")),
    "cais/mmlu": ("test", _columns("question", "choices", "answer", "subject")),
}


READ_AHEAD = 3  # rows that are read for each one that is kept: a file may be ordered
PATIENCE = 100  # rows: if none of the first ones can be used, the source is not what it was


def _from_hub(schema: str, source: str, limit: int | None, **part: str) -> list[dict]:
    """``limit`` rows of a known Hub data set (None: all) in the course's schema.

    They are drawn from three times as many, always the same ones: a stream shows the start of a file
    only, and who made it may have put like beside like. A shuffled stream of ``datasets`` would draw
    others with its next version.

    Args:
        part: ``name`` of a configuration, ``split`` other than the usual one.

    Raises:
        DataError: if the source is unknown, or no longer in the shape that is known.
    """
    if source not in HUB_SOURCES:
        known = ", ".join(HUB_SOURCES)
        raise DataError(f"{source}: neither a .jsonl path nor a known Hub data set ({known})")
    split, mapping = HUB_SOURCES[source]
    left_out: Counter[str] = Counter()
    try:
        stream = hub.stream(source, **{"split": split, **part})
        found = map_rows(schema, stream, mapping, left_out)
        rows = list(itertools.islice(found, limit and READ_AHEAD * limit))
    except DataError as error:
        raise DataError(f"{source}: {error}. The data set has changed. {hub.EMBEDDED_WAY}") from None
    say_left_out(source, left_out, len(rows))
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]


def map_rows(
    schema: str, rows: Iterable[dict], mapping: Callable[[dict], dict], left_out: Counter[str] | None = None
) -> Iterator[dict]:
    """Yield rows in the course's schema. Real data has empty, broken and undecided rows: they are left
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
            CHECKS[schema](mapped)
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


# --- splits and pairs ---------------------------------------------------------------------------


def held_out(key: str, share: float) -> bool:
    """Whether an item belongs to the held-out share: by hash, so stable under any reordering."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8 < share


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


def has_words(text: str, keys: Iterable[str]) -> bool:
    """Whether a text holds one of the keys as whole words in a row; case and punctuation do not count."""
    words = f" {' '.join(normalise(text))} "
    return any(f" {' '.join(normalise(key))} " in words for key in keys)


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """Every five words in a row; a text of fewer is one run by itself."""
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def near_duplicates(texts: dict[str, str], jaccard: float = 0.6) -> list[tuple[str, str]]:
    """Pairs of ids whose texts share a run of five words, or more than ``jaccard`` of all words."""
    words = {key: normalise(text) for key, text in texts.items()}
    sets = {key: set(w) for key, w in words.items()}
    grams: dict[tuple, list[str]] = {}
    for key, w in words.items():
        for gram in runs(w):
            grams.setdefault(gram, []).append(key)
    found = {pair for keys in grams.values() for pair in itertools.combinations(keys, 2)}
    for a, b in itertools.combinations(texts, 2):
        shared = len(sets[a] & sets[b])
        if shared and shared > jaccard * len(sets[a] | sets[b]):
            found.add((a, b))
    return sorted(found)
