"""What people bring: every kind of file in every known form comes in by one door; every fault is named."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from test_hub_rows import SOURCES

from sawyer_utils import data
from sawyer_utils.chapters import checkable, choices, domain, summaries
from sawyer_utils.classroom import votes
from sawyer_utils.course import cli
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing import hub, paths, reading, sources
from sawyer_utils.plumbing.sources import DataError
from sawyer_utils.profiles import BESIDE, BROUGHT, PROFILES, current_profile

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
    key = "data" if path.stem == "wrapped" else path.stem
    path.write_text(json.dumps({"version": 1, key: rows}), encoding="utf-8")


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


def excel(path: Path, rows: list[dict]) -> None:
    """As its "Unicode text" is, with the line that names the separator."""
    table(";")(path, rows)
    text = path.read_bytes().decode("utf-8-sig")
    path.write_bytes(f"sep=;\r\n{text}".encode("utf-16"))


def lists(path: Path, rows: list[dict]) -> None:
    nested = any(isinstance(value, list) for row in rows for value in row.values())
    path.write_text(json.dumps(rows if nested else {name: [row[name] for row in rows] for name in rows[0]}))


def parquet(path: Path, rows: list[dict]) -> None:
    pd.DataFrame(rows).to_parquet(path)


def folder(path: Path, rows: list[dict]) -> None:
    (path / "data").mkdir(parents=True)
    jsonl(path / "data" / "train-1.jsonl", rows[:1])
    parquet(path / "data" / "train-2.parquet", rows[1:])
    (path / "README.md").write_text("What this is.")
    (path / "dataset_info.json").write_text('{"splits": 1}')


FILES = dict.fromkeys(("mine.jsonl", "mine.ndjson", "no_ending", "lines.json"), jsonl)
FILES |= {"windows.jsonl": windows, "mine.json": array, "array.jsonl": array, "wrapped.json": wrapped}
FILES |= dict.fromkeys(("rows.json", "train.json"), wrapped)
FILES |= {"mine.jsonl.gz": zipped, "mine.csv": table(","), "semicolons.csv": table(";")}
FILES |= {"mine.tsv": table("\t"), "mine.parquet": parquet, "folder": folder}
FILES |= {"mine.jsonl.txt": jsonl, "mine.csv.txt": table(","), "mine.JSON.txt.gz": zipped}  # as Notepad saves
FILES |= {
    "excel.csv": excel,
    "lists.json": lists,
    "columns.json": lambda path, rows: pd.DataFrame(rows).to_json(path),
}


def user(content) -> dict:
    return {"role": "user", "content": content}


def bot(content) -> dict:
    return {"role": "assistant", "content": content}


ROWS = {
    "conversations": [
        {"messages": [user(f"Why {SEPARATORS}?"), bot("Because.")]},
        {"messages": [user("Who?"), bot("I.")]},
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


def brought(row: dict) -> dict:
    """A loaded row as it was brought."""
    if "responses" in row:
        better, worse = row["responses"]
        return {"prompt": row["prompt"], "chosen": better["text"], "rejected": worse["text"]}
    kept = ("id", "question", "choices", "label") if "choices" in row else ("messages", "prompt", "split")
    return {name: row[name] for name in kept if name in row}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, kind, capsys):
    FILES[name](tmp_path / name, ROWS[kind])
    found = LOADERS[kind](str(tmp_path / name))
    assert f"{name}: read as " in capsys.readouterr().out
    assert [brought(row) for row in found] == ROWS[kind]
    assert all(row["id"] for row in found)


ASIDE = ".ipynb_checkpoints/a-checkpoint.jsonl|data/.cache/b.jsonl|.c.jsonl|LICENSE.txt|data/ReadMe.txt"


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("aside", ASIDE.split("|"))
def test_what_lies_beside_the_data_in_a_folder_is_not_read(tmp_path, kind, aside):
    mine = tmp_path / ".mine"  # what is hidden itself was named on purpose
    folder(mine, ROWS[kind])
    (mine / aside).parent.mkdir(exist_ok=True)
    jsonl(mine / aside, ROWS[kind])
    assert [brought(row) for row in LOADERS[kind](str(mine))] == ROWS[kind]


def test_a_cell_of_a_table_may_be_long(tmp_path):
    csv.field_size_limit(131_072)  # Python's own
    rows = [{**row, "prompt": row["prompt"] + " more" * 40_000} for row in ROWS["preferences"]]
    table(",")(tmp_path / "mine.csv", rows)
    assert [brought(row) for row in data.load_preferences(str(tmp_path / "mine.csv"))] == rows


def test_prompts_may_stand_one_a_line(tmp_path):
    (tmp_path / "mine.txt").write_bytes(f"Why {SEPARATORS}?\r\n\r\nWho?\n".encode())
    found = {row["prompt"] for row in LOADERS["prompts"](str(tmp_path / "mine.txt"))}
    assert found == {f"Why {SEPARATORS}?", "Who?"}


@pytest.mark.parametrize("kind", [kind for kind in LOADERS if kind != "conversations"])
@pytest.mark.parametrize("change", ["pandas' index", "blank rows", "blank lines", "empty columns"])
def test_a_table_as_pandas_and_spreadsheets_write_it(tmp_path, kind, change):
    path = tmp_path / "mine.csv"
    table(",")(path, ROWS[kind])
    frame = pd.read_csv(path, dtype=str)
    if change == "pandas' index":
        frame.to_csv(path)
    elif change == "empty columns":
        for _ in range(2):
            frame.insert(len(frame.columns), "", "", allow_duplicates=True)
        frame.to_csv(path, index=False)
    else:
        width = len(frame.columns) - 1 if change == "blank rows" else 0
        path.write_bytes(path.read_bytes() + (b"," * width + b"\r\n") * 3)
    assert [brought(row) for row in LOADERS[kind](str(path))] == ROWS[kind]


# --- forms --------------------------------------------------------------------------------------

TALK = [user("Q"), bot("A"), user("R"), bot("B")]
SHAREGPT = [{"from": "human" if m["role"] == "user" else "gpt", "value": m["content"]} for m in TALK]
QA = [user("Q"), bot("A")]
HH = "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant:"
ASKS = "Human: Q\n\nAssistant: A\n\nHuman: R"
MESSAGES, TRL = "messages (TRL, OpenAI)", "prompt and completion (TRL)"
TEXT, ANSWERS = "a text with speakers (HH, Guanaco)", "questions with answers"
CONVERSATION_FORMS = [  # said, row, messages
    (MESSAGES, {"messages": TALK}, TALK),
    ("ShareGPT", {"conversations": SHAREGPT, "id": 7}, TALK),
    ("ShareGPT", {"conversations": SHAREGPT, "system": "S"}, [user("S\n\nQ"), *TALK[1:]]),
    ("Alpaca", {"instruction": "Q", "input": "", "output": "A"}, QA),
    ("Alpaca", {"instruction": "Q", "input": "C", "output": "A"}, [user("Q\n\nC"), QA[1]]),
    (TRL, {"prompt": "Q", "completion": "A"}, QA),
    (TRL, {"prompt": TALK[:3], "completion": TALK[3:]}, TALK),
    (TRL, {"prompt": "Q", "completion": "A", "label": True}, QA),
    (ANSWERS, {"instruction": "Q", "context": None, "response": "A"}, QA),
    (ANSWERS, {"system_prompt": "", "question": "Q", "response": "A"}, QA),
    ("Alpaca", {"instruction": "Q", "input": "<noinput>", "output": "A"}, QA),
    *(
        (MESSAGES, {"messages": [{"from": asks, "value": "Q"}, {"from": answers, "value": "A"}]}, QA)
        for asks, answers in (("prompter", "model"), ("human", "chatgpt"), ("User", "bot"), ("human", "ai"))
    ),
    (TEXT, {"text": f"{HH} B"}, TALK),
    (TEXT, {"text": f"{HH} B", "system": "S"}, [user("S\n\nQ"), *TALK[1:]]),
    (MESSAGES, {"messages": json.dumps(TALK)}, TALK),
    (TEXT, {"text": "### Human: Q### Assistant: A"}, QA),
]
PAIRS, PAIRS_ALONE = "prompt, chosen and rejected (TRL)", "chosen and rejected with their prompt (TRL, HH)"
SCORED = {"prompt": "Q", "chosen": QA, "rejected": [QA[0], bot("B")]}
COMPLETIONS = [{"response": t, "overall_score": s} for t, s in (("B", 2), ("A", 7.5))]
RESPONSES = [{"text": "B", "score": 2}, {"text": "A", "score": 9, "kind": None}]
PREFERENCE_FORMS = [  # said, row, (prompt, better, worse, margin)
    (PAIRS, {"prompt": "Q", "chosen": "A", "rejected": "B"}, ("Q", "A", "B", 0)),
    (PAIRS, {"prompt": TALK[:3], "chosen": [bot("B")], "rejected": [bot("C")]}, (ASKS, "B", "C", 0)),
    (PAIRS, {"prompt": TALK[:3], "chosen": "B", "rejected": "C"}, (ASKS, "B", "C", 0)),
    (PAIRS, {"prompt": HH, "chosen": " B", "rejected": "C"}, (ASKS, " B", "C", 0)),
    (
        *(PAIRS, {"system": "S", "question": "Q", "chosen": "A", "rejected": "Human: B"}),
        ("S\n\nQ", "A", "Human: B", 0),
    ),
    (PAIRS_ALONE, {"chosen": TALK, "rejected": [*TALK[:3], bot("C")]}, (ASKS, "B", "C", 0)),
    (PAIRS_ALONE, {"chosen": f"{HH} B", "rejected": f"{HH} C".replace("\n", "\r\n")}, (ASKS, "B", "C", 0)),
    (PAIRS, {"prompt": QA[:1], "chosen": TALK[1:], "rejected": [*TALK[1:3], bot("C")]}, (ASKS, "B", "C", 0)),
    ("UltraFeedback", {**SCORED, "score_chosen": 8.5, "score_rejected": 5.0}, ("Q", "A", "B", 3.5)),
    ("UltraFeedback", {**SCORED, "score_chosen": 6, "score_rejected": 5}, ("Q", "A", "B", 1)),
    *(
        ("UltraFeedback", {**SCORED, better: "8.5", worse: "5"}, ("Q", "A", "B", 3.5))
        for better, worse in (("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"))
    ),
    (PAIRS_ALONE, {"system": "S", "chosen": QA, "rejected": [QA[0], bot("B")]}, ("S\n\nQ", "A", "B", 0)),
    ("UltraFeedback", {"instruction": "Q", "completions": COMPLETIONS}, ("Q", "A", "B", 5.5)),
    ("scored responses", {"prompt": "Q", "responses": RESPONSES}, ("Q", "A", "B", 7)),
]


@pytest.mark.parametrize(("said", "row", "expected"), [*CONVERSATION_FORMS, *PREFERENCE_FORMS])
def test_a_form_is_recognised(tmp_path, capsys, said, row, expected):
    kind = "preferences" if isinstance(expected, tuple) else "conversations"
    jsonl(tmp_path / "mine.jsonl", [row])
    [found] = LOADERS[kind](str(tmp_path / "mine.jsonl"))
    assert capsys.readouterr().out.splitlines()[0] == f"mine.jsonl: read as {said}, 1 {kind}"
    if kind == "conversations":
        assert found["messages"] == expected
        return sources.check_conversation(found)
    [pair] = data.pairs([found])
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == expected
    assert all(pair.kinds)
    assert pair.topic


LABELLED = (("Q", "bad", 0), ("R", "alone", 1), ("Q", "good", 1), (" Q ", "worse", 0), ("Q", "bad", 0))


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv", "mine.parquet"])
def test_labelled_answers_become_pairs_of_one_prompt(tmp_path, capsys, name):
    """KTO's: the good over the bad ones of a prompt; a prompt with one label says nothing."""
    path = tmp_path / name
    FILES[name](path, [{"prompt": p, "completion": c, "label": bool(v)} for p, c, v in LABELLED])
    found = data.pairs(data.load_preferences(str(path)))
    both = [("Q", "good", "bad", 0), ("Q", "good", "worse", 0)]
    assert sorted((p.prompt, p.chosen, p.rejected, p.margin) for p in found) == both
    said = "1 of 2 rows left out: 1 × a prompt whose answers all have one label"
    assert said in capsys.readouterr().out
    # For SFT the good answers are examples.
    examples = data.load_conversations(str(path))
    assert [row["messages"][1]["content"] for row in examples] == ["alone", "good"]


@pytest.mark.parametrize("field", ["input", "context", "system", "system_prompt"])
def test_labelled_answers_to_different_questions_are_no_pair(tmp_path, field):
    answers = (("chat", "cat", 1), ("chat", "hat", 0), ("chien", "dog", 1), ("chien", "fog", 0))
    rows = [{"instruction": "Translate.", field: f, "output": o, "label": bool(v)} for f, o, v in answers]
    jsonl(tmp_path / "mine.jsonl", rows)
    found = data.pairs(data.load_preferences(str(tmp_path / "mine.jsonl")))
    assert sorted((p.chosen, p.rejected) for p in found) == [("cat", "hat"), ("dog", "fog")]
    assert all({"cat": "chat", "dog": "chien"}[p.chosen] in p.prompt for p in found)


@pytest.mark.parametrize("empty", [" ", None, [], [user("And?")]])
def test_one_odd_labelled_answer_takes_no_other_with_it_and_is_named_by_its_line(tmp_path, capsys, empty):
    path = tmp_path / "mine.jsonl"
    good = [{"prompt": "Q", "completion": c, "label": v} for c, v in (("good", True), ("bad", False))]
    jsonl(path, [*good, {"prompt": "Q", "completion": empty, "label": False}])
    assert len(data.pairs(data.load_preferences(str(path)))) == 1
    assert "1 of 2 rows left out: 1 × " in capsys.readouterr().out
    jsonl(path, [*good, {"prompt": "Q", "completion": "C", "label": "maybe"}])
    with pytest.raises(DataError, match=r"mine\.jsonl, line 3: field 'label' is 'maybe'"):
        data.load_preferences(str(path))


@pytest.mark.parametrize("bad", ["0", "false", "False", 0.0])
def test_an_answer_that_is_called_bad_is_not_learnt(tmp_path, bad):
    rows = [
        {"prompt": f"{i}?", "completion": "a", "label": label} for i, label in enumerate(("1", bad, "true"))
    ]
    table(",")(tmp_path / "mine.csv", rows)
    jsonl(tmp_path / "mine.jsonl", rows)
    for name in ("mine.csv", "mine.jsonl"):
        asked = [row["messages"][0]["content"] for row in data.load_conversations(str(tmp_path / name))]
        assert asked == ["0?", "2?"]


CELLS = [  # rows that a table holds as well as a file of JSON lines
    ("conversations", {"conversation": QA}),
    ("conversations", {"question": QA[:1], "answer": QA[1:]}),
    ("conversations", {"instruction": SHAREGPT[:1], "output": SHAREGPT[1:]}),
    ("conversations", {"prompt": "Sort 3, 1, 2.", "completion": "[1, 2, 3]"}),
    ("conversations", {"prompt": "Who?", "completion": '[{"name": "Bo", "role": "admin"}]'}),
    ("conversations", {"instruction": "[1] or {2}?", "output": '{"a": [1]}'}),
    ("conversations", {"instruction": "[{'a': 1}]?", "output": "[INST] {'a'}"}),
    ("preferences", {"prompt": "[1]", "chosen": '[{"a": 1}]', "rejected": "{}"}),
    ("preferences", {"prompt": "Q", "preferred": QA, "dispreferred": [QA[0], bot("B")]}),
    *(("questions", SOURCES[name][1](1)) for name in choices.HUB),
]


@pytest.mark.parametrize(("kind", "row"), CELLS)
def test_a_table_says_what_json_lines_say(tmp_path, kind, row):
    jsonl(tmp_path / "mine.jsonl", [row])
    table(",")(tmp_path / "mine.csv", [row])
    assert LOADERS[kind](str(tmp_path / "mine.csv")) == LOADERS[kind](str(tmp_path / "mine.jsonl"))


@pytest.mark.parametrize("column", ["messages", "conversation", "prompt", "chosen", "responses"])
@pytest.mark.parametrize("printed", [str(QA), str(QA).replace("}, {", "}\n {")])
def test_a_list_as_python_prints_it_is_no_answer(tmp_path, column, printed):
    table(",")(tmp_path / "mine.csv", [{**PAIR, column: printed}])
    with pytest.raises(DataError, match=rf"mine\.csv, line 2: field '{column}' is a list as Python prints"):
        data.load_preferences(str(tmp_path / "mine.csv"))


def test_a_decimal_comma_is_one(tmp_path):
    text = "prompt;chosen;rejected;score_chosen;score_rejected\nQ;A;B;8,5;3,25\n"
    (tmp_path / "mine.csv").write_text(text)
    [pair] = data.pairs(data.load_preferences(str(tmp_path / "mine.csv")))
    assert pair.margin == 5.25


def test_a_table_of_questions_has_a_column_for_each_choice(tmp_path):
    path = tmp_path / "quiz.csv"
    path.write_text("question,A,B,C,answer\nWhich?,this,that,,B\nWho?,she,he,they,0\n", encoding="utf-8")
    found = [(q["choices"], q["label"]) for q in choices.load_questions(str(path))]
    assert found == [(["this", "that"], 1), (["she", "he", "they"], 0)]
    path.write_text("question,a,b,answer\nWhich?,this,that,b\n", encoding="utf-8")
    assert [q["label"] for q in choices.load_questions(str(path))] == [1]
    jsonl(tmp_path / "mmlu.jsonl", [{**SOURCES["cais/mmlu"][1](1), "answer": "C"}])
    assert [q["label"] for q in choices.load_questions(str(tmp_path / "mmlu.jsonl"))] == [2]
    path.write_text("question,A,B,answer\nWhich?,this,that,C\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"quiz\.csv, line 2: field 'label' is 'C'"):
        choices.load_questions(str(path))


def test_a_quiz_may_have_as_many_choices_as_there_are_letters(tmp_path):
    head, cells = ",".join(string.ascii_uppercase), ",".join(string.ascii_lowercase)
    (tmp_path / "quiz.csv").write_text(f"question,{head},answer\nWhich?,{cells},K\n", encoding="utf-8")
    (found,) = choices.load_questions(str(tmp_path / "quiz.csv"))
    assert (found["choices"], found["label"]) == ([*string.ascii_lowercase], 10)


FILLED = [  # the cells A, B and C, the choices
    ((0, 1, 2), "0 1 2"),
    ((2, 0, 1), "2 0 1"),
    ((0.0, None, 1.0), "0 1"),
    ((True, False, ""), "True False"),
    (("x", " ", "y"), "x y"),
    ((0.5, 0, "1"), "0.5 0 1"),
]


@pytest.mark.parametrize(("cells", "shown"), FILLED)
@pytest.mark.parametrize("named", ["abc", "ABC", range(3), "012", (0.0, 1.0, 2.0)])
def test_a_choice_may_be_any_cell(tmp_path, cells, shown, named):
    """Of a spreadsheet that came in as numbers, true and false."""
    filled = [i for i, cell in enumerate(cells) if str(cell).strip() not in ("", "None")]
    for right, i in enumerate(filled):
        row = {"question": "Which?", **dict(zip("ABC", cells)), "D": None, "answer": named[i]}
        jsonl(tmp_path / "quiz.jsonl", [row])
        [found] = choices.load_questions(str(tmp_path / "quiz.jsonl"))
        assert (found["choices"], found["label"]) == (shown.split(), right)
    for answer in (3, "D", 99, "true"):
        jsonl(tmp_path / "quiz.jsonl", [row | {"answer": answer}])
        with pytest.raises(DataError, match=r"line 1: field 'label' is '(3|D|99|TRUE)', outside"):
            choices.load_questions(str(tmp_path / "quiz.jsonl"))


def test_any_data_set_of_the_hub_is_read_by_its_form(monkeypatch, capsys):
    asked, rows = [], [{"instruction": f"Q{i}", "input": "", "output": f"A{i}"} for i in range(9)]
    monkeypatch.setattr(hub, "stream", lambda source, **part: asked.append((source, part)) or rows)
    assert len(data.load_conversations("someone/alpaca", 5)) == 5
    assert asked == [("someone/alpaca", {"split": "train"})]
    said = "someone/alpaca: read as Alpaca, 9 conversations\nsomeone/alpaca: 5 of 9 drawn.\n"
    assert capsys.readouterr().out == said


NEAREST = "nearest known one is"
UNKNOWN = [
    (
        "preferences",
        {"promt": "Q", "chosen": "A", "better": "B"},
        r"\['promt', 'chosen', 'better'\].*it needs",
    ),
    ("preferences", {"prompt": "Q", "chosen": "A"}, r"TRL.*it needs rejected"),
    ("conversations", {"instruction": "Q", "reply_text": "A"}, f"{NEAREST} Alpaca; it needs output"),
    ("prompts", {"topic": "t"}, f"{NEAREST} prompts; it needs prompt or question"),
]


@pytest.mark.parametrize(("kind", "row", "message"), UNKNOWN)
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv", "mine.json", "mine.parquet"])
def test_an_unknown_form_names_the_columns_and_the_nearest_one(tmp_path, name, kind, row, message):
    FILES[name](tmp_path / name, [row])
    with pytest.raises(DataError, match=rf"^{name}, (line|row) \d: a form that is not known.*{message}"):
        LOADERS[kind](str(tmp_path / name))


# --- what a conversation of the course cannot hold ----------------------------------------------

PUT_BEFORE, JOINED = "1 × system messages put before", "1 × turns of one speaker in a row joined"
CALL = {"role": "assistant", "content": "I look it up.", "tool_calls": [{}]}
TREATED = [  # messages, what is left of them (None: left out), what is said
    ([{"role": "system", "content": "S"}, *QA], [user("S\n\nQ"), QA[1]], PUT_BEFORE),
    ([{"role": "developer", "content": "S"}, *QA], [user("S\n\nQ"), QA[1]], PUT_BEFORE),
    ([{"role": "system", "content": " "}, *QA], QA, ""),
    ([*QA, user("R")], QA, "1 × questions at the end without an answer dropped"),
    ([user("P"), *QA], [user("P\n\nQ"), QA[1]], JOINED),
    ([*QA, bot("B")], [QA[0], bot("A\n\nB")], JOINED),
    ([bot("Hello!"), *QA], QA, "1 × answers before the first question dropped"),
    *(([user([{"type": kind, "text": "Q"}]), QA[1]], QA, "") for kind in ("text", "input_text")),
    ([user([{"type": "image_url", "image_url": {}}]), QA[1]], None, "holds more than text"),
    ([*QA, {"role": "tool", "content": "42"}, *QA], None, "a turn of 'tool'"),
    ([QA[0], CALL], None, "a turn that calls a tool"),
    ([QA[0], bot(" ")], None, "field 'content' is empty"),
    ([QA[0]], None, "no question with its answer"),
]


@pytest.mark.parametrize(("messages", "left", "said"), TREATED)
def test_what_does_not_fit_is_treated_counted_and_said(tmp_path, capsys, messages, left, said):
    jsonl(tmp_path / "mine.jsonl", [{"messages": TALK}, {"messages": messages}])
    found = data.load_conversations(str(tmp_path / "mine.jsonl"))
    out = capsys.readouterr().out
    assert [row["messages"] for row in found] == ([TALK] if left is None else [TALK, left])
    assert said in out
    assert ("1 of 2 rows left out: 1 × " in out) == (left is None)


PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}
LEFT_OUT = [
    ("preferences", {**PAIR, "rejected": " A\n"}, "one text with two different scores"),
    ("preferences", {**PAIR, "rejected": ""}, "field 'rejected' is empty"),
    ("preferences", {**PAIR, "rejected": None}, "field 'rejected' is empty"),
    ("preferences", {**PAIR, "prompt": " "}, "field 'prompt' is empty"),
    ("preferences", {**PAIR, "prompt": None}, "text before the first speaker"),  # chosen may hold the talk
    ("preferences", {**PAIR, "score_chosen": 5, "score_rejected": 5}, "at least two different scores"),
    ("preferences", {**PAIR, "score_chosen": 3, "score_rejected": 5}, "the rejected answer has the higher"),
    ("preferences", {"chosen": TALK, "rejected": QA}, "the two talks part before the last answer"),
    ("preferences", {"prompt": QA[:1], "chosen": TALK[1:], "rejected": [bot("C"), *TALK[2:]]}, "talks part"),
    ("conversations", {"instruction": "Q", "input": "", "output": ""}, "field 'output' is empty"),
    ("conversations", {"prompt": "Q", "completion": "A", "label": False}, "labelled as bad"),
    ("conversations", {"prompt": "Q", "completion": None}, "field 'completion' is empty"),
    ("conversations", {"messages": None}, "field 'messages' is empty"),
    ("conversations", {"messages": []}, "field 'messages' is empty"),
    ("prompts", {"prompt": ""}, "field 'prompt' is empty"),
    ("prompts", {"prompt": None}, "field 'prompt' is empty"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), LEFT_OUT)
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.parquet"])
def test_a_row_that_teaches_nothing_is_left_out_and_counted(tmp_path, capsys, name, kind, row, reason):
    good = {**row, **{k: f"{k} {i}" for i, k in enumerate(row) if isinstance(row[k], str | None)}}
    good |= {k: v for k, v in (("label", True), ("score_chosen", 9), ("messages", TALK)) if k in row}
    good |= {"rejected": [*TALK[:3], bot("C")]} if isinstance(row.get("rejected"), list) else {}
    more = {k: v + " more" if isinstance(v, str) else v for k, v in good.items()}
    FILES[name](tmp_path / name, [good, row, more])
    assert len(LOADERS[kind](str(tmp_path / name))) == 2
    assert re.search(rf"{name}: 1 of 3 rows left out: 1 × .*{reason}", capsys.readouterr().out)
    FILES[name](tmp_path / name, [row, row])
    with pytest.raises(DataError, match=rf"^{name}: none of 2 rows can be used \(2 × .*{reason}"):
        LOADERS[kind](str(tmp_path / name))


@pytest.mark.parametrize("empty", ["", None])
def test_a_pair_of_which_one_answer_has_a_score_is_left_out(tmp_path, capsys, empty):
    scores = [{"score_chosen": 8, "score_rejected": s} for s in (3, empty)]
    jsonl(tmp_path / "mine.jsonl", [{**PAIR, **two} for two in scores])
    assert len(data.load_preferences(str(tmp_path / "mine.jsonl"))) == 1
    assert "1 of 2 rows left out: 1 × only one of the two answers has a score" in capsys.readouterr().out


@pytest.mark.parametrize("row", [{"prompt": "Q", "completion": "A"}, {"messages": QA}, {**PAIR}])
def test_a_row_with_an_image_is_left_out(tmp_path, capsys, row):
    jsonl(tmp_path / "mine.jsonl", [{**row, "images": []}, {**row, "images": ["a.png"]}])
    load = data.load_preferences if "chosen" in row else data.load_conversations
    assert len(load(str(tmp_path / "mine.jsonl"))) == 1
    assert "1 of 2 rows left out: 1 × a row with an image" in capsys.readouterr().out


def test_the_fixed_questions_stay_out_of_training(tmp_path, capsys):
    later = [user("Hello"), bot("A"), user("why is the SKY blue")]
    asked = [{**PAIR, "prompt": prompt} for prompt in ("why is the SKY blue", later)]
    jsonl(tmp_path / "mine.jsonl", [*asked, *ROWS["preferences"]])
    assert len(data.load_preferences(str(tmp_path / "mine.jsonl"))) == 2
    assert "2 of 4 rows left out: they ask one of the fixed questions" in capsys.readouterr().out


# --- faults: file × fault -----------------------------------------------------------------------

ONE = b'{"prompt": "a", "chosen": "A", "rejected": "B"}\n'
HALF = b'{"prompt": "Yes! \\ud83d", "chosen": "A", "rejected": "B"}'
DEEP = b'{"prompt": [{"role": "user", "content": "\\uDC00"}]}'
FAULTS = [  # file, its bytes, what is said
    ("m.jsonl", HALF, "m.jsonl, line 1: field 'prompt' holds half a character"),
    ("m.json", b"[" + HALF + b"]", "m.json, row 1: field 'prompt' holds half a character"),
    ("m.jsonl", HALF.replace(b"Yes", b"\\ude00"), "holds half a character"),
    ("m.jsonl", ONE.replace(b"prompt", b"\\ude00"), "m.jsonl, line 1: field '\\ude00' holds half"),
    ("m.jsonl", DEEP, "field 'prompt' holds half"),
    ("m.jsonl", b'\n{"prompt": "\xff"}', "m.jsonl, line 2: not in utf-8"),
    ("m.json", b'[\n{"prompt": "\xff"}]', "m.json, line 2: not in utf-8"),
    ("m.csv", b"prompt\na\n\xff", "m.csv, line 3: not in utf-8"),
    ("m.csv", '"prompt"\n'.encode("utf-16") + b"!", "not in utf-16"),
    ("m.jsonl", ONE.replace(b'"a"', b'"a\0"'), "m.jsonl: no text"),
    (
        "m.jsonl",
        ONE.replace(b"}", b', "score_chosen": 95}'),
        "line 1: field 'score_chosen' is 95, outside 1 to 10",
    ),
    (
        "m.jsonl",
        ONE.replace(b"}", b', "chosen_score": "x"}'),
        "line 1: field 'chosen_score' is 'x', not a number",
    ),
    ("m.jsonl", ONE + b'{"prompt"', "m.jsonl, line 2: not JSON"),
    ("m.jsonl", b"[" * 100_000, "m.jsonl: not JSON"),
    ("m.json", b'\n[\n{"prompt": "a"},\n{"prompt"', "m.json: not JSON (Expecting ':' delimiter: line 4"),
    ("m.jsonl", ONE + b"7", "m.jsonl, line 2: not a JSON object"),
    ("m.json", b'["a"]', "m.json, row 1: not a JSON object"),
    ("m.csv", b"prompt,chosen,rejected\na,b,c\nd\n", "m.csv, line 3: not a cell for each of 3 columns"),
    ("m.csv", b"prompt,chosen\na,b,c\n", "m.csv, line 2: not a cell for each of 2 columns"),
    ("m.csv", b"prompt,prompt\na,b\n", "m.csv, line 1: a column twice: ['prompt', 'prompt']"),
    ("m.csv", b"prompt,chosen,rejected\na,b,c\n\n,,\nd\n", "m.csv, line 5: not a cell for each of 3 columns"),
    ("m.csv", b"prompt,chosen,\na,b,\n", "it needs rejected"),
    ("m.csv", b'prompt,chosen\n"a,b\n', "m.csv, line 2: not CSV"),
    ("m.csv", b'prompt\n"[{""role"": """", ""content"": ""\\ud83d""}]"', "line 2: field 'prompt' holds half"),
    ("m.csv", b"messages\n" + b"[" * 100_000, "m.csv: none of 1 rows"),
    ("m.xlsx", b"PK\x03\x04" + bytes(range(256)), "m.xlsx: no text (an Excel file, an archive?): save it"),
    ("m.csv", b"PK\x03\x04" + bytes(range(256)), "m.csv: no text (an Excel file"),
    ("m.json.gz", gzip.compress(gzip.compress(ONE)), "m.json.gz: no text (an Excel file"),
    ("m.json", b'{"prompt": {"a": "b"}, "chosen": {"a": "c"}}', "m.json, row 1: a form that is not known"),
    ("m.json", b'{"prompt": {"0": "b"}, "chosen": {"1": "c"}}', "m.json, row 1: a form that is not known"),
    ("m.parquet", b"PAR1 is not enough", "m.parquet: damaged, or not Parquet"),
    ("m.jsonl.gz", b"\x1f\x8b\x08 cut", "m.jsonl.gz: damaged"),
    ("m.jsonl", ONE.replace(b'"a"', b"5"), "m.jsonl, line 1: field 'prompt' is missing or not"),
    ("m.jsonl", ONE.replace(b'"A"', b"1"), "m.jsonl, line 1: field 'chosen' is missing"),
    ("m.jsonl", b'{"messages": [{"role": 1, "content": "a"}]}', "line 1: messages[0]: field 'role' is 1"),
    (
        "m.jsonl",
        ONE.replace(b"chosen", b"label").replace(b"rejected", b"answer"),
        "field 'label' is 'A', not",
    ),
    ("m.jsonl", b'{"conversations": {}}', "m.jsonl, line 1: field 'messages' must be a list"),
    *(
        (name, text, f"{name}: no rows")
        for name, text in (("m.jsonl", b""), ("m.csv", b"a,b\n"), ("m.json", b"[]"))
    ),
]


@pytest.mark.parametrize(("name", "content", "said"), FAULTS)
def test_a_fault_is_named_by_file_line_and_field(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    load = data.load_conversations if b"essages" in content or b"conv" in content else data.load_preferences
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / name))
    assert said in str(caught.value)


def test_small_things_that_programs_write_do_not_matter(tmp_path):
    """A BOM where files were put together, capitals in a table's head, an id that is a number, a null; and a
    whole emoji is no half one."""
    bom = b"\xef\xbb\xbf"
    second = ONE.replace(b'"a"', b'"\\ud83d\\ude00"').replace(b"{", b'{"id": 3, "topic": null, ')
    (tmp_path / "m.jsonl").write_bytes(bom + ONE + bom + second)
    (tmp_path / "m.csv").write_bytes("Prompt , CHOSEN,Rejected\na,A,B\n\U0001f600,A,B\n".encode())
    for name in ("m.jsonl", "m.csv"):
        found = data.load_preferences(tmp_path / name)
        assert [row["prompt"] for row in found] == ["a", "\U0001f600"]
        assert len({row["id"] for row in found}) == 2
        assert {row["topic"] for row in found} == {"own"}
        jsonl(tmp_path / "again.jsonl", found)
        assert data.load_preferences(str(tmp_path / "again.jsonl")) == found


EMPTY = [  # what loads, a row, its columns that may be empty
    ("news", {"text": "It rained {}."}, ("summary", "split", "topic")),
    ("prompts", {"prompt": "Ask {}"}, ("split", "input", "context", "system")),
    ("conversations", {"instruction": "Ask {}", "output": "A"}, ("input", "system", "id")),
    ("preferences", {"prompt": "Ask {}", "chosen": "A", "rejected": "B"}, ("score_chosen", "score_rejected")),
    ("solved", {"question": "Ask {}", "answer": "#### {}"}, ("split", "topic")),
    ("mmlu", {**SOURCES["cais/mmlu"][1](1), "question": "Ask {}"}, ("split",)),
]


def loaded(kind: str, path: str) -> list:
    if kind == "news":
        return [row for split in ("train", "test") for row in summaries.load_news(split, path)]
    if kind == "solved":
        task = checkable.solved_task(path, 99, 99)
        return task.train + task.test
    return LOADERS.get(kind, choices.load_questions)(path)


@pytest.mark.parametrize(("kind", "row", "columns"), EMPTY)
@pytest.mark.parametrize("empty", [None, "", float("nan")])
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv", "mine.parquet"])
def test_an_empty_cell_is_no_value_and_costs_no_row(tmp_path, kind, row, columns, empty, name):
    """A table has every column in every row."""
    rows = [{k: v.format(i) if isinstance(v, str) else v for k, v in row.items()} for i in range(9)]
    FILES[name](tmp_path / f"without-{name}", rows)
    empty = "" if name == "mine.csv" else empty
    FILES[name](tmp_path / name, [{**one, **dict.fromkeys(columns, empty)} for one in rows])
    found = loaded(kind, str(tmp_path / name))
    assert len(found) == 9
    assert found == loaded(kind, str(tmp_path / f"without-{name}"))


@pytest.mark.parametrize("empty", [None, ""])
def test_where_a_split_is_given_a_row_without_one_is_trained_on(tmp_path, empty):
    rows = [{"question": f"Ask {i}", "answer": f"#### {i}", "split": empty} for i in range(9)]
    jsonl(tmp_path / "mine.jsonl", [*rows[:7], rows[7] | {"split": "test"}, rows[8] | {"split": "train"}])
    task = checkable.solved_task(str(tmp_path / "mine.jsonl"), 99, 99)
    assert (len(task.train), len(task.test)) == (8, 1)


def test_numbers_beside_an_empty_cell_are_whole(tmp_path):
    frame = pd.DataFrame([{"question": f"Ask {i}", "choices": ["a", "b", "c"]} for i in range(3)])
    frame = frame.assign(label=[1.0, 0.0, 2.0])
    frame.to_parquet(tmp_path / "q.parquet")
    assert [row["label"] for row in choices.load_questions(str(tmp_path / "q.parquet"))] == [1, 0, 2]
    for label in (0.5, math.nan, math.inf, 3.0):
        frame.assign(label=[0, 1, label]).to_parquet(tmp_path / "q.parquet")
        with pytest.raises(DataError, match=r"q\.parquet, row 3: field 'label' is .*, outside the 3 choices"):
            choices.load_questions(str(tmp_path / "q.parquet"))


def test_no_rows_of_the_split_that_is_asked(tmp_path):
    jsonl(tmp_path / "q.jsonl", [{**SOURCES["cais/mmlu"][1](1), "split": "validation"}])
    for subject, said in (("", ""), (":law", " of subject 'law'")):
        with pytest.raises(DataError, match=f"no rows{said}; of MMLU's splits 'test' is read"):
            choices.load_questions(f"{tmp_path / 'q.jsonl'}{subject}")


GONE = object()
ODD = (None, 3, 2.5, True, "", " \n", [], [None], {}, {"a": 1}, float("nan"), "### Human: Q", GONE)
FORMS = [(sources.CONVERSATIONS, row) for _, row, _ in CONVERSATION_FORMS]
FORMS += [(sources.PREFERENCES, row) for _, row, _ in PREFERENCE_FORMS]
FORMS += [(sources.PREFERENCES, {"prompt": "Q", "completion": "A", "label": True})]
FORMS += [(sources.PROMPTS, {"prompt": TALK[:3], "split": "train"})]
FORMS += [(sources.PROMPTS, row) for row in ({"messages": TALK}, {"text": "Q"})]
FORMS += [(summaries.NEWS, {"text": "It rained.", "summary": "Rain.", "split": "test"})]
FORMS += [(choices.BENCHMARKS, SOURCES[name][1](1)) for name in choices.HUB]


def places(value, path=()) -> list[tuple]:
    """The path of every value in a row, however deep."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in below for place in places(inner, (*path, key))]


def damaged(row: dict, path: tuple, value) -> dict:
    target = copy = json.loads(json.dumps(row))
    for key in path[:-1]:
        target = target[key]
    if value is GONE:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return copy


@pytest.mark.parametrize(("schema", "row"), FORMS)
def test_a_row_damaged_anywhere_is_used_left_out_or_named(schema, row):
    """Whatever stands in a field, there is no other error; what is used passes the check, and no other row is
    lost."""
    good = {"text": "It rained.", "messages": TALK, **PAIR} if schema.forms else SOURCES["cais/mmlu"][1](7)
    for path in places(row):
        for value in ODD:
            rows = [("mine.jsonl, line 1", damaged(row, path, value))]
            found, said = [], ""
            try:
                found = list(sources.map_rows(schema, iter(rows), sources.Told(), strict=True))
            except DataError as error:
                said = str(error)
            assert bool(found) != bool(re.match("mine.jsonl, line 1: |none of 1 rows", said)), (path, value)
            for one in found:
                schema.check(one)
                assert sources.key_of(one)
            told = sources.Told()
            both = list(sources.map_rows(schema, iter([*rows, ("line 2", dict(good))]), told))
            assert (len(both), told.left_out.total()) == (1 + len(found), 1 - len(found)), (path, value)


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
    gone = ("~/gone.jsonl", "./gone.csv", "gone.jsonl", r"C:\data\gone.jsonl", str(tmp_path / "gone.json"))
    for path in gone:
        with pytest.raises(DataError, match=re.escape(path)):
            DOORS[kind](path)
    with pytest.raises(DataError, match=r"empty: no file with .* in this folder"):
        DOORS[kind](str(tmp_path / "empty"))


def test_a_relative_path_is_looked_for_here_and_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reading, "project_root", lambda: tmp_path / "clone")
    for place, name in (
        ("home", "~/m.jsonl"),
        (".", "./m.jsonl"),
        ("clone", "data/only"),
        ("clone", "m.csv"),
    ):
        file = tmp_path / place / name.removeprefix("~/")
        file.parent.mkdir(parents=True, exist_ok=True)
        jsonl(file, ROWS["preferences"])
        assert reading.locate(name) == file.resolve()
    (tmp_path / "linked.csv").symlink_to(tmp_path / "clone" / "m.csv")  # as the Hub's cache has its files
    assert reading.locate("linked.csv") == tmp_path / "linked.csv"
    said = f"looked for in {tmp_path}.*Nor is there {tmp_path}/clone/gone.csv"
    with pytest.raises(DataError, match=said):
        reading.locate("gone.csv")
    with pytest.raises(DataError, match="no file is named"):
        reading.locate(" ")
    assert reading.locate("someone/something") is None


# --- one question, one side ---------------------------------------------------------------------


@pytest.mark.parametrize("again", [str, str.upper, "  {}!! ".format, lambda text: text.replace(" ", "\n")])
@pytest.mark.parametrize("count", [2, 3, 6, 40])
def test_rows_that_ask_the_same_are_on_one_side(tmp_path, count, again):
    asked = [make(f"Ask {i} now") for make in (str, again) for i in range(count)]
    answers = [[{"text": "A", "score": 9}, {"text": f"B{i % count}", "score": 2}] for i in range(2 * count)]
    both = enumerate(zip(asked, answers, strict=True))
    rows = [{"id": f"p-{i}", "prompt": prompt, "responses": two} for i, (prompt, two) in both]
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
    path = str(tmp_path / "mine.jsonl")
    for start in range(40):
        jsonl(Path(path), [{**PAIR, "prompt": f"Ask {start} {i}"} for i in range(count)])
        sides = data.split_rows(data.load_preferences(path), 0.2)
        assert all(len(side) >= (2 if count > 3 else 1) for side in sides)
        both = [data.load_prompts(split, path) for split in ("train", "test")]
        assert all(both)
        assert len(both[0]) + len(both[1]) == count


def test_one_question_cannot_be_split(tmp_path):
    path = str(tmp_path / "mine.jsonl")
    jsonl(Path(path), [{**PAIR, "prompt": "Why?"}, {**PAIR, "prompt": "why"}])
    with pytest.raises(DataError, match=r"mine\.jsonl: 1 different questions: none can be kept for testing"):
        data.load_prompts("train", path)
    with pytest.raises(DataError, match="1 different questions"):
        data.split_rows(data.load_preferences(path), 0.2)


def test_a_prompt_of_both_splits_is_for_the_test(tmp_path, capsys):
    rows = [{"prompt": p, "split": s} for p, s in (("A b", "train"), ("C", "train"), ("a B!", "test"))]
    jsonl(tmp_path / "mine.jsonl", rows)
    assert [r["prompt"] for r in data.load_prompts("train", str(tmp_path / "mine.jsonl"))] == ["C"]
    assert "1 training rows left out" in capsys.readouterr().out
    jsonl(tmp_path / "mine.jsonl", [row | {"split": "test"} for row in rows])
    with pytest.raises(DataError, match="nothing to train on"):
        data.load_prompts("test", str(tmp_path / "mine.jsonl"))


SPLITS = {split: [f"{split} {i}" for i in range(4)] for split in ("train", "test", "validation")}


@pytest.mark.parametrize("kind", ["conversations", "preferences", "prompts"])
@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
def test_rows_of_another_split_are_not_trained_on(tmp_path, capsys, kind, name):
    make = {"conversations": lambda p: {"prompt": p, "completion": "A"}, "prompts": lambda p: {"prompt": p}}
    make = make.get(kind, lambda p: {"prompt": p, "chosen": "A", "rejected": "B"})
    of = {split: [make(text) for text in some] for split, some in SPLITS.items()}
    jsonl(tmp_path / "mine.jsonl", [{**row, "split": split} for split in of for row in of[split]])
    (tmp_path / "mine.json").write_text(json.dumps(of))
    found = [sources.key_of(row) for row in LOADERS[kind](str(tmp_path / name))]
    assert found == SPLITS["train"] + SPLITS["test"] * (kind == "prompts")
    said = "4 of 12 rows left out: 4 × field 'split' is 'validation'" if kind == "prompts" else "8 of 12 rows"
    assert f"{name}: {said}" in capsys.readouterr().out
    for some in ({"test": of["test"]}, {"data": of["test"]}):  # a file of one split was meant
        (tmp_path / "mine.json").write_text(json.dumps(some))
        assert len(LOADERS[kind](str(tmp_path / "mine.json"))) == 4


def test_no_test_prompt_is_trained_on(tmp_path, capsys):
    """One file may be named for conversations and for prompts."""
    talks = [{"messages": [user(f"Ask {i}"), bot("A"), user("And so?"), bot("B")]} for i in range(40)]
    jsonl(tmp_path / "mine.jsonl", talks)
    tested = data.load_prompts("test", str(tmp_path / "mine.jsonl"))
    kept = data.untested(data.load_conversations(str(tmp_path / "mine.jsonl")), tested)
    assert len(kept) == 40 - len(tested) > 0
    assert not {row["prompt"] for row in tested} & {row["messages"][0]["content"] for row in kept}
    assert f"{len(tested)} of 40 rows left out: a test prompt is asked in them" in capsys.readouterr().out
    with pytest.raises(DataError, match="nothing to train on"):
        data.untested(kept, [{"prompt": "and so"}])
    for load in (data.load_conversations, data.load_preferences):
        assert data.untested(load(), data.load_prompts("test")) == load()


def test_talks_that_begin_alike_are_on_one_side(tmp_path):
    starts = [[user(f"Ask {i // 4}"), bot(f"A {i}"), user("Go on")] for i in range(40)]
    jsonl(tmp_path / "mine.jsonl", [{"prompt": s, "chosen": "B", "rejected": "C"} for s in starts])
    train, held = data.split_rows(data.load_preferences(str(tmp_path / "mine.jsonl")), 0.3)
    sides = [{row["prompt"].split("\n")[0] for row in side} for side in (train, held)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("limit", [None, 3])
def test_how_many_are_drawn_is_said(tmp_path, monkeypatch, capsys, limit):
    rows = [{"prompt": f"Ask {i}", "completion": "A"} for i in range(9)]
    jsonl(tmp_path / "mine.jsonl", rows)
    monkeypatch.setattr(sources, "HUB_ROWS", 4)
    monkeypatch.setattr(hub, "stream", lambda source, **part: rows)
    for source, taken in ((str(tmp_path / "mine.jsonl"), limit or 9), ("someone/some", limit or 4)):
        assert len(data.load_conversations(source, limit)) == taken
        assert (f": {taken} of 9 drawn." in capsys.readouterr().out) == (taken < 9)


def test_of_labelled_answers_no_more_than_a_limit_asks_for_is_streamed(monkeypatch):
    read = []

    def stream(source, split):
        for i in range(10_000):
            read.append(i)
            yield {"prompt": f"Ask {i // 2}", "completion": f"A{i}", "label": i % 2 == 0}

    monkeypatch.setattr(hub, "stream", stream)
    assert len(data.load_preferences("someone/kto", 50)) == 50
    assert len(read) <= 50 * 12


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
    monkeypatch.delenv(BROUGHT[setting])
    for other in {"preferences", "policy_base"} - {setting}:  # the same file for another kind is another run
        with monkeypatch.context() as patch:
            patch.setenv(BROUGHT[other], str(tmp_path / "one" / "my votes.jsonl"))
            names.add(current_profile("smoke").name)
    assert len(names) == 5 - (setting == "preferences")
    monkeypatch.setenv(BROUGHT[setting], "./gone.csv")
    with pytest.raises(DataError, match=rf"{BROUGHT[setting]}.*gone\.csv"):
        current_profile("smoke")
    monkeypatch.setenv(BROUGHT[setting], "embedded")
    assert current_profile("smoke") == PROFILES["smoke"]


def test_a_folder_of_data_sets_the_variables(tmp_path, monkeypatch, capsys):
    for name in ("conversations.json", "human_pairs.csv", "Questions.jsonl", "notes.md"):
        (tmp_path / name).write_text("{}")
    folder(tmp_path / "prompts", ROWS["prompts"])
    for variable in cli.KINDS.values():
        monkeypatch.setenv(variable, "")  # which is put back at the end, as what the command sets is not
        monkeypatch.delenv(variable)
    ran = []
    monkeypatch.setattr("sawyer_utils.course.publish.course", lambda profile, **_: ran.append(profile))
    monkeypatch.chdir(tmp_path.parent)
    cli.main(["course", "--profile", "smoke", "--data", f"./{tmp_path.name}"])
    chosen = {kind: os.environ.get(variable) for kind, variable in cli.KINDS.items()}
    names = ("conversations.json", "prompts", "Questions.jsonl", "human_pairs.csv")
    kinds = ("conversations", "prompts", "questions", "human_pairs")
    assert {k: Path(path).name for k, path in chosen.items() if path} == dict(zip(kinds, names, strict=True))
    assert ran[0].conversations == str(tmp_path / "conversations.json")
    assert "prompts: prompts" in capsys.readouterr().out


@pytest.mark.parametrize("variable", BESIDE)
def test_what_only_a_chapter_reads_is_looked_for_at_the_start(tmp_path, monkeypatch, variable):
    (tmp_path / "here.jsonl").touch()
    for source in ("embedded", "truthful_mini", "owner/name:law", f"{tmp_path}/here.jsonl"):
        monkeypatch.setenv(variable, source)
        assert current_profile("smoke") == PROFILES["smoke"]
    monkeypatch.setenv(variable, f"{tmp_path}/her.jsonl")
    with pytest.raises(DataError, match=rf"{variable}.*Did you mean .*here\.jsonl"):
        current_profile("smoke")


def test_what_is_not_used_of_a_folder_is_said(tmp_path, capsys):
    for name in ("prompts.csv", "prompts.xlsx", "prefrences.csv", "plan.md", ".hidden"):
        (tmp_path / name).touch()
    assert list(reading.named_files(str(tmp_path), cli.KINDS)) == ["prompts"]
    said = "not used: plan.md, prefrences.csv, prompts.xlsx"
    assert said in capsys.readouterr().out


ADDRESSES = (
    "https://huggingface.co/datasets/a/b",
    "http://a.b/c.jsonl",
    "hf://datasets/a/b",
    "owner/name@main",
)


@pytest.mark.parametrize("source", ADDRESSES)
def test_an_address_or_a_revision_is_refused_before_the_network(source):
    with pytest.raises(DataError, match=f"{source}: no address and no revision"):
        data.load_conversations(source)


def test_a_configuration_of_the_hub_stands_behind_a_colon(monkeypatch):
    asked, rows = [], [{"prompt": "Q", "completion": "A"}] * 3
    monkeypatch.setattr(hub, "stream", lambda source, **part: asked.append((source, part)) or rows)
    data.load_conversations("someone/some:everyday")
    assert asked == [("someone/some", {"split": "train", "name": "everyday"})]


FOLDERS = [  # the files in it, what is said
    (["preferences.xlsx", "prompts.csv"], r"preferences\.xlsx is no file that is read"),
    (["news.zip"], r"news\.zip is no file that is read"),
    ([], "holds none of conversations"),
    (["prompts.csv", "prompts.jsonl"], r"which one\? prompts\.csv, prompts\.jsonl"),
    (None, "no file or folder"),
]


@pytest.mark.parametrize(("files", "said"), FOLDERS)
def test_a_folder_that_says_nothing_or_two_things_is_refused(tmp_path, files, said):
    if files is not None:
        (tmp_path / "my_data").mkdir()
    for name in files or ():
        (tmp_path / "my_data" / name).write_text("")
    with pytest.raises(SystemExit, match=said):
        cli.main(["course", "--profile", "smoke", "--data", f"{tmp_path}/my_data/"])


def test_what_is_in_a_folder_is_watched(tmp_path, monkeypatch):
    folder(tmp_path / "mine", ROWS["prompts"])
    monkeypatch.setenv("SAWYER_PROMPTS", str(tmp_path / "mine"))
    before = course.brought()
    assert before == course.brought()
    with (tmp_path / "mine" / "data" / "train-1.jsonl").open("a") as file:
        file.write('{"prompt": "New?"}\n')
    assert course.brought() != before


# --- people's preferences in 02 -----------------------------------------------------------------

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
    cells = [cell.source for cell in course.build("02_reward").cells]
    exec(next(source for source in cells if "with_people = {}" in source), found)
    return recorded


@pytest.mark.parametrize("name", [name for name in FILES if name != "folder" and "mine.csv" not in name])
def test_peoples_preferences_come_in_by_the_same_door(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    texts = [{**row, "prompt": str(row["prompt"])} for row in HUMAN]  # Parquet has one type a column
    FILES[name](tmp_path / name, texts if name == "mine.parquet" else HUMAN)
    [found] = run_02(monkeypatch, f"~/{name}")
    assert [numbers["pairs"] for numbers in found.values()] == [2]
    assert "2 pairs of people" in capsys.readouterr().out


def test_several_files_and_none(tmp_path, monkeypatch, capsys):
    files = [tmp_path / place / "p.jsonl" for place in "ab"]
    for file in files:
        file.parent.mkdir()
        jsonl(file, HUMAN)
    [found] = run_02(monkeypatch, os.pathsep.join(map(str, files)))
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
    (tmp_path / "my_data").mkdir()
    for name in ("votes.csv", "my_data/preferences.csv"):
        table(",")(tmp_path / name, [{**PAIR, "prompt": f"Ask {i}"} for i in range(10)])
    for name in ("chats.jsonl", "my_data/conversations.jsonl"):
        jsonl(tmp_path / name, ROWS["conversations"])

    def run(*command: str, folder: Path = tmp_path) -> str:
        env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "SAWYER_PROFILE": "smoke"}
        return subprocess.run(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    assert re.search(r"\d pairs; held out: \d rows", run(sys.executable, "-c", python))
    show = "from sawyer_utils.profiles import current_profile as p; print(p().conversations, p().preferences)"
    export, *commands = [line.split("#")[0].strip() for line in shell.strip().splitlines()]
    shown = run("bash", "-c", f"{export}; {sys.executable} -c '{show}'")
    assert shown.split() == [str(tmp_path / "chats.jsonl"), str(tmp_path / "votes.csv")]
    named = [command.split("--data ")[1] for command in commands if "--data" in command]
    assert set(reading.named_files(str(tmp_path / named[0]), cli.KINDS)) == {"conversations", "preferences"}
    assert '--data "my_data"' in run("make", "-n", *commands[1].split()[1:], folder=ROOT)


REAL = [
    *(("oasst_en_threads", data.load_conversations, 97), ("instruct_1100", data.load_conversations, 1090)),
    *(("self_instruct_human_427", data.load_conversations, 420), ("dolly_151", data.load_conversations, 150)),
    *(("dolly_151", LOADERS["prompts"], 150), ("hh_rlhf_helpful", data.load_preferences, 1990)),
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
