"""The Hub's data sets, each in its own shape: what becomes of a row, and which rows are left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from sawyer_utils import data
from sawyer_utils.chapters import choices, summaries
from sawyer_utils.plumbing import hub, sources
from sawyer_utils.plumbing.sources import DataError, Told

SHARED = Path(__file__).parents[2] / "shared" / "data"


def message(role: str, content: str) -> dict:
    return {"content": content, "role": role}


def guanaco(i: int) -> dict:
    return {"text": f"### Human: Question {i}?### Assistant: Answer {i}.### Human: And?### Assistant: So."}


def ultrafeedback(i: int) -> dict:
    asked, good, bad = message("user", f"Question {i}?"), f"Good answer {i}.", f"Bad answer {i}."
    return {
        "prompt": f"Question {i}?",
        "prompt_id": f"{i:064x}",
        "chosen": [asked, message("assistant", good)],
        "rejected": [asked, message("assistant", bad)],
        "messages": [asked, message("assistant", good)],
        "score_chosen": 8.0,
        "score_rejected": 4.5,
    }


def hh(i: int, subset: str = "") -> dict:
    start = f"\n\nHuman: {subset}Question {i}?\n\nAssistant: What do you mean?\n\nHuman: That.\n\nAssistant:"
    return {"chosen": f"{start} Good answer {i}.", "rejected": f"{start} Bad answer {i}."}


def dolly(i: int) -> dict:
    return {
        "instruction": f"Question {i}?",
        "context": "" if i % 2 else f"Context {i}.",
        "response": f"Answer {i}.",
        "category": "open_qa",
    }


def truthfulqa(i: int) -> dict:
    return {
        "question": f"Question {i}?",
        "mc1_targets": {"choices": ["Right.", "Wrong."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Right.", "Right, too.", "Wrong."], "labels": [1, 1, 0]},
    }


def mmlu(i: int) -> dict:
    choices = [f"Choice {letter} of {i}" for letter in "ABCD"]
    return {"question": f"Question {i}?", "subject": "world_religions", "choices": choices, "answer": i % 4}


def load_mmlu(source: str, limit: int) -> list[dict]:
    return choices.load_questions(f"{source}:world_religions", limit)


def news(i: int) -> dict:
    return {"text": f"Question {i} was asked.", "prediction": [{"text": "Asked.", "score": 1.0}]}


def map_rows(schema, rows, left_out: Counter | None = None):
    """As ``sources.map_rows``, for rows without a place; the reasons go into ``left_out``."""
    told = Told(left_out=Counter() if left_out is None else left_out)
    return sources.map_rows(schema, ((f"row {i}", row) for i, row in enumerate(rows)), told)


SCHEMAS = (
    sources.CONVERSATIONS,
    sources.PREFERENCES,
    sources.GOLD,
    sources.PROMPTS,
    summaries.NEWS,
    choices.BENCHMARKS,
)
KNOWN = {name: schema for schema in SCHEMAS for name in schema.hub}
CONFIGURATIONS = {"truthfulqa/truthful_qa": "multiple_choice", "cais/mmlu": "world_religions"}
SOURCES = {  # source -> (loader, a row, a column that the loader needs, what the first row becomes)
    "timdettmers/openassistant-guanaco": (
        data.load_conversations,
        guanaco,
        "text",
        lambda row: [m["content"] for m in row["messages"]] == ["Question 0?", "Answer 0.", "And?", "So."],
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        data.load_preferences,
        ultrafeedback,
        "score_chosen",
        lambda row: data.pairs([row])[0].margin == 3.5 and row["prompt"] == "Question 0?",
    ),
    "Anthropic/hh-rlhf": (
        data.load_gold,
        hh,
        "chosen",
        lambda row: (
            row["prompt"] == "Human: Question 0?\n\nAssistant: What do you mean?\n\nHuman: That."
            and [r["text"] for r in row["responses"]] == ["Good answer 0.", "Bad answer 0."]
        ),
    ),
    "databricks/databricks-dolly-15k": (
        lambda source, limit: data.load_prompts("train", source, limit),
        dolly,
        "instruction",
        lambda row: (
            row["prompt"] in ("Question 0?\n\nContext 0.", "Question 1?", "Question 2?\n\nContext 2.")
        ),
    ),
    "argilla/news-summary": (
        lambda source, limit: summaries.load_news("train", source, limit),
        news,
        "text",
        lambda row: row["text"] in {f"Question {i} was asked." for i in range(3)},
    ),
    "truthfulqa/truthful_qa": (
        lambda source, limit: choices.load_questions(source, limit)[::2],
        truthfulqa,
        "mc1_targets",
        lambda row: row["task"] == "truthfulqa_mc1" and row["label"] == 0,
    ),
    "cais/mmlu": (
        load_mmlu,
        mmlu,
        "answer",
        lambda row: row["task"] == "mmlu_world_religions" and row["label"] == 0,
    ),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path, monkeypatch):
    """A source's (name, loader, row, column, check), and ``serve(rows)``: the file that it streams."""
    name, split = request.param, KNOWN[request.param].hub[request.param]
    path = tmp_path / CONFIGURATIONS.get(name, "data") / f"{split}-00000-of-00001.jsonl"
    path.parent.mkdir()

    def serve(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return name, *SOURCES[name], serve


def test_each_source_maps_from_a_file_in_its_own_shape(source):
    name, load, row, _, first_is_right, serve = source
    assert SOURCES.keys() == KNOWN.keys()
    serve(row(i) for i in range(40))
    assert first_is_right(load(name, 40)[0])
    assert len(load(name, 20)) == 20


def numbers(rows: list[dict]) -> list[int]:
    return [int(re.search(r"Question (\d+)", json.dumps(row))[1]) for row in rows]


def test_a_limit_takes_more_than_the_start_of_a_file(source):
    """Files may be ordered: a few rows of each hundred, and always the same ones."""
    name, load, row, *_, serve = source
    serve(row(i) for i in range(900))
    found = numbers(load(name, 150))
    assert len(found) == 150
    hundreds = Counter(number // 100 for number in found)
    # Of a long stream three times the limit is read; questions, and what is split here, are read whole.
    reach = 4 if load in (data.load_conversations, data.load_preferences, data.load_gold) else 9
    assert all(hundreds[hundred] >= 5 for hundred in range(reach))
    assert found == sorted(found) == numbers(load(name, 150))


def test_a_renamed_column_names_the_source_its_columns_and_a_way_out(source):
    name, load, row, column, _, serve = source
    serve({f"new_{k}" if k == column else k: v for k, v in row(i).items()} for i in range(3))
    with pytest.raises(DataError, match=f"{name}: none of 3 rows can be used .*'new_{column}'") as caught:
        load(name, 2)
    assert "The data set has changed." in str(caught.value)
    assert 'SAWYER_PROFILE"] = "local"' in str(caught.value)


# --- rows that cannot be used -------------------------------------------------------------------

GONE = object()


def places(value, path=()) -> list[tuple]:
    """The path of every value in a row, however deep."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in below for place in places(inner, (*path, key))]


def damaged(row: dict, path: tuple, value) -> dict:
    copy = json.loads(json.dumps(row))
    target = copy
    for key in path[:-1]:
        target = target[key]
    if value is GONE:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", SOURCES)
def test_one_row_damaged_anywhere_costs_that_row_at_most(name):
    """A null, a wrong type, an empty text or a missing key, at every place of a row."""
    schema, (_, make, needed, _) = KNOWN[name], SOURCES[name]
    whole = [{**row, "id": ""} for row in map_rows(schema, [make(0), make(2)])]
    assert len(whole) == 2
    tried = 0
    for path in places(make(1)):
        for value in (None, 3, 2.5, True, "", " \n", [], [None], {}, {"a": 1}, GONE):
            rows = [make(0), damaged(make(1), path, value), make(2)]
            left_out = Counter()
            kept = list(map_rows(schema, rows, left_out))
            assert len(kept) + left_out.total() == 3, (path, value)
            found = [{**row, "id": ""} for row in kept]  # some ids are row numbers
            assert all(row in found for row in whole), (path, value)
            if path == (needed,) and value not in (3, 2.5):  # which may be a score or a label
                assert left_out.total() == 1, (path, value)
            if left_out:
                tried += 1
                with pytest.raises(DataError, match="none of 2 rows can be used"):
                    list(map_rows(schema, [rows[1]] * 2))
    assert tried >= 10


def test_what_was_left_out_is_said_in_one_line(source, capsys):
    name, load, row, column, _, serve = source
    serve(row(i) if i % 10 else damaged(row(i), (column,), None) for i in range(50))
    assert len(load(name, 50)) in range(30, 46)  # 45, and without those of the other split
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{name}: read as ")
    assert said[1].startswith(f"{name}: 5 of 50 rows left out: 5 × ")
    serve(row(i) for i in range(5))
    load(name, 5)
    assert "left out" not in capsys.readouterr().out


# --- single sources ----------------------------------------------------------------------------


def test_guanaco_rows_become_conversations():
    rows = [
        {"text": "### Human: Hi there.### Assistant: Hello!\nYou?### Human: Fine.### Assistant: OK."},
        {"text": "### Human: One?### Assistant: Yes.### Human: And a question that nobody answered?"},
        {"text": "### Human: Only a question"},  # skipped: nothing to learn from
        {"text": ""},
        {"text": "### Human: ### Assistant: An answer to nothing."},
        {"text": "### Human: Hi.### Assistant: ### Human: Hello?### Assistant: Yes."},
        {"text": "### Human: What does ### Human: mean?### Assistant: Your turn."},
        {"text": "### Human: Hi.### Assistant: One.### Assistant: Two."},
        {"text": "### Assistant: I begin.### Human: Hi.### Assistant: Hello."},
        {"text": None},
        {"text": "### Human: What is ### in Markdown?### Assistant: A heading: ### like this."},
    ]
    left_out = Counter()
    found = list(map_rows(sources.CONVERSATIONS, rows, left_out))
    assert left_out.total() == 8
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


def test_the_commonest_reasons_are_said_and_the_others_counted(capsys):
    reasons = Counter({"a": 1000, "b": 3, "c": 2, "d": 2, "e": 2, "f": 1, "g": 1})
    Told(Counter(rows=4000), left_out=reasons).say("here", "gold_rows")
    said = "here: read as rows, 4,000 gold rows\n"
    said += "here: 1,011 of 5,011 rows left out: 1,000 × a; 3 × b; 2 × c; 2 × d; 2 × e; 2 × others\n"
    assert capsys.readouterr().out == said


HH_START = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (" Well.\n\nHuman: Thanks, bye.", " Fine.", "field 'messages' must end with the assistant"),
        (" Well.\n\nHuman: And?\n\nAssistant: So.", " Fine.", "the two talks part before the last answer"),
        (
            " Well.\n\nAssistant: And you?",
            " Fine.",
            "messages: field 'role' is 'assistant': user and assistant",
        ),
        (" Well.", " Well. ", "field 'responses' has one text with two different scores"),
        (" Well.", " ", "messages: field 'content' is empty"),
        (" Well.", None, "field 'rejected' is missing or not text"),
        (" Well.", 7, "field 'rejected' is missing or not text"),
    ],
)
def test_an_odd_talk_is_left_out_with_its_reason(chosen, rejected, reason):
    good = {"chosen": f"{HH_START} Well.", "rejected": f"{HH_START} Fine."}
    odd = {"chosen": HH_START + chosen}
    odd["rejected"] = HH_START + rejected if isinstance(rejected, str) else rejected
    swapped = {"chosen": odd["rejected"], "rejected": odd["chosen"]}
    for row in (odd, swapped) if isinstance(rejected, str) else (odd,):
        left_out = Counter()
        both = map_rows(sources.PREFERENCES, [good, row, good], left_out)
        assert len(list(both)) == 2
        (said,) = left_out
        assert said.startswith(reason)


def test_talks_that_part_early_are_left_out():
    row = {"chosen": f"{HH_START} Well.", "rejected": f"{HH_START} Fine.".replace("Hello", "Goodbye")}
    left_out = Counter()
    with pytest.raises(DataError):
        list(map_rows(sources.PREFERENCES, [row], left_out))
    assert left_out == {"the two talks part before the last answer": 1}


def test_what_precedes_the_first_speaker_is_not_dropped():
    for schema, row in (
        (
            sources.PREFERENCES,
            {"chosen": f"Note.{HH_START} a", "rejected": f"{HH_START} b"},
        ),
        (sources.CONVERSATIONS, {"text": "Hello! ### Human: Hi ### Assistant: Yes."}),
    ):
        with pytest.raises(DataError, match="text before the first speaker"):
            list(map_rows(schema, [row]))


def real_rows(name: str) -> list[dict]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is missing: real rows are tried only where they are")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_real_conversations_map(tokenizer):
    from sawyer_utils.chat import decode, encode

    threads = real_rows("oasst_en_threads.jsonl")
    names = {"user": "Human", "assistant": "Assistant"}
    rows = [
        {"text": "".join(f"### {names[m['role']]}: {m['content']}" for m in row["messages"])}
        for row in threads
    ]
    found = list(map_rows(sources.CONVERSATIONS, rows))
    assert len(found) == len(threads)
    for row, thread in zip(found, threads, strict=True):
        assert [m["content"] for m in row["messages"]] == [m["content"].strip() for m in thread["messages"]]
        # Real answers have code, lists and headings; all of it survives the tokens.
        reply = row["messages"][-1]
        assert decode(tokenizer, encode(tokenizer, [reply]).ids[1:]) == reply["content"]


def test_real_human_preferences_map():
    rows = real_rows("hh_rlhf_helpful.jsonl")
    names = {"user": "Human", "assistant": "Assistant"}
    asked = ["".join(f"\n\n{names[m['role']]}: {m['content']}" for m in row["prompt"]) for row in rows]
    talks = [
        {name: f"{start}\n\nAssistant: {row[name]}" for name in ("chosen", "rejected")}
        for start, row in zip(asked, rows, strict=True)
    ]
    left_out = Counter()
    found = list(map_rows(sources.PREFERENCES, talks, left_out))
    assert len(found) + left_out.total() == len(rows) == 2000
    assert len(found) >= 1950, left_out
    pairs = data.pairs(found)
    assert len(pairs) == len(found)
    known = {(row["chosen"].strip(), row["rejected"].strip()): [] for row in rows}
    for row in rows:
        last = row["prompt"][-1]["content"].strip()
        shown = last if len(row["prompt"]) == 1 else f"\n\nHuman: {last}"
        known[row["chosen"].strip(), row["rejected"].strip()].append(shown)
    for pair in pairs:
        assert any(pair.prompt.endswith(shown) for shown in known[pair.chosen, pair.rejected])


def test_a_stream_ends_at_three_times_its_limit(monkeypatch):
    # The Hub is streamed: 50 rows must not read 15,000.
    read = []

    def stream(source, split):
        assert (source, split) == ("databricks/databricks-dolly-15k", "train")
        for i in range(15_000):
            read.append(i)
            yield {"instruction": f"Question {i}?", "context": "", "response": "", "category": ""}

    monkeypatch.setattr(hub, "stream", stream)
    assert len(sources.load(sources.PROMPTS, "databricks/databricks-dolly-15k", 50)) == 50
    assert len(read) <= 3 * 50 + 10  # a few to learn the columns


@pytest.mark.parametrize("name", list(SOURCES)[:3])
def test_a_question_that_two_rows_ask_is_on_one_side_of_a_split(name):
    """UltraFeedback and Guanaco ask some questions several times: trained on, and judged by."""
    schema, make = KNOWN[name], SOURCES[name][1]
    found = list(map_rows(schema, [make(i % 40) for i in range(120)]))
    assert len(found) == 120
    sides = data.split_rows(found, 0.3)
    first, second = ({row.get("prompt") or row["messages"][0]["content"] for row in side} for side in sides)
    assert first
    assert second
    assert not first & second
