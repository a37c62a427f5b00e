"""What people bring: every kind of file in every known form comes in by one door; every fault is named."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_hub_rows import GONE, damaged, places

from sawyer_utils import data
from sawyer_utils.chapters import choices, domain, summaries
from sawyer_utils.classroom import votes
from sawyer_utils.course import cli
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing import hub, paths, reading, sources
from sawyer_utils.plumbing.sources import DataError
from sawyer_utils.profiles import BROUGHT, PROFILES, current_profile

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SEPARATORS = "One\u2028two\u0085three"  # which end no line

# --- kinds of files -----------------------------------------------------------------------------


def jsonl(path: Path, rows: list[dict]) -> None:
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def windows(path: Path, rows: list[dict]) -> None:
    jsonl(path, rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")


def array(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8-sig")


def wrapped(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")


def zipped(path: Path, rows: list[dict]) -> None:
    jsonl(path, rows)
    path.write_bytes(gzip.compress(path.read_bytes()))


def table(delimiter: str):
    def write(path: Path, rows: list[dict]) -> None:
        cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(cells)

    return write


def parquet(path: Path, rows: list[dict]) -> None:
    pd.DataFrame(rows).to_parquet(path)


def folder(path: Path, rows: list[dict]) -> None:
    (path / "data").mkdir(parents=True)
    jsonl(path / "data" / "train-1.jsonl", rows[:1])
    parquet(path / "data" / "train-2.parquet", rows[1:])
    (path / "README.md").write_text("What this is.")
    (path / "dataset_info.json").write_text('{"splits": 1}')


FILES = {
    "mine.jsonl": jsonl,
    "windows.jsonl": windows,
    "mine.ndjson": jsonl,
    "no_ending": jsonl,
    "mine.json": array,
    "array.jsonl": array,
    "wrapped.json": wrapped,
    "mine.jsonl.gz": zipped,
    "mine.csv": table(","),
    "semicolons.csv": table(";"),
    "mine.tsv": table("\t"),
    "mine.parquet": parquet,
    "folder": folder,
}


def message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


ASKED = [message("user", f"Why {SEPARATORS}?"), message("assistant", "Because.")]
ROWS = {
    "conversations": [
        {"messages": ASKED},
        {"messages": [message("user", "Who?"), message("assistant", "I.")]},
    ],
    "preferences": [
        {"prompt": f"Why {SEPARATORS}?", "chosen": 'A, "good"; one', "rejected": "A bad\none"},
        {"prompt": "Who?", "chosen": "She.", "rejected": "Nobody."},
    ],
    "prompts": [{"prompt": f"Why {SEPARATORS}?", "split": "train"}, {"prompt": "Who?", "split": "test"}],
    "questions": [
        {"id": "a", "question": f"Why {SEPARATORS}?", "choices": ["this", "that"], "label": 1},
        {"id": "b", "question": "Who?", "choices": ["she", "he", "they"], "label": 0},
    ],
}
LOADERS = {
    "conversations": data.load_conversations,
    "preferences": data.load_preferences,
    "prompts": lambda path: [row for split in ("train", "test") for row in data.load_prompts(split, path)],
    "questions": choices.load_questions,
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, kind, capsys):
    path = tmp_path / name
    FILES[name](path, ROWS[kind])
    found = LOADERS[kind](str(path))
    assert f"{name}: read as " in capsys.readouterr().out
    assert len(found) == 2
    if kind == "questions":
        assert found == ROWS[kind]
    elif kind == "preferences":
        texts = [(row["prompt"], *(r["text"] for r in row["responses"])) for row in found]
        assert texts == [(row["prompt"], row["chosen"], row["rejected"]) for row in ROWS[kind]]
    else:
        key = "messages" if kind == "conversations" else "prompt"
        assert [row[key] for row in found] == [row[key] for row in ROWS[kind]]
    assert all(row["id"] for row in found)


def test_prompts_may_stand_one_a_line(tmp_path):
    (tmp_path / "mine.txt").write_bytes(f"Why {SEPARATORS}?\r\n\r\nWho?\n".encode())
    assert {row["prompt"] for row in LOADERS["prompts"](str(tmp_path / "mine.txt"))} == {
        f"Why {SEPARATORS}?",
        "Who?",
    }


# --- forms --------------------------------------------------------------------------------------

TALK = [message("user", "Q"), message("assistant", "A"), message("user", "R"), message("assistant", "B")]
SHAREGPT = [{"from": "human" if m["role"] == "user" else "gpt", "value": m["content"]} for m in TALK]
QA = [message("user", "Q"), message("assistant", "A")]
HH = "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant:"
ASKS = "Human: Q\n\nAssistant: A\n\nHuman: R"
CONVERSATION_FORMS = [  # said, row, messages
    ("messages (TRL, OpenAI)", {"messages": TALK}, TALK),
    ("ShareGPT", {"conversations": SHAREGPT, "id": 7}, TALK),
    ("ShareGPT", {"conversations": SHAREGPT, "system": "S"}, [message("user", "S\n\nQ"), *TALK[1:]]),
    ("Alpaca", {"instruction": "Q", "input": "", "output": "A"}, QA),
    ("Alpaca", {"instruction": "Q", "input": "C", "output": "A"}, [message("user", "Q\n\nC"), QA[1]]),
    ("prompt and completion (TRL)", {"prompt": "Q", "completion": "A"}, QA),
    ("prompt and completion (TRL)", {"prompt": TALK[:3], "completion": TALK[3:]}, TALK),
    ("prompt and completion (TRL)", {"prompt": "Q", "completion": "A", "label": True}, QA),
    ("questions with answers", {"instruction": "Q", "context": None, "response": "A"}, QA),
    ("questions with answers", {"system_prompt": "", "question": "Q", "response": "A"}, QA),
    ("a text with speakers (HH, Guanaco)", {"text": f"{HH} B"}, TALK),
    ("a text with speakers (HH, Guanaco)", {"text": "### Human: Q### Assistant: A"}, QA),
]
PREFERENCE_FORMS = [  # said, row, prompt, better, worse, margin
    ("prompt, chosen and rejected (TRL)", {"prompt": "Q", "chosen": "A", "rejected": "B"}, "Q", "A", "B", 0),
    (
        "prompt, chosen and rejected (TRL)",
        {"prompt": TALK[:3], "chosen": [message("assistant", "B")], "rejected": [message("assistant", "C")]},
        ASKS,
        "B",
        "C",
        0,
    ),
    (
        "prompt, chosen and rejected (TRL)",
        {"prompt": TALK[:3], "chosen": "B", "rejected": "C"},
        ASKS,
        "B",
        "C",
        0,
    ),
    (
        "prompt, chosen and rejected (TRL)",
        {"prompt": HH, "chosen": " B", "rejected": "C"},
        ASKS,
        " B",
        "C",
        0,
    ),
    (
        "prompt, chosen and rejected (TRL)",
        {"system": "S", "question": "Q", "chosen": "A", "rejected": "Human: B"},
        "S\n\nQ",
        "A",
        "Human: B",
        0,
    ),
    (
        "chosen and rejected with their prompt (TRL, HH)",
        {"chosen": TALK, "rejected": [*TALK[:3], message("assistant", "C")]},
        ASKS,
        "B",
        "C",
        0,
    ),
    (
        "chosen and rejected with their prompt (TRL, HH)",
        {"chosen": f"{HH} B", "rejected": f"{HH} C".replace("\n", "\r\n")},
        ASKS,
        "B",
        "C",
        0,
    ),
    (
        "UltraFeedback",
        {"prompt": "Q", "chosen": QA, "rejected": [QA[0], message("assistant", "B")]}
        | {"score_chosen": 8.5, "score_rejected": 5.0},
        "Q",
        "A",
        "B",
        3.5,
    ),
    (
        "UltraFeedback",
        {"prompt": "Q", "chosen": QA, "rejected": [QA[0], message("assistant", "B")]}
        | {"score_chosen": 6, "score_rejected": 5},
        "Q",
        "A",
        "B",
        1,
    ),
    (
        "UltraFeedback",
        {
            "instruction": "Q",
            "completions": [{"response": t, "overall_score": s} for t, s in (("B", 2), ("A", 7.5))],
        },
        "Q",
        "A",
        "B",
        5.5,
    ),
    (
        "scored responses",
        {"prompt": "Q", "responses": [{"text": "B", "score": 2}, {"text": "A", "score": 9, "kind": None}]},
        "Q",
        "A",
        "B",
        7,
    ),
]


@pytest.mark.parametrize(("said", "row", "messages"), CONVERSATION_FORMS)
def test_a_form_of_conversations_is_recognised(tmp_path, capsys, said, row, messages):
    jsonl(tmp_path / "mine.jsonl", [row])
    [found] = data.load_conversations(str(tmp_path / "mine.jsonl"))
    assert found["messages"] == messages
    assert capsys.readouterr().out.splitlines()[0] == f"mine.jsonl: read as {said}, 1 conversations"
    sources.check_conversation(found)


@pytest.mark.parametrize(("said", "row", "prompt", "better", "worse", "margin"), PREFERENCE_FORMS)
def test_a_form_of_preferences_is_recognised(tmp_path, capsys, said, row, prompt, better, worse, margin):
    jsonl(tmp_path / "mine.jsonl", [row])
    rows = data.load_preferences(str(tmp_path / "mine.jsonl"))
    assert capsys.readouterr().out.splitlines()[0] == f"mine.jsonl: read as {said}, 1 preferences"
    [pair] = data.pairs(rows)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == (prompt, better, worse, margin)
    assert all(pair.kinds)
    assert pair.topic


def test_labelled_answers_become_pairs_of_one_prompt(tmp_path, capsys):
    """KTO's: the good over the bad ones of a prompt; a prompt with one label says nothing."""
    rows = [
        {"prompt": p, "completion": c, "label": bool(v)}
        for p, c, v in (
            ("Q", "bad", 0),
            ("R", "alone", 1),
            ("Q", "good", 1),
            (" Q ", "worse", 0),
            ("Q", "bad", 0),
        )
    ]
    for name, write in (("mine.jsonl", jsonl), ("mine.csv", table(",")), ("mine.parquet", parquet)):
        write(tmp_path / name, rows)
        found = data.pairs(data.load_preferences(str(tmp_path / name)))
        assert sorted((p.prompt, p.chosen, p.rejected, p.margin) for p in found) == [
            ("Q", "good", "bad", 0),
            ("Q", "good", "worse", 0),
        ]
        assert (
            "1 of 2 rows left out: 1 × a prompt whose answers all have one label" in capsys.readouterr().out
        )
    # For SFT the good answers are examples.
    assert [row["messages"][1]["content"] for row in data.load_conversations(str(tmp_path / "mine.csv"))] == [
        "alone",
        "good",
    ]


def test_a_table_of_questions_has_a_column_for_each_choice(tmp_path):
    path = tmp_path / "quiz.csv"
    path.write_text("question,A,B,C,answer\nWhich?,this,that,,B\nWho?,she,he,they,0\n", encoding="utf-8")
    assert [(q["choices"], q["label"]) for q in choices.load_questions(str(path))] == [
        (["this", "that"], 1),
        (["she", "he", "they"], 0),
    ]
    path.write_text("question,A,B,answer\nWhich?,this,that,C\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"quiz\.csv, line 2: field 'label' is 'C'"):
        choices.load_questions(str(path))


def test_any_data_set_of_the_hub_is_read_by_its_form(monkeypatch, capsys):
    asked = []

    def stream(source, **part):
        asked.append((source, part))
        return [{"instruction": f"Q{i}", "input": "", "output": f"A{i}"} for i in range(9)]

    monkeypatch.setattr(hub, "stream", stream)
    assert len(data.load_conversations("someone/alpaca", 5)) == 5
    assert asked == [("someone/alpaca", {"split": "train"})]
    assert capsys.readouterr().out == "someone/alpaca: read as Alpaca, 9 conversations\n"


UNKNOWN = [
    (
        "preferences",
        {"promt": "Q", "chosen": "A", "better": "B"},
        r"\['promt', 'chosen', 'better'\].*it needs",
    ),
    ("preferences", {"prompt": "Q", "chosen": "A"}, r"TRL.*it needs rejected"),
    (
        "conversations",
        {"instruction": "Q", "reply_text": "A"},
        "nearest known one is Alpaca; it needs output",
    ),
    ("prompts", {"topic": "t"}, "nearest known one is prompts; it needs prompt or question"),
]


@pytest.mark.parametrize(("kind", "row", "message"), UNKNOWN)
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv", "mine.json", "mine.parquet"])
def test_an_unknown_form_names_the_columns_and_the_nearest_one(tmp_path, name, kind, row, message):
    FILES[name](tmp_path / name, [row])
    with pytest.raises(DataError, match=rf"^{name}, (line|row) \d: a form that is not known.*{message}"):
        LOADERS[kind](str(tmp_path / name))


# --- what a conversation of the course cannot hold ----------------------------------------------

TREATED = [  # messages, what is left of them (None: left out), what is said
    ([message("system", "S"), *QA], [message("user", "S\n\nQ"), QA[1]], "1 × system messages put before"),
    ([message("developer", "S"), *QA], [message("user", "S\n\nQ"), QA[1]], "1 × system messages put before"),
    ([message("system", " "), *QA], QA, ""),
    ([*QA, message("user", "R")], QA, "1 × questions at the end without an answer dropped"),
    ([message("user", "P"), *QA], [message("user", "P\n\nQ"), QA[1]], "1 × turns of one speaker in a row"),
    ([*QA, message("assistant", "B")], [QA[0], message("assistant", "A\n\nB")], "1 × turns of one speaker"),
    ([message("assistant", "Hello!"), *QA], QA, "1 × answers before the first question dropped"),
    ([message("user", [{"type": "text", "text": "Q"}]), QA[1]], QA, ""),
    ([message("user", [{"type": "image_url", "image_url": {}}]), QA[1]], None, "holds more than text"),
    ([*QA, message("tool", "42"), *QA], None, "a turn of 'tool'"),
    ([QA[0], {"role": "assistant", "content": None, "tool_calls": [{}]}], None, "a turn that calls a tool"),
    ([QA[0], message("assistant", " ")], None, "field 'content' is empty"),
    ([QA[0]], None, "no question with its answer"),
]


@pytest.mark.parametrize(("messages", "left", "said"), TREATED)
def test_what_does_not_fit_is_treated_counted_and_said(tmp_path, capsys, messages, left, said):
    path = tmp_path / "mine.jsonl"
    jsonl(path, [{"messages": TALK}, {"messages": messages}])
    found = data.load_conversations(str(path))
    out = capsys.readouterr().out
    assert [row["messages"] for row in found] == ([TALK] if left is None else [TALK, left])
    assert said in out
    assert ("1 of 2 rows left out: 1 × " in out) == (left is None)
    for row in found:
        sources.check_conversation(row)


LEFT_OUT = [
    ("preferences", {"prompt": "Q", "chosen": "A", "rejected": " A\n"}, "one text with two different scores"),
    ("preferences", {"prompt": "Q", "chosen": "A", "rejected": ""}, "field 'rejected' is empty"),
    ("preferences", {"prompt": " ", "chosen": "A", "rejected": "B"}, "field 'prompt' is empty"),
    (
        "preferences",
        {"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 5, "score_rejected": 5},
        "at least two different scores",
    ),
    ("preferences", {"chosen": TALK, "rejected": QA}, "the two talks part before the last answer"),
    ("conversations", {"instruction": "Q", "input": "", "output": ""}, "field 'output' is empty"),
    ("conversations", {"prompt": "Q", "completion": "A", "label": False}, "labelled as bad"),
    ("prompts", {"prompt": ""}, "field 'prompt' is empty"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), LEFT_OUT)
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.parquet"])
def test_a_row_that_teaches_nothing_is_left_out_and_counted(tmp_path, capsys, name, kind, row, reason):
    good = {**row, **{k: f"{k} {i}" for i, k in enumerate(row) if isinstance(row[k], str)}}
    good |= {"label": True} if "label" in row else {"score_chosen": 9} if "score_chosen" in row else {}
    good |= (
        {"rejected": [*TALK[:3], message("assistant", "C")]} if isinstance(row.get("rejected"), list) else {}
    )
    more = {k: v + " more" if isinstance(v, str) else v for k, v in good.items()}
    FILES[name](tmp_path / name, [good, row, more])
    assert len(LOADERS[kind](str(tmp_path / name))) == 2
    assert re.search(rf"{name}: 1 of 3 rows left out: 1 × .*{reason}", capsys.readouterr().out)
    FILES[name](tmp_path / name, [row, row])
    with pytest.raises(DataError, match=rf"^{name}: none of 2 rows can be used \(2 × .*{reason}"):
        LOADERS[kind](str(tmp_path / name))


def test_the_fixed_questions_stay_out_of_training(tmp_path, capsys):
    rows = [{"prompt": "why is the SKY blue", "chosen": "A", "rejected": "B"}, *ROWS["preferences"]]
    jsonl(tmp_path / "mine.jsonl", rows)
    assert len(data.load_preferences(str(tmp_path / "mine.jsonl"))) == 2
    assert "1 of 3 rows left out: they ask one of the fixed questions" in capsys.readouterr().out


# --- faults: file × fault -----------------------------------------------------------------------

ONE = b'{"prompt": "a", "chosen": "A", "rejected": "B"}\n'
HALF = '{"prompt": "Yes! \\ud83d", "chosen": "A", "rejected": "B"}'
FAULTS = [  # file, its bytes, what is said
    ("m.jsonl", HALF.encode(), "m.jsonl, line 1: field 'prompt' holds half a character"),
    ("m.json", f"[{HALF}]".encode(), "m.json, row 1: field 'prompt' holds half a character"),
    ("m.jsonl", HALF.replace("Yes", "\\ude00").encode(), "holds half a character"),
    (
        "m.jsonl",
        b'{"prompt": [{"role": "user", "content": "\\uDC00"}]}',
        "field 'prompt[0].content' holds half",
    ),
    ("m.jsonl", b'\n{"prompt": "\xff"}', "m.jsonl, line 2: bad UTF-8 at byte 12"),
    ("m.json", b'[\n{"prompt": "\xff"}]', "m.json, line 2: bad UTF-8 at byte 12"),
    ("m.csv", b"prompt\na\n\xff", "m.csv, line 3: bad UTF-8 at byte 0"),
    ("m.csv", '"prompt"\n'.encode("utf-16"), "m.csv, line 1: bad UTF-8 at byte 0 (this is UTF-16"),
    ("m.jsonl", ONE + b'{"prompt"', "m.jsonl, line 2: not JSON"),
    ("m.json", b'[\n{"prompt": "a"},\n{"prompt"', "m.json, line 3: not JSON"),
    ("m.jsonl", ONE + b"7", "m.jsonl, line 2: not a JSON object"),
    ("m.json", b'["a"]', "m.json, row 1: not a JSON object"),
    ("m.csv", b"prompt,chosen,rejected\na,b,c\nd\n", "m.csv, line 3: 1 cells for 3 columns"),
    ("m.csv", b"prompt,prompt\na,b\n", "m.csv, line 1: a column without a name, or twice"),
    ("m.csv", b'prompt,chosen\n"a,b\n', "m.csv, line 2: not CSV"),
    ("m.parquet", b"PAR1 is not enough", "m.parquet: damaged, or not Parquet"),
    ("m.jsonl.gz", b"\x1f\x8b\x08 cut", "m.jsonl.gz: damaged"),
    (
        "m.jsonl",
        b'{"prompt": 5, "chosen": "A", "rejected": "B"}',
        "m.jsonl, line 1: field 'prompt' is missing or not",
    ),
    (
        "m.jsonl",
        b'{"prompt": "a", "chosen": 1, "rejected": "B"}',
        "m.jsonl, line 1: field 'chosen' is missing",
    ),
    (
        "m.jsonl",
        b'{"messages": [{"role": 1, "content": "a"}]}',
        "m.jsonl, line 1: messages[0]: field 'role' is 1",
    ),
    ("m.jsonl", b'{"conversations": {}}', "m.jsonl, line 1: field 'messages' must be a list"),
    ("m.jsonl", b"", "m.jsonl: no rows"),
    ("m.csv", b"prompt,chosen\n", "m.csv: no rows"),
    ("m.json", b"[]", "m.json: no rows"),
]


@pytest.mark.parametrize(("name", "content", "said"), FAULTS)
def test_a_fault_is_named_by_file_line_and_field(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    load = data.load_conversations if b"essages" in content or b"conv" in content else data.load_preferences
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / name))
    assert said in str(caught.value)


def test_small_things_that_programs_write_do_not_matter(tmp_path):
    """A BOM where files were put together, capitals in a table's head, an id that is a number, a null."""
    bom = b"\xef\xbb\xbf"
    (tmp_path / "m.jsonl").write_bytes(
        bom + ONE + bom + ONE.replace(b'"a"', b'"b"').replace(b"{", b'{"id": 3, "topic": null, ')
    )
    (tmp_path / "m.csv").write_bytes(b"Prompt , CHOSEN,Rejected\na,A,B\nb,A,B\n")
    for name in ("m.jsonl", "m.csv"):
        found = data.load_preferences(tmp_path / name)
        assert [row["prompt"] for row in found] == ["a", "b"]
        assert len({row["id"] for row in found}) == 2
        assert {row["topic"] for row in found} == {"own"}
        jsonl(tmp_path / "again.jsonl", found)
        assert data.load_preferences(str(tmp_path / "again.jsonl")) == found


def test_a_whole_emoji_is_no_half_one(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"prompt": "\\ud83d\\ude00", "chosen": "A", "rejected": "B"}')
    assert data.load_preferences(str(tmp_path / "m.jsonl"))[0]["prompt"] == "\U0001f600"


ODD = (None, 3, 2.5, True, "", " \n", [], [None], {}, {"a": 1}, float("nan"), "### Human: Q")
FORMS = [(sources.CONVERSATIONS, row) for _, row, _ in CONVERSATION_FORMS]
FORMS += [(sources.PREFERENCES, row) for _, row, *_ in PREFERENCE_FORMS]
FORMS += [(sources.PREFERENCES, {"prompt": "Q", "completion": "A", "label": True})]
FORMS += [
    (sources.PROMPTS, row)
    for row in ({"prompt": TALK[:3], "split": "train"}, {"messages": TALK}, {"text": "Q"})
]
FORMS += [(summaries.NEWS, {"text": "It rained.", "summary": "Rain.", "split": "test"})]


@pytest.mark.parametrize(("schema", "row"), FORMS)
def test_a_row_damaged_anywhere_is_used_left_out_or_named(schema, row):
    """Whatever stands in a field, there is no other error; and what is used passes the check."""
    for path in places(row):
        for value in (*ODD, GONE):
            told, place = sources.Told(), ("mine.jsonl, line 1", damaged(row, path, value))
            found, said = [], ""
            try:
                found = list(sources.map_rows(schema, iter([place]), told, strict=True))
            except DataError as error:
                said = str(error)
            assert bool(found) != bool(re.match("mine.jsonl, line 1: |none of 1 rows", said)), (path, value)
            for one in found:
                schema.check(one)
                assert sources.key_of(one)


DOORS = {
    "conversations": data.load_conversations,
    "gold": data.load_gold,
    "prompts": lambda path: data.load_prompts("train", path),
    "news": lambda path: summaries.load_news("train", path),
    "questions": choices.load_questions,
    "domain": domain.load,
    "votes": lambda path: votes.merge_votes([path]),
}


@pytest.mark.parametrize("kind", DOORS)
def test_a_path_that_names_no_file_is_an_error_at_every_door(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path in (
        "~/gone.jsonl",
        "./gone.csv",
        "gone.jsonl",
        r"C:\data\gone.jsonl",
        str(tmp_path / "gone.json"),
    ):
        with pytest.raises(DataError) as caught:
            DOORS[kind](path)
        assert path in str(caught.value)
    with pytest.raises(DataError, match=r"empty: no file with .*it holds nothing"):
        DOORS[kind](str(tmp_path / "empty"))


def test_a_relative_path_is_looked_for_here_and_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reading, "project_root", lambda: tmp_path / "clone")
    for place, name in (("home", "~/m.jsonl"), (".", "./m.jsonl"), ("clone", "data/only")):
        file = tmp_path / place / name.removeprefix("~/")
        file.parent.mkdir(parents=True, exist_ok=True)
        jsonl(file, ROWS["preferences"])
        assert reading.locate(name) == file.resolve()
    said = f"looked for in {tmp_path}.*Nor is there {tmp_path}/clone/gone.csv"
    with pytest.raises(DataError, match=said):
        reading.locate("gone.csv")
    assert reading.locate("someone/something") is None


# --- one question, one side ---------------------------------------------------------------------


def pair_row(i: int, prompt: str) -> dict:
    return {
        "id": f"p-{i}",
        "prompt": prompt,
        "responses": [{"text": "A", "score": 9}, {"text": f"B{i}", "score": 2}],
    }


@pytest.mark.parametrize("again", [str, str.upper, "  {}!! ".format, lambda text: text.replace(" ", "\n")])
@pytest.mark.parametrize("count", [2, 3, 6, 40])
def test_rows_that_ask_the_same_are_on_one_side(tmp_path, count, again):
    rows = [
        pair_row(k * count + i, make(f"Ask {i} now"))
        for k, make in enumerate((str, again))
        for i in range(count)
    ]
    jsonl(tmp_path / "mine.jsonl", rows)
    for some in (rows, rows[::-1], data.load_preferences(str(tmp_path / "mine.jsonl"))):
        train, held = data.split_rows(some, 0.2)
        assert len(train) + len(held) == 2 * count
        sides = [{sources.key_of(row) for row in side} for side in (train, held)]
        assert not sides[0] & sides[1]
        assert all(len(side) >= min(2, count // 2) for side in sides)
        assert len({pair.id for pair in data.pairs(some)}) == count
    assert len({row["id"] for row in some}) == count
    assert all(pair.rejected != pair.chosen for pair in data.strangers(some))


@pytest.mark.parametrize("count", range(2, 13))
def test_few_rows_have_both_sides(tmp_path, count):
    """Of six rows none was held out one time in four; prompts without a split had no test."""
    for start in range(40):
        rows = [{"prompt": f"Ask {start} {i}", "chosen": "A", "rejected": "B"} for i in range(count)]
        jsonl(tmp_path / "mine.jsonl", rows)
        sides = data.split_rows(data.load_preferences(str(tmp_path / "mine.jsonl")), 0.2)
        assert all(len(side) >= (2 if count > 3 else 1) for side in sides)
        both = [data.load_prompts(split, str(tmp_path / "mine.jsonl")) for split in ("train", "test")]
        assert all(both)
        assert len(both[0]) + len(both[1]) == count


def test_one_question_cannot_be_split(tmp_path):
    jsonl(tmp_path / "mine.jsonl", [{"prompt": "Why?"}, {"prompt": "why"}])
    with pytest.raises(DataError, match=r"mine\.jsonl: 1 different questions: none can be kept for testing"):
        data.load_prompts("train", str(tmp_path / "mine.jsonl"))
    with pytest.raises(DataError, match="1 different questions"):
        data.split_rows([pair_row(1, "Why?"), pair_row(2, "why")], 0.2)


def test_a_prompt_of_both_splits_is_for_the_test(tmp_path, capsys):
    rows = [{"prompt": p, "split": s} for p, s in (("A b", "train"), ("C", "train"), ("a B!", "test"))]
    jsonl(tmp_path / "mine.jsonl", rows)
    assert [r["prompt"] for r in data.load_prompts("train", str(tmp_path / "mine.jsonl"))] == ["C"]
    assert "1 training rows left out" in capsys.readouterr().out
    jsonl(tmp_path / "mine.jsonl", [row | {"split": "test"} for row in rows])
    with pytest.raises(DataError, match="nothing to train on"):
        data.load_prompts("test", str(tmp_path / "mine.jsonl"))


def test_words_keep_the_marks_of_their_letters():
    assert data.normalise("यह दिन है।") == ["यह", "दिन", "है"]
    assert data.normalise("दिन") != data.normalise("दान")
    assert data.normalise("Cafe\u0301!") == data.normalise("café") == ["café"]
    assert data.normalise("Don't say: well-known ❤️ 1️⃣") == ["dont", "say", "wellknown", "1"]


# --- how data is chosen -------------------------------------------------------------------------


@pytest.mark.parametrize("setting", list(BROUGHT)[2:])
def test_a_variable_chooses_data_and_a_run_folder_of_its_own(tmp_path, monkeypatch, setting):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        jsonl(tmp_path / place / "my votes.jsonl", ROWS["preferences"])
    monkeypatch.chdir(tmp_path)
    names = set()
    for source in ("./one/my votes.jsonl", "./two/my votes.jsonl", "someone/something"):
        monkeypatch.setenv(BROUGHT[setting], source)
        profile = current_profile("smoke")
        local = source.startswith(".")
        assert getattr(profile, setting) == (str((tmp_path / source).resolve()) if local else source)
        assert re.fullmatch(r"smoke-(my-votes|something)-[0-9a-f]{8}", profile.name)
        names.add(profile.name)
    assert len(names) == 3
    monkeypatch.setenv(BROUGHT[setting], "./gone.csv")
    with pytest.raises(DataError, match=rf"{BROUGHT[setting]}.*gone\.csv"):
        current_profile("smoke")
    monkeypatch.setenv(BROUGHT[setting], "embedded")
    assert current_profile("smoke") == PROFILES["smoke"]


def test_the_same_file_for_another_kind_is_another_run(tmp_path, monkeypatch):
    jsonl(tmp_path / "m.jsonl", ROWS["preferences"])
    names = set()
    for setting in ("preferences", "gold", "reward_base", "policy_base"):
        monkeypatch.setenv(BROUGHT[setting], str(tmp_path / "m.jsonl"))
        names.add(current_profile("smoke").name)
    assert len(names) == 4


def test_a_folder_of_data_sets_the_variables(tmp_path, monkeypatch, capsys):
    for name in ("conversations.json", "human_pairs.csv", "Questions.jsonl", "notes.md"):
        (tmp_path / name).write_text("{}")
    folder(tmp_path / "prompts", ROWS["prompts"])
    for variable in cli.KINDS.values():
        monkeypatch.delenv(variable, raising=False)
    ran = []
    monkeypatch.setattr("sawyer_utils.course.publish.course", lambda profile, **_: ran.append(profile))
    monkeypatch.chdir(tmp_path.parent)
    cli.main(["course", "--profile", "smoke", "--data", f"./{tmp_path.name}"])
    chosen = {kind: os.environ.get(variable) for kind, variable in cli.KINDS.items()}
    assert {kind: Path(path).name for kind, path in chosen.items() if path} == {
        "conversations": "conversations.json",
        "prompts": "prompts",
        "questions": "Questions.jsonl",
        "human_pairs": "human_pairs.csv",
    }
    assert ran[0].conversations == str(tmp_path / "conversations.json")
    assert "prompts: prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "holds none of conversations"),
        (["prompts.csv", "prompts.jsonl"], r"which one\? prompts\.csv, prompts\.jsonl"),
        (None, "no file or folder"),
    ],
)
def test_a_folder_that_says_nothing_or_two_things_is_refused(tmp_path, monkeypatch, files, said):
    target = tmp_path / "my_data"
    if files is not None:
        target.mkdir()
        for name in files:
            (target / name).write_text("")
    with pytest.raises(SystemExit, match=said):
        cli.main(["course", "--profile", "smoke", "--data", str(target) + "/"])


def test_what_is_in_a_folder_is_watched(tmp_path, monkeypatch):
    folder(tmp_path / "mine", ROWS["prompts"])
    monkeypatch.setenv("SAWYER_PROMPTS", str(tmp_path / "mine"))
    before = course.brought()
    assert before == course.brought()
    with (tmp_path / "mine" / "data" / "train-1.jsonl").open("a") as file:
        file.write('{"prompt": "New?"}\n')
    assert course.brought() != before


# --- people's preferences in 02 -----------------------------------------------------------------


def cell_of_02() -> str:
    cells = [cell.source for cell in course.build("02_reward").cells]
    return next(source for source in cells if "with_people = {}" in source)


HUMAN = [
    {"prompt": TALK[:3], "chosen": "B", "rejected": "C"},
    {"prompt": "Hi", "chosen": "A", "rejected": SEPARATORS},
]


def run_02(monkeypatch, where: str) -> list:
    """02's own cell, with a judge that likes what is short."""
    monkeypatch.setenv("SAWYER_HUMAN_PAIRS", where)
    recorded = []
    found = {
        "os": os, "Path": Path, "data": data, "paths": paths, "profile": None, "reward": None,
        "pairs_that_fit": lambda profile, rows: rows,
        "differences": lambda judge, pairs: [len(p.rejected) - len(p.chosen) for p in pairs],
        "accuracy": lambda gaps, pairs: (sum(g > 0 for g in gaps) / len(pairs), 0.0, 1.0),
        "text": str,
        "runtime": SimpleNamespace(record=lambda profile, stage, people: recorded.append(people)),
    }  # fmt: skip
    exec(cell_of_02(), found)
    return recorded


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("folder", "mine.csv")])
def test_peoples_preferences_come_in_by_the_same_door(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = (
        HUMAN if name not in ("mine.parquet",) else [{**row, "prompt": str(row["prompt"])} for row in HUMAN]
    )
    FILES[name](tmp_path / name, rows)
    [found] = run_02(monkeypatch, f"~/{name}")
    assert [numbers["pairs"] for numbers in found.values()] == [2]
    assert "2 pairs of people" in capsys.readouterr().out


def test_several_files_and_none(tmp_path, monkeypatch, capsys):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        jsonl(tmp_path / place / "p.jsonl", HUMAN)
    [found] = run_02(monkeypatch, os.pathsep.join(str(tmp_path / place / "p.jsonl") for place in "ab"))
    assert len(found) == 2
    assert run_02(monkeypatch, "") == []
    assert "not tested" in capsys.readouterr().out
    for where in ("~/pears.jsonl", str(tmp_path / "gone.jsonl")):
        with pytest.raises(DataError, match="no file or folder"):
            run_02(monkeypatch, where)


# --- the README, and real rows ------------------------------------------------------------------


def test_the_examples_of_the_readme_work(tmp_path):
    """Those for the shell choose this data; that in Python prints its pairs."""
    section = re.search(r"## Your own data\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert section.count("\n") <= 25
    shell, python = re.findall(r"```(?:python)?\n(.*?)```", section, re.DOTALL)
    rows = [{"prompt": f"Ask {i}", "chosen": "A", "rejected": "B"} for i in range(10)]
    (tmp_path / "my_data").mkdir()
    for name in ("votes.csv", "my_data/preferences.csv"):
        table(",")(tmp_path / name, rows)
    for name in ("chats.jsonl", "my_data/conversations.jsonl"):
        jsonl(tmp_path / name, ROWS["conversations"])
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "SAWYER_PROFILE": "smoke"}
    said = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert re.search(r"\d pairs; held out: \d rows", said.stdout), said.stderr
    show = "from sawyer_utils.profiles import current_profile as p; print(p().conversations, p().preferences)"
    export, *commands = [line.split("#")[0].strip() for line in shell.strip().splitlines()]
    shown = subprocess.run(
        ["bash", "-c", f"{export}; {sys.executable} -c '{show}'"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.split() == [str(tmp_path / "chats.jsonl"), str(tmp_path / "votes.csv")], shown.stderr
    named = [command.split("--data ")[1] for command in commands if "--data" in command]
    assert set(reading.named_files(str(tmp_path / named[0]), cli.KINDS)) == {"conversations", "preferences"}
    dry = subprocess.run(["make", "-n", *commands[1].split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert '--data "my_data"' in dry.stdout


REAL = [
    ("oasst_en_threads", data.load_conversations, 97),
    ("instruct_1100", data.load_conversations, 1090),
    ("self_instruct_human_427", data.load_conversations, 420),
    ("dolly_151", data.load_conversations, 150),
    ("dolly_151", LOADERS["prompts"], 150),
    ("hh_rlhf_helpful", data.load_preferences, 1990),
    ("oasst_en_ranked_pairs", data.load_preferences, 178),
]


@pytest.mark.parametrize(("name", "load", "least"), REAL)
def test_real_rows_come_in(name, load, least):
    path = SHARED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here: real rows are tried only where they are")
    rows = load(str(path))
    assert len(rows) >= least
    train, held = data.split_rows(rows, 0.2)
    assert not {sources.key_of(row) for row in train} & {sources.key_of(row) for row in held}
    assert 0.1 < len(held) / len(rows) < 0.35
    if "responses" in rows[0]:
        assert {pair.margin for pair in data.pairs(rows)} == {0.0}


@pytest.mark.parametrize("bad", ["0", "false", "False"])
def test_an_answer_that_a_csv_calls_bad_is_not_learnt(tmp_path, bad):
    path = tmp_path / "mine.csv"
    path.write_text(f"prompt,completion,label\nOne?,a,1\nTwo?,b,{bad}\nThree?,c,true\n")
    asked = [row["messages"][0]["content"] for row in data.load_conversations(str(path))]
    assert asked == ["One?", "Three?"]
