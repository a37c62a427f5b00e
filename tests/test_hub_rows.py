"""The Hub's data sets, each in its own shape: what becomes of a row, and which rows are left out."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from sawyer_utils import data
from sawyer_utils.chapters import choices, summaries
from sawyer_utils.plumbing import hub, sources
from sawyer_utils.plumbing.sources import DataError, Told


def message(role: str, content: str) -> dict:
    return {"content": content, "role": role}


def guanaco(i: int) -> dict:
    return {"text": f"### Human: Question {i}?### Assistant: Answer {i}.### Human: And?### Assistant: So."}


def ultrafeedback(i: int) -> dict:
    asked, answers = message("user", f"Question {i}?"), (f"Good answer {i}.", f"Bad answer {i}.")
    talks = [[asked, message("assistant", answer)] for answer in answers]
    ids = {"prompt": f"Question {i}?", "prompt_id": f"{i:064x}", "messages": talks[0]}
    return {**ids, "chosen": talks[0], "rejected": talks[1], "score_chosen": 8.0, "score_rejected": 4.5}


def hh(i: int, subset: str = "") -> dict:
    start = f"\n\nHuman: {subset}Question {i}?\n\nAssistant: What do you mean?\n\nHuman: That.\n\nAssistant:"
    return {"chosen": f"{start} Good answer {i}.", "rejected": f"{start} Bad answer {i}."}


def dolly(i: int) -> dict:
    context = "" if i % 2 else f"Context {i}."
    return {"instruction": f"Question {i}?", "context": context, "response": f"Answer {i}.", "category": "qa"}


def truthfulqa(i: int) -> dict:
    two = {"choices": ["Right.", "Wrong."], "labels": [1, 0]}
    three = {"choices": ["Right.", "Right, too.", "Wrong."], "labels": [1, 1, 0]}
    return {"question": f"Question {i}?", "mc1_targets": two, "mc2_targets": three}


def mmlu(i: int) -> dict:
    named = [f"Choice {letter} of {i}" for letter in "ABCD"]
    return {"question": f"Question {i}?", "subject": "world_religions", "choices": named, "answer": i % 4}


def news(i: int) -> dict:
    return {"text": f"Question {i} was asked.", "prediction": [{"text": "Asked.", "score": 1.0}]}


def map_rows(schema, rows, left_out: Counter | None = None):
    """As ``sources.map_rows``, for rows without a place; the reasons go into ``left_out``."""
    told = Told(left_out=Counter() if left_out is None else left_out)
    return sources.map_rows(schema, ((f"row {i}", row) for i, row in enumerate(rows)), told)


SCHEMAS = (sources.CONVERSATIONS, sources.PREFERENCES, sources.GOLD, sources.PROMPTS)
SCHEMAS += (summaries.NEWS, choices.BENCHMARKS)
KNOWN = {name: schema for schema in SCHEMAS for name in schema.hub}
CONFIGURATIONS = {"truthfulqa/truthful_qa": "multiple_choice", "cais/mmlu": "world_religions"}
ASKED = "Human: Question 0?\n\nAssistant: What do you mean?\n\nHuman: That."
CONTEXTS = ["Question 0?\n\nContext 0.", "Question 1?", "Question 2?\n\nContext 2."]
SOURCES = {  # source -> (loader, a row, a column that the loader needs, what is looked at, what it may be)
    "timdettmers/openassistant-guanaco": (
        *(data.load_conversations, guanaco, "text", lambda row: [m["content"] for m in row["messages"]]),
        [["Question 0?", "Answer 0.", "And?", "So."]],
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        *(data.load_preferences, ultrafeedback, "score_chosen"),
        lambda row: (row["prompt"], data.pairs([row])[0].margin),
        [("Question 0?", 3.5)],
    ),
    "Anthropic/hh-rlhf": (
        *(data.load_gold, hh, "chosen", lambda row: (row["prompt"], *(r["text"] for r in row["responses"]))),
        [(ASKED, "Good answer 0.", "Bad answer 0.")],
    ),
    "databricks/databricks-dolly-15k": (
        lambda source, limit: data.load_prompts("train", source, limit),
        *(dolly, "instruction", lambda row: row["prompt"], CONTEXTS),
    ),
    "argilla/news-summary": (
        lambda source, limit: summaries.load_news("train", source, limit),
        *(news, "text", lambda row: row["text"], [f"Question {i} was asked." for i in range(3)]),
    ),
    "truthfulqa/truthful_qa": (
        lambda source, limit: choices.load_questions(source, limit)[::2],
        *(truthfulqa, "mc1_targets", lambda row: (row["task"], row["label"]), [("truthfulqa_mc1", 0)]),
    ),
    "cais/mmlu": (
        lambda source, limit: choices.load_questions(f"{source}:world_religions", limit),
        *(mmlu, "answer", lambda row: (row["task"], row["label"]), [("mmlu_world_religions", 0)]),
    ),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path, monkeypatch):
    """A source's (name, *its entry), and ``serve(rows)``: the file that it streams."""
    name, split = request.param, KNOWN[request.param].hub[request.param]
    path = tmp_path / CONFIGURATIONS.get(name, "data") / f"{split}-00000-of-00001.jsonl"
    path.parent.mkdir()

    def serve(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return name, *SOURCES[name], serve


def test_each_source_maps_and_a_limit_takes_more_than_its_start(source):
    """Files may be ordered: a few rows of each hundred, and always the same ones."""
    name, load, row, _, look, known, serve = source
    assert SOURCES.keys() == KNOWN.keys()
    serve(row(i) for i in range(900))
    found = load(name, 150)
    assert look(load(name, 900)[0]) in known
    numbers = [int(re.search(r"Question (\d+)", json.dumps(row))[1]) for row in found]
    assert len(numbers) == 150
    assert numbers == sorted(numbers)
    assert found == load(name, 150)
    hundreds = Counter(number // 100 for number in numbers)
    # Of a long stream three times the limit is read; questions, and what is split here, are read whole.
    reach = 4 if load in (data.load_conversations, data.load_preferences, data.load_gold) else 9
    assert all(hundreds[hundred] >= 5 for hundred in range(reach))


def test_a_renamed_column_names_the_source_its_columns_and_a_way_out(source):
    name, load, row, column, *_, serve = source
    serve({f"new_{k}" if k == column else k: v for k, v in row(i).items()} for i in range(3))
    said = rf"{name}: none of 3 rows can be used .*'new_{column}'.*The data set has changed\..*\"local\""
    with pytest.raises(DataError, match=said):
        load(name, 2)


def test_what_was_left_out_is_said_in_one_line(source, capsys):
    name, load, row, column, *_, serve = source
    serve(row(i) if i % 10 else {**row(i), column: None} for i in range(50))
    assert len(load(name, 50)) in range(30, 46)  # 45, and without those of the other split
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{name}: read as ")
    assert said[1].startswith(f"{name}: 5 of 50 rows left out: 5 × ")
    serve(row(i) for i in range(5))
    load(name, 5)
    assert "left out" not in capsys.readouterr().out


# --- rows that cannot be used -------------------------------------------------------------------

HH_START = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant:"
HELLO = {"text": "### Human: Hi.### Assistant: Hello."}
TURNS = "in a text with speakers user and assistant take turns"
BEFORE = "text before the first speaker"
MARKED = [  # a text with speakers, why it is left out
    ("### Human: Only a question", "no question with its answer"),
    ("", "field 'messages' is empty"),
    ("### Human: ### Assistant: An answer to nothing.", "field 'content' is empty"),
    ("### Human: Hi.### Assistant: ### Human: Hello?### Assistant: Yes.", "field 'content' is empty"),
    ("### Human: What does ### Human: mean?### Assistant: Your turn.", TURNS),
    ("### Human: Hi.### Assistant: One.### Assistant: Two.", TURNS),
    ("### Assistant: I begin.### Human: Hi.### Assistant: Hello.", TURNS),
    ("Hello! ### Human: Hi ### Assistant: Yes.", BEFORE),
    (None, "field 'messages' is empty"),
    (3, "field 'messages' must be a list"),
]
ODD = [  # (chosen, rejected) of a pair as texts, why it is left out
    (" Well.\n\nHuman: Thanks, bye.", " Fine.", "field 'messages' must end with the assistant"),
    (" Well.\n\nHuman: And?\n\nAssistant: So.", " Fine.", "the two talks part before the last answer"),
    (" Well.\n\nAssistant: And you?", " Fine.", TURNS),
    (" Well.", " Well. ", "field 'responses' has one text with two different scores"),
    (" Well.", " ", "field 'messages' must end with the assistant"),
    (" Well.", None, "field 'rejected' is empty"),
    (" Well.", 7, "field 'rejected' is missing or not text"),
]
PAIR = {"chosen": f"{HH_START} Well.", "rejected": f"{HH_START} Fine."}
CASES = [(sources.CONVERSATIONS, HELLO, {"text": text}, why) for text, why in MARKED]
for good, bad, why in ODD:
    two = [HH_START + text if isinstance(text, str) else text for text in (good, bad)]
    CASES.append((sources.PREFERENCES, PAIR, {"chosen": two[0], "rejected": two[1]}, why))
    if isinstance(bad, str):
        CASES.append((sources.PREFERENCES, PAIR, {"chosen": two[1], "rejected": two[0]}, why))
CASES += [
    (sources.PREFERENCES, PAIR, {**PAIR, "rejected": PAIR["rejected"].replace("Hello", "Bye")}, ODD[1][2]),
    (sources.PREFERENCES, PAIR, {**PAIR, "chosen": f"Note.{HH_START} Well."}, BEFORE),
]


@pytest.mark.parametrize(("schema", "good", "odd", "reason"), CASES)
def test_an_odd_talk_is_left_out_with_its_reason(schema, good, odd, reason):
    left_out = Counter()
    assert len(list(map_rows(schema, [good, odd, good], left_out))) == 2
    (said,) = left_out
    assert re.search(reason, said)


def test_guanaco_rows_become_conversations():
    rows = [
        {"text": "### Human: Hi there.### Assistant: Hello!\nYou?### Human: Fine.### Assistant: OK."},
        {"text": "### Human: One?### Assistant: Yes.### Human: And a question that nobody answered?"},
        {"text": "### Human: What is ### in Markdown?### Assistant: A heading: ### like this."},
    ]
    found = list(map_rows(sources.CONVERSATIONS, rows))
    assert [[m["content"] for m in row["messages"]] for row in found] == [
        ["Hi there.", "Hello!\nYou?", "Fine.", "OK."],
        ["One?", "Yes."],
        ["What is ### in Markdown?", "A heading: ### like this."],
    ]
    assert [m["role"] for m in found[0]["messages"]] == ["user", "assistant"] * 2
    assert len({row["id"] for row in sources.named(found)}) == 3


@pytest.mark.parametrize(("bad", "ends"), [(99, False), (100, True), (101, True)])
def test_a_source_is_given_up_when_none_of_its_first_hundred_rows_can_be_used(bad, ends):
    read = []
    good = {"instruction": "Why?", "context": None}
    rows = (read.append(i) or (good if i >= bad else {**good, "instruction": None}) for i in range(500))
    if ends:
        with pytest.raises(DataError, match=r"none of 100 rows can be used \(100 × field 'instruction'"):
            next(map_rows(sources.PROMPTS, rows))
        assert len(read) == 100, "a source of a million rows need not be read to its end"
    else:
        assert len(list(map_rows(sources.PROMPTS, rows))) == 401


def test_the_commonest_reasons_are_said(capsys):
    reasons = Counter({"a": 1000, "b": 3, "c": 2, "d": 2, "e": 2, "f": 1, "g": 1})
    Told(Counter(rows=4000), left_out=reasons).say("here", "gold_rows")
    said = "here: read as rows, 4,000 gold rows\n"
    said += "here: 1,011 of 5,011 rows left out: 1,000 × a; 3 × b; 2 × c; 2 × d; 2 × e\n"
    assert capsys.readouterr().out == said


def test_a_stream_ends_at_three_times_its_limit(monkeypatch):
    # The Hub is streamed: 50 rows must not read 15,000.
    read = []

    def stream(source, split):
        assert (source, split) == ("databricks/databricks-dolly-15k", "train")
        for i in range(15_000):
            read.append(i)
            yield {**dolly(i), "response": ""}

    monkeypatch.setattr(hub, "stream", stream)
    assert len(sources.load(sources.PROMPTS, "databricks/databricks-dolly-15k", 50)) == 50
    assert len(read) <= 3 * 50 + 10  # a few to learn the columns
    read.clear()
    assert len(sources.load(sources.PROMPTS, "databricks/databricks-dolly-15k")) == 4000
    assert len(read) <= 3 * 4000 + 10  # nor all of them where no limit is named


def test_the_split_of_each_known_pair_is_its_large_one():
    splits = {"HuggingFaceH4/ultrafeedback_binarized": "train_prefs", "Anthropic/hh-rlhf": "train"}
    assert sources.PREFERENCES.hub == sources.GOLD.hub == splits


@pytest.mark.parametrize("name", list(SOURCES)[:3])
def test_a_question_that_two_rows_ask_is_on_one_side_of_a_split(name):
    """UltraFeedback and Guanaco ask some questions several times: trained on, and judged by."""
    found = list(map_rows(KNOWN[name], [SOURCES[name][1](i % 40) for i in range(120)]))
    assert len(found) == 120
    first, second = ({sources.key_of(row) for row in side} for side in data.split_rows(found, 0.3))
    assert first
    assert second
    assert not first & second
