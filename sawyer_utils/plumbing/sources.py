"""Rows from a file or the Hub, checked: the one door for all that a user brings.

``reading.py`` finds and decodes files, ``formats.py`` knows the forms that people have; a :class:`Schema`
says what a row of one kind has to be, whether it comes from the corpus, a file, a folder or the Hub. Every
problem names the file, the line and the field, before anything trains.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sawyer_utils.plumbing import formats, hub, paths
from sawyer_utils.plumbing.formats import Form, check_score, text_of
from sawyer_utils.plumbing.reading import DataError, Rows, Unusable, locate, raw_rows, within

EMBEDDED = Path(__file__).parents[1] / "corpus"

# --- checks: each raises DataError for a row that breaks its schema -----------------------------


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
            check_score(response.get("score"), "score")
    if len({r["score"] for r in responses}) < 2:
        raise Unusable("field 'responses' needs at least two different scores")
    for one, other in itertools.combinations(responses, 2):
        if same_text(one["text"], other["text"]) and one["score"] != other["score"]:
            raise Unusable("field 'responses' has one text with two different scores")


def check_prompt(row: dict, name: str = "prompt") -> None:
    """``{prompt}`` and, if it is decided, ``split``; ``name`` is that of the text's field."""
    text_of(row, name)
    if (row.get("split") or "train") not in ("train", "test"):
        raise Unusable(f"field 'split' is {row['split']!r}, not train or test")


def choices_of(row: dict) -> list[str]:
    """The two or more texts in the field "choices"."""
    choices = list_of(row, "choices", 2)
    for i, choice in enumerate(choices):
        text_of({f"choices[{i}]": choice}, f"choices[{i}]")
    return choices


def check_question(row: dict, name: str = "label") -> None:
    """``{question, choices, label}``, multiple choice; ``name`` is that of the label's field."""
    text_of(row, "question")
    choices, label = choices_of(row), row.get(name)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(choices):
        raise DataError(f"field {name!r} is {label!r}, outside the {len(choices)} choices")


def read_jsonl(path: Path | str, check: Callable[[dict], None]) -> list[dict]:
    """The rows of a file in the course's own form, each with an id: the corpus, and votes.

    Raises:
        DataError: with file, line and field, for a row that fails the check, an id that is missing or
            appears twice, or a file without rows.
    """
    path, rows, seen = locate(str(path)), [], {}
    for place, row in raw_rows(path):
        with within(place):
            check(row)
            identity = text_of(row, "id")
            if identity in seen:
                raise DataError(f"field 'id' {identity!r} was used in {seen[identity]}")
        seen[identity] = place.removeprefix(f"{path.name}, ")
        rows.append(row)
    if not rows:
        raise DataError(f"{path.name}: no rows")
    return rows


# --- questions, and which side of a split they are on -------------------------------------------


def normalise(text: str) -> list[str]:
    """Lower-case words without punctuation; letters keep their marks (Hindi's vowel signs, an accent)."""
    kept = (c for c in unicodedata.normalize("NFC", text.lower()) if c.isspace() or in_word(c))
    return "".join(kept).split()


def in_word(char: str) -> bool:
    """Whether a character is part of a word: a letter, its mark, a digit or "_"."""
    variant = "\ufe00" <= char <= "\ufe0f"  # how an emoji is drawn
    return char.isalnum() or char == "_" or (unicodedata.category(char) in ("Mn", "Mc") and not variant)


def key_of(row: dict) -> str:
    """What a row of any kind asks first (or its text): the same for all rows that ask the same, but for
    case, punctuation and white space. Talks that begin alike are relatives, and stay on one side."""
    return keys_in(row)[0]


def keys_in(row: dict) -> list[str]:
    """As :func:`key_of`, of each of the user's turns."""
    if "messages" in row:
        asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
    else:
        asked = formats.questions_in(row[next(n for n in ("prompt", "question", "text") if n in row)])
    return [" ".join(normalise(text)) or " ".join(text.split()) for text in asked]


def _place(key: str) -> float:
    """A number from 0 to 1 by hash, so that order and neighbours decide nothing."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8


def held_out(key: str, share: float) -> bool:
    """Whether an item belongs to the held-out share."""
    return _place(key) < share


def held_of(keys: Iterable[str], share: float) -> set[str]:
    """The keys of the held-out share. Of few keys at least one is held out and one is not; of four or more
    two, for a stranger (``data.strangers``) needs another row.

    Raises:
        DataError: if all are the same.
    """
    order = sorted(set(keys), key=lambda key: (_place(key), key))
    wanted = sum(held_out(key, share) for key in order)
    if 0 < share < 1:
        if len(order) < 2:
            raise DataError(f"{len(order)} different questions: none can be kept for testing; two are needed")
        least = 1 if len(order) < 4 else 2
        wanted = min(max(wanted, least), len(order) - least)
    return set(order[:wanted])


def with_splits(rows: list[dict], name: str) -> list[dict]:
    """Rows with a ``split``. Where no row says "test", one question in eight is kept for it, always the same
    ones; a question that is in both is kept for the test alone.

    Raises:
        DataError: if there is nothing to train on, or one question only.
    """
    tested = {key_of(row) for row in rows if row.get("split") == "test"}
    if not tested:
        with within(name):
            tested = held_of(map(key_of, rows), 1 / 8)
        rows = [{**row, "split": "test" if key_of(row) in tested else "train"} for row in rows]
        count = sum(row["split"] == "test" for row in rows)
        print(f"{name}: no row has the split 'test': {count:,} of {len(rows):,} are kept for it.")
    kept = [row for row in rows if row.get("split") == "test" or key_of(row) not in tested]
    if len(kept) < len(rows):
        print(f"{name}: {len(rows) - len(kept):,} training rows left out: they are asked in the test, too.")
    if not any(row.get("split") != "test" for row in kept):
        raise DataError(f"{name}: every row has the split 'test', or is asked in it: nothing to train on")
    return [{**row, "split": row.get("split") or "train"} for row in kept]


def to_train_on(rows: list[dict], name: str) -> list[dict]:
    """Rows of a kind that is split later, without a ``split`` of their own. Where some are for training (or
    say nothing), those of another split are left out, and counted."""
    train = [row for row in rows if row.get("split", "train").startswith("train")] or rows
    if lost := len(rows) - len(train):
        print(f"{name}: {lost:,} of {len(rows):,} rows left out: their split is not 'train'.")
    return [{key: value for key, value in row.items() if key != "split"} for row in train]


# --- kinds of rows ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schema:
    """One kind of rows."""

    name: str  # of its file in the corpus
    check: Callable[[dict], None]
    forms: tuple[Form, ...] = ()  # that are recognised; without any, rows are taken as they are
    hub: dict[str, str] = field(default_factory=dict)  # known data set -> split, if not "train"
    has_split: bool = False
    gather: Callable[[Rows], Rows] = iter  # puts rows together that make one


GUANACO, DOLLY = "timdettmers/openassistant-guanaco", "databricks/databricks-dolly-15k"
PAIRED = {"HuggingFaceH4/ultrafeedback_binarized": "train_prefs", "Anthropic/hh-rlhf": "train"}
CONVERSATIONS = Schema("conversations", check_conversation, formats.CONVERSATIONS, {GUANACO: "train"})
PREFERENCES = Schema("preferences", check_preference, formats.PREFERENCES, PAIRED, gather=formats.gathered)
GOLD = replace(PREFERENCES, name="gold_preferences")
PROMPTS = Schema("prompts", check_prompt, formats.PROMPTS, {DOLLY: "train"}, has_split=True)


# --- loading ------------------------------------------------------------------------------------


def load(schema: Schema, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """Rows of the corpus ("embedded"), of a file, of a folder of files, or of a Hub data set, in any form
    that the schema knows. Which one, and what was changed or left out, is said.

    Args:
        limit: rows; None takes all of a file, and 4,000 of a Hub data set.

    Raises:
        DataError: naming file, line and field; or a source that does not exist.
        HubUnavailable: with the remedy.
    """
    if source == "embedded":
        return spread(read_jsonl(EMBEDDED / f"{schema.name}.jsonl", schema.check), limit)
    path = locate(str(source))
    rows = from_hub(schema, source, limit or HUB_ROWS) if path is None else from_file(schema, path)
    name = path.name if path else source
    return drawn(with_splits(rows, name) if schema.has_split else to_train_on(rows, name), limit, name)


def drawn(rows: list[dict], limit: int | None, source: str) -> list[dict]:
    """As :func:`spread`; how many are taken is said, but of the corpus."""
    kept = spread(rows, limit)
    if len(kept) < len(rows) and source != "embedded":
        print(f"{Path(source).name}: {len(kept):,} of {len(rows):,} drawn.")
    return kept


def spread(rows: list[dict], limit: int | None) -> list[dict]:
    """``limit`` of the rows at equal distances: the start of a file may be of one topic."""
    many = limit is None or limit >= len(rows)
    return rows if many else [rows[i * len(rows) // limit] for i in range(limit)]


def from_file(schema: Schema, path: Path) -> list[dict]:
    """All rows of a file or a folder but those that teach nothing.

    Raises:
        DataError: for a row that is broken, with file, line and field; or if no row is left.
    """
    told = Told()
    try:
        rows = list(map_rows(schema, raw_rows(path), told, strict=True))
    except Unusable as error:
        raise DataError(f"{path.name}: {error}") from None
    if not rows:
        raise DataError(f"{path.name}: no rows")
    told.say(path.name, schema.name)
    return named(rows) if schema.forms else rows


HUB_ROWS = 4000  # of a Hub data set, where nobody set a limit
READ_AHEAD = 3  # rows that are read for each one that is kept: a file may be ordered
PATIENCE = 100  # rows: if none of the first ones can be used, the source is not what it was


def from_hub(schema: Schema, source: str, limit: int | None, **part: str) -> list[dict]:
    """``limit`` rows of a Hub data set (None: all) in the course's schema.

    They are drawn from three times as many, for a file may be ordered, and always the same ones: a shuffled
    stream of ``datasets`` would draw others with its next version.

    Args:
        source: "owner/name", or "owner/name:configuration".
        part: ``name`` of a configuration, ``split`` other than the usual one.

    Raises:
        DataError: if its form is not known.
        HubUnavailable: if it cannot be read, with the remedy.
    """
    told = Told()
    try:
        name, configuration = paths.split_subject(source)
        part = {"name": configuration} | part if configuration else part
        stream = hub.stream(name, **{"split": schema.hub.get(name, "train"), **part})
        cut = limit and max(PATIENCE, 4 * READ_AHEAD * limit)  # KTO's are put together before any is counted
        places = ((f"row {number}", row) for number, row in enumerate(itertools.islice(stream, cut)))
        rows = list(itertools.islice(map_rows(schema, places, told), limit and READ_AHEAD * limit))
    except DataError as error:
        changed = f". The data set has changed. {hub.EMBEDDED_WAY}" if source in schema.hub else ""
        raise DataError(f"{source}: {error}{changed}") from None
    told.say(source, schema.name)
    if limit is not None and limit < len(rows):
        print(f"{source}: {limit:,} of {len(rows):,} drawn.")
        rows = [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]
    return named(rows) if schema.forms else rows


@dataclass
class Told:
    """What there is to say of a source."""

    forms: Counter[str] = field(default_factory=Counter)  # rows that were taken, by their form
    changed: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)  # by reason

    def say(self, source: str, kind: str) -> None:
        """A line on each of the three, if there is any."""
        lost, rows = self.left_out.total(), self.left_out.total() + self.forms.total()
        forms = (f"{form}, {count:,} {kind.replace('_', ' ')}" for form, count in self.forms.most_common())
        if self.forms:
            print(f"{source}: read as", "; ".join(forms))
        if self.changed:
            print(f"{source}: {_counts(self.changed)}")
        if lost:
            print(f"{source}: {lost:,} of {rows:,} rows left out: {_counts(self.left_out)}")


def _counts(reasons: Counter[str]) -> str:
    """The five commonest reasons."""
    return "; ".join(f"{n:,} × {reason}" for reason, n in reasons.most_common(5))


def map_rows(schema: Schema, rows: Rows, told: Told, strict: bool = False) -> Iterator[dict]:
    """Yield rows in the schema's form that pass its check. Real data has empty, broken and undecided rows:
    they are left out, and counted by reason.

    Args:
        strict: a row that is broken (not just :class:`Unusable`) is an error, with its place.

    Raises:
        DataError: with the reasons and the columns, if none of the first ``PATIENCE`` rows can be used,
            or none at all.
    """
    number, row = 0, {}
    for number, (place, row) in enumerate(schema.gather(_plain(rows)), 1):
        form, changed = None, Counter()
        try:
            if schema.forms:
                form = formats.form_of(row, schema.forms)
                mapped = {**form.mapping(row, changed), **_common(row)}
            else:
                mapped = {**row, "id": row.get("id") or f"row-{number - 1}"}
            schema.check(mapped)
        except DataError as error:
            if strict and not ((form or schema.has_split) and isinstance(error, Unusable)):
                raise DataError(f"{place}: {error}") from None
            told.left_out[re.sub(r"\[\d+\]", "", str(error))] += 1
            if number == PATIENCE == told.left_out.total() and not strict:
                break
        else:
            told.changed += changed
            told.forms[form.name if form else "they are"] += 1
            yield mapped
    if number and number == told.left_out.total():
        reasons = _counts(told.left_out)
        raise Unusable(f"none of {number} rows can be used ({reasons}); columns: {list(row)}")


def _plain(rows: Rows) -> Rows:
    """Rows without what pandas makes of a column with empty cells: null for NaN, and 3 for 3.0."""
    for place, row in rows:
        odd = {k: v for k, v in row.items() if isinstance(v, float) and (v != v or v.is_integer())}
        yield place, row | {name: None if v != v else int(v) for name, v in odd.items()}


def _common(row: dict) -> dict:
    """What rows of all forms may have: an id, a topic, and a split."""
    topic = row.get("topic")
    named = isinstance(topic, str) and topic.strip()
    split = {} if row.get("split") in (None, "") else {"split": str(row["split"]).strip().lower()}
    return {"id": row.get("id"), "topic": topic if named else "own", **split}


def named(rows: list[dict]) -> list[dict]:
    """Rows with ids. Their own, if each is a text and no two rows share an id or a question; else one made
    from the question, the same for all rows that ask it."""
    keys, own = [key_of(row) for row in rows], [row.get("id") for row in rows]
    texts = {name for name in own if isinstance(name, str) and name.strip()}
    if len(texts) == len(set(keys)) == len(rows):
        return rows
    return [{**row, "id": hashlib.sha256(key.encode()).hexdigest()[:16]} for row, key in zip(rows, keys)]
