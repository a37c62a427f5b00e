"""The forms in which people have their data, told apart by their columns, as rows of the course.

What a conversation of the course cannot hold: a system message is put before the first question; turns of
one speaker in a row are joined; an answer before the first question, and a question at the end that has no
answer, are dropped. Each is counted (``done``) and said. A talk with a turn of anybody else (a tool), or with
more than text in it, is left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sawyer_utils.plumbing.reading import DataError, Rows, Unusable, within

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
ROLES = dict.fromkeys(("user", "human", "prompter"), "user")
ROLES |= dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant")
ROLES |= dict.fromkeys(("system", "developer"), "system")
ASKED, ANSWERED = "prompt|question|instruction|query|input", "completion|response|answer|output|reply"
CHOSEN, REJECTED = "chosen|chosen_response|preferred", "rejected|rejected_response|dispreferred"
TALKS, ARTICLES = "messages|conversations|conversation", "text|article|document"
BETTER_SCORE = "score_chosen|chosen_score|chosen-rating|chosen_rating"
WORSE_SCORE = "score_rejected|rejected_score|rejected-rating|rejected_rating"
BETTER, WORSE = 6, 5  # of 10, where nobody gave a score: which is better, not by how much


@dataclass(frozen=True)
class Form:
    """One form of rows: its columns ("a|b": either) and what becomes of a row.

    The mapping counts in its second argument what it changed, and raises DataError for a row that it cannot
    use.
    """

    name: str
    columns: tuple[str, ...]
    mapping: Callable[[dict, Counter], dict]

    def lacks(self, row: dict) -> list[str]:
        return [names for names in self.columns if not any(name in row for name in names.split("|"))]


def form_of(row: dict, forms: tuple[Form, ...]) -> Form:
    """The first form whose columns a row has.

    Raises:
        DataError: with the columns, and the nearest form.
    """
    for form in forms:
        if not form.lacks(row):
            return form
    nearest = max(forms, key=lambda form: (len(form.columns) - len(form.lacks(row)), -len(form.columns)))
    lacks = ", ".join(name.replace("|", " or ") for name in nearest.lacks(row))
    raise DataError(
        f"a form that is not known, with the columns {list(row)}. The nearest known one is {nearest.name}; "
        f"it needs {lacks}, too"
    )


# --- fields and talks ---------------------------------------------------------------------------


def text_of(row: Any, name: str) -> str:
    """The text in a field."""
    if not isinstance(row, dict):
        raise DataError("not a JSON object")
    value = row.get(name, 0)  # null is an empty cell, and nothing is no text
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unusable(f"field {name!r} is empty")
    if not isinstance(value, str):
        raise DataError(f"field {name!r} is missing or not text")
    return value


def check_score(value: Any, name: str) -> None:
    """A score is a number from 1 to 10."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"field {name!r} is {value!r}, not a number")
    if not 1 <= value <= 10:
        raise DataError(f"field {name!r} is {value}, outside 1 to 10")


def first_of(row: dict, names: str) -> tuple[str, Any]:
    """(name, value) of the first of the fields that a row has, and that is not null."""
    known = [name for name in names.split("|") if name in row] or names.split("|")
    name = next((name for name in known if row.get(name) is not None), known[0])
    return name, row.get(name)


def talk(value: Any, done: Counter, system: str = "") -> list[dict]:
    """A list of messages, or one text with its speakers, as messages in turns, the first of the user.

    Args:
        system: a message that stands in a column of its own.
    """
    if value in (None, "", []):
        raise Unusable("field 'messages' is empty")
    value = _marked(value) if isinstance(value, str) else value
    if not isinstance(value, list):
        raise DataError("field 'messages' must be a list of messages")
    before, messages = [system] * bool(system), []
    for i, message in enumerate(value):
        with within(f"messages[{i}]"):
            role, text = _said(message)
        if role == "system":
            before += [text] * bool(text.strip())
        elif messages and role == messages[-1]["role"]:
            messages[-1]["content"] += f"\n\n{text}"
            done["turns of one speaker in a row joined"] += 1
        elif role == "user" or messages:
            messages.append({"role": role, "content": text})
        else:
            done["answers before the first question dropped"] += 1
    if before and messages:
        messages[0]["content"] = "\n\n".join((*before, messages[0]["content"]))
        done["system messages put before the first question"] += 1
    return messages


def _said(message: Any) -> tuple[str, str]:
    """(role, text) of one message."""
    if not isinstance(message, dict):
        raise DataError("not a message with role and content")
    name, role = first_of(message, "role|from")
    if not isinstance(role, str):
        raise DataError(f"field {name!r} is {role!r}: user, assistant or system")
    if role.lower() not in ROLES:
        raise Unusable(f"a turn of {role!r}, and the course knows user and assistant")
    name, content = first_of(message, "content|value|text")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if any(part.get("type") not in ("text", "input_text", "output_text") for part in content):
            raise Unusable(f"field {name!r} holds more than text")
        content = "\n".join(text_of(part, "text") for part in content)
    if message.get("tool_calls"):
        raise Unusable("a turn that calls a tool")
    role = ROLES[role.lower()]
    empty = role == "system" and isinstance(content, str)  # it may be
    return role, content if empty else text_of({name: content}, name)


def _marked(text: str) -> list[dict]:
    """A talk that is one text, ``Human: … Assistant: …`` (HH) or ``### Human: …`` (Guanaco), as messages. An
    "Assistant:" with nothing after it asks for an answer, and is no turn. Messages may be JSON in a text."""
    if text.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    text = "\n\n" + text.replace("\r\n", "\n").lstrip()
    marker = "### " if text.startswith("\n\n### ") else "\n\n"
    before, *parts = re.split(rf"{marker}({'|'.join(SPEAKERS)}):", text)
    if before.strip() or not parts:
        raise Unusable("text before the first speaker (Human: or Assistant:)")
    said = zip(parts[::2], parts[1::2], strict=True)
    messages = [{"role": SPEAKERS[who], "content": what.strip()} for who, what in said]
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    # Two in a row are not joined: it may be a text on the marks themselves.
    if [m["role"] for m in messages] != [("user", "assistant")[i % 2] for i in range(len(messages))]:
        raise Unusable("in a text with speakers user and assistant take turns")
    return messages


def _has_speakers(text: Any) -> bool:
    return isinstance(text, str) and text.lstrip().startswith(("Human:", "### Human:"))


def as_prompt(messages: list[dict]) -> str:
    """A question as it is; of a longer talk who said what, for a judge that reads it as one text."""
    if len(messages) == 1:
        return messages[0]["content"]
    names = {role: name for name, role in SPEAKERS.items()}
    return "\n\n".join(f"{names[message['role']]}: {message['content']}" for message in messages)


def questions_in(text: str) -> list[str]:
    """All that the user says in a talk that :func:`as_prompt` made one text; any other text as it is."""
    try:
        messages = _marked(text) if _has_speakers(text) else []
    except DataError:  # it only begins like one
        messages = []
    return [message["content"] for message in messages if message["role"] == "user"] or [text]


def _system(row: dict) -> str:
    """The system message in a column of its own; a row about an image is refused."""
    if any(row.get(name) not in (None, "", []) for name in ("image", "images")):
        raise Unusable("a row with an image")
    _, system = first_of(row, "system|system_prompt")
    return system if isinstance(system, str) and system.strip() else ""


def _asked(row: dict, done: Counter) -> list[dict]:
    """What a row asks, as messages that end with the user."""
    name, value = first_of(row, ASKED)
    if not isinstance(value, list) and not _has_speakers(value):
        context = row.get("input" if name != "input" and row.get("input") is not None else "context")
        if not isinstance(context, str | None):
            raise DataError("field 'input' or 'context' is not text")
        more = context if (context or "").strip().lower() not in ("", "<noinput>") else ""
        value = [{"role": "user", "content": "\n\n".join(filter(None, (text_of(row, name), more)))}]
    messages = talk(value, done, _system(row))
    if messages and messages[-1]["role"] == "assistant":
        messages.pop()
        done["answers at the end of a prompt dropped"] += 1
    if not messages:
        raise Unusable("nothing is asked")
    return messages


def _answers(row: dict, names: str) -> list:
    """What a row answers, as messages that are not looked at yet."""
    name, value = first_of(row, names)
    return value if isinstance(value, list) else [{"role": "assistant", "content": text_of(row, name)}]


# --- conversations ------------------------------------------------------------------------------


def _conversation(row: dict, done: Counter) -> dict:
    _, value = first_of(row, f"{TALKS}|text")
    return _ended(talk(value, done, _system(row)), done)


def _answered(row: dict, done: Counter) -> dict:
    if str(row.get("label")).lower() in ("false", "0"):
        raise Unusable("an answer that is labelled as bad")
    return _ended(talk([*_asked(row, done), *_answers(row, ANSWERED)], done), done)


def _ended(messages: list[dict], done: Counter) -> dict:
    if messages and messages[-1]["role"] == "user":
        messages.pop()
        done["questions at the end without an answer dropped"] += 1
    if len(messages) < 2:
        raise Unusable("no question with its answer")
    return {"messages": messages}


CONVERSATIONS = (
    Form("messages (TRL, OpenAI)", ("messages",), _conversation),
    Form("ShareGPT", ("conversations|conversation",), _conversation),
    Form("Alpaca", ("instruction", "output"), _answered),
    Form("prompt and completion (TRL)", ("prompt", "completion"), _answered),
    Form("questions with answers", (ASKED, ANSWERED), _answered),
    Form("a text with speakers (HH, Guanaco)", ("text",), _conversation),
)


# --- preferences --------------------------------------------------------------------------------


def _scored(row: dict, done: Counter) -> dict:
    """The course's own form."""
    prompt, responses = row.get("prompt"), row.get("responses")
    if isinstance(prompt, list):
        prompt = as_prompt(talk(prompt, done))
    for response in responses if isinstance(responses, list) else ():
        if isinstance(response, dict):
            response["score"] = _number(response.get("score"))
            response["kind"] = response["kind"] if isinstance(response.get("kind"), str) else "answer"
    kept = {name: row[name] for name in ("scored", "turns") if row.get(name) is not None}
    return {"prompt": prompt, "responses": responses, **kept}


def _completions(row: dict, done: Counter) -> dict:
    """UltraFeedback before it was made into pairs."""
    given = row["completions"]
    responses = [
        {"text": text_of(one, "response"), "score": first_of(one, "overall_score|fine-grained_score")[1]}
        for one in (given if isinstance(given, list) else ())
    ]
    return _scored({"prompt": as_prompt(_asked(row, done)), "responses": responses}, done)


def _pair(row: dict, done: Counter) -> dict:
    better, worse = _whole(row, CHOSEN, done), _whole(row, REJECTED, Counter())
    if better[:-1] != worse[:-1]:
        raise Unusable("the two talks part before the last answer")
    if len(better) < 2:
        raise Unusable("nothing is asked")
    scores = [_score(row, BETTER_SCORE), _score(row, WORSE_SCORE)]
    if scores.count(None) == 1:
        raise Unusable("only one of the two answers has a score")
    scored = None not in scores
    if scored and scores[0] < scores[1]:
        raise Unusable("the rejected answer has the higher score")
    texts = [(better[-1]["content"], "chosen"), (worse[-1]["content"], "rejected")]
    return _responses(better[:-1], texts, scores if scored else None)


def _score(row: dict, names: str) -> float | None:
    """From 1 to 10, a number or its text; None for an empty cell."""
    name, value = first_of(row, names)
    if value is None or value == "":
        return None
    value = _number(value)
    check_score(value, name)
    return value


def _number(value: Any) -> Any:
    """The number that a text spells; all else as it is."""
    with suppress(ValueError):
        return float(value.strip().replace(",", ".")) if isinstance(value, str) else value
    return value


def _whole(row: dict, names: str, done: Counter) -> list[dict]:
    """The talk up to one answer and with it: the answer's column may repeat the prompt."""
    answers, (_, value) = _answers(row, names), first_of(row, names)
    if isinstance(value, str):  # an answer may begin with "Human:" by itself
        repeats = _has_speakers(value) and "Assistant:" in value
    else:
        roles = [_said(message)[0] for message in value]
        repeats = next((role for role in roles if role != "system"), "") == "user"
    alone = repeats or first_of(row, ASKED)[1] is None
    found = talk(value, done, _system(row)) if alone else talk([*_asked(row, done), *answers], done)
    if not found or found[-1]["role"] != "assistant":
        raise Unusable("field 'messages' must end with the assistant")
    return found


def _responses(asked: list[dict], texts: list[tuple[str, str]], scores: list | None = None) -> dict:
    """(text, "chosen" or "rejected") of each answer; without scores the row says so, and margins are 0."""
    given = scores or [BETTER if kind == "chosen" else WORSE for _, kind in texts]
    responses = [{"text": t, "score": s, "kind": k} for (t, k), s in zip(texts, given, strict=True)]
    unscored = {} if scores else {"scored": False}
    return {"prompt": as_prompt(asked), "responses": responses, "turns": len(asked), **unscored}


def gathered(rows: Rows) -> Rows:
    """Rows as they are, but KTO's, one labelled answer each, put together by all that they ask."""
    groups: dict[str, tuple[str, dict]] = {}
    for place, row in rows:
        if next((form for form in PREFERENCES if not form.lacks(row)), None) is not KTO:
            yield place, row
            continue
        try:
            asked = as_prompt(_judged(row, Counter())[0])
        except DataError:  # it is named by its own line, and no other answer is lost
            yield place, {**row, "labelled": [row]}
        else:
            group = place, {**row, "labelled": []}
            groups.setdefault(" ".join(asked.split()), group)[1]["labelled"].append(row)
    yield from groups.values()


def _judged(row: dict, done: Counter) -> tuple[list[dict], str, str]:
    """What was asked, the answer, and what its label says."""
    if row["label"] not in (True, False):
        raise DataError(f"field 'label' is {row['label']!r}, not true or false")
    *asked, answer = talk([*_asked(row, done), *_answers(row, ANSWERED)], done)
    if answer["role"] != "assistant":
        raise Unusable("nothing is answered")
    return asked, answer["content"], "chosen" if row["label"] else "rejected"


def _labelled(row: dict, done: Counter) -> dict:
    judged = [_judged(one, done) for one in row["labelled"]]
    texts = dict.fromkeys((text, kind) for _, text, kind in judged)
    if len({kind for _, kind in texts}) < 2:
        raise Unusable("a prompt whose answers all have one label")
    return _responses(judged[0][0], sorted(texts, key=lambda text: text[1]))


KTO = Form("KTO: prompt, completion and label", (ASKED, ANSWERED, "label"), _labelled)
PREFERENCES = (
    Form("scored responses", ("prompt", "responses"), _scored),
    Form("UltraFeedback", ("instruction", "completions"), _completions),
    Form("UltraFeedback", ("chosen", "rejected", f"{BETTER_SCORE}|{WORSE_SCORE}"), _pair),
    Form("prompt, chosen and rejected (TRL)", (ASKED, CHOSEN, REJECTED), _pair),
    Form("chosen and rejected with their prompt (TRL, HH)", ("chosen", "rejected"), _pair),
    KTO,
)


# --- prompts and news ---------------------------------------------------------------------------


def _prompt(row: dict, done: Counter) -> dict:
    return {"prompt": as_prompt(_asked(row, done))}


def _first_question(row: dict, done: Counter) -> dict:
    """Of a conversation, or of a text that may be one."""
    name, value = first_of(row, f"{TALKS}|text")
    if name == "text" and not _has_speakers(value):
        return {"prompt": text_of(row, name)}
    messages = talk(value, done, _system(row))
    if not messages:
        raise Unusable("nothing is asked")
    return {"prompt": messages[0]["content"]}


def _news(row: dict, done: Counter) -> dict:
    """The article; a summary if there is one, to measure against."""
    summary = {"summary": row["summary"]} if row.get("summary") not in (None, "") else {}
    return {"text": text_of(row, first_of(row, ARTICLES)[0]), **summary}


PROMPTS = (
    Form("prompts", ("prompt|question|instruction|query",), _prompt),
    Form("first questions of conversations", (TALKS,), _first_question),
    Form("prompts, one a line", ("text",), _first_question),
)
NEWS = (Form("articles", (ARTICLES,), _news),)
