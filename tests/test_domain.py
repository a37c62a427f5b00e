"""A small text of one's own: its file, its lessons, the judge by a key, and 08's exercises."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from exercise_tests import Exercises

from sawyer_utils import evaluation
from sawyer_utils.chapters import domain
from sawyer_utils.plumbing import resuming
from sawyer_utils.plumbing.sources import DataError

FACT = {
    "id": "d-1",
    "question": "Who lives on the hill?",
    "choices": ["A red fox", "An owl", "Two geese"],
    "label": 1,
    "keys": ["owl", "tawny owl"],
    "lessons": [{"question": "What is up there?", "answer": "An owl is up there."}],
}
OTHER = {
    "id": "d-2",
    "question": "How high is it?",
    "choices": ["Nine metres", "Forty metres"],
    "label": 0,
    "keys": ["nine", "9"],
    "lessons": [
        {"question": "Is the hill a high one?", "answer": "No, it has 9 metres."},
        {"question": "Shall I climb the hill?", "answer": "Do: it is only nine metres high."},
    ],
}
OPEN = {"id": "d-3", "question": "Who planted the tree?", "unknown": True}


def written(tmp_path, *rows) -> str:
    path = tmp_path / "place.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- the file -----------------------------------------------------------------------------------


def test_a_text_of_ones_own_is_taken_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_DOMAIN", written(tmp_path, FACT, OPEN, OTHER))
    assert domain.load() == ([FACT, OTHER], [OPEN])
    monkeypatch.delenv("SAWYER_DOMAIN")
    facts, unknown = domain.load()
    assert (len(facts), len(unknown)) == (24, 8)


@pytest.mark.parametrize("name", ["place.csv", "place.parquet", "place.jsonl"])
def test_a_table_has_every_column_in_every_row(tmp_path, name):
    rows, path = [FACT, OPEN, OTHER], tmp_path / name
    names = list(dict.fromkeys(key for row in rows for key in row))
    if name.endswith("parquet"):
        pd.DataFrame(rows).to_parquet(path)  # the labels are 1.0, NaN and 0.0
    elif name.endswith("csv"):
        cells = [{n: v if isinstance(v, str) else json.dumps(v) for n, v in row.items()} for row in rows]
        pd.DataFrame(cells).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps({n: row.get(n) for n in names}) + "\n" for row in rows))
    facts, unknown = domain.load(str(path))
    assert [(row["id"], row["label"]) for row in facts] == [("d-1", 1), ("d-2", 0)]
    assert [row["id"] for row in unknown] == ["d-3"]


def changed(value, *path) -> dict:
    row = deepcopy(FACT)
    *parents, last = path
    target = row
    for key in parents:
        target = target[key]
    target[last] = value
    return row


BAD_ROWS = [
    (changed([], "keys"), "'keys' must be a list"),
    (changed(["owl", "..."], "keys"), "not words"),
    (changed([4], "keys"), "not words"),
    (changed("owl", "keys"), "'keys' must be a list"),
    (changed([], "lessons"), "'lessons' must be a list"),
    (changed("An owl.", "lessons", 0), "lessons[0]: not a JSON object"),
    (changed("", "lessons", 0, "question"), "lessons[0]: field 'question' is empty"),
    (changed("An owlet is up there.", "lessons", 0, "answer"), "lessons[0]: field 'answer' does not hold"),
    (changed("who lives on the hill", "lessons", 0, "question"), "lessons[0]: field 'question' is nearly"),
    (changed("Please: who lives on the hill?", "lessons", 0, "question"), "kept for the examination"),
    (changed("Does an owl live on the hill?", "question"), "gives the answer away"),
    (changed(0, "label"), "hold one of the keys"),
    (changed("A tawny owl", "choices", 0), "hold one of the keys"),
    (changed("A crow", "choices", 1), "hold one of the keys"),
    (changed(3, "label"), "outside the 3 choices"),
    (changed(True, "unknown"), "there are lessons"),
    ({"id": "d-4", "question": "Which?"}, "'choices'"),
    ({"id": "d-4", "unknown": True}, "'question'"),
    ({"id": "d-4", "unknown": 1, "question": "Which?"}, "'choices'"),
]


@pytest.mark.parametrize(("row", "named"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, row, named):
    with pytest.raises(DataError) as caught:
        domain.load(written(tmp_path, OTHER, row))
    assert str(caught.value).startswith("place.jsonl, line 2: ")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "taught", "other"),
    [
        ("谁住在山上？", "请问谁住在山上？", "山上有什么动物？"),
        ("谁住在山上？", "谁在山上住？", "河边的面包店叫什么？"),
        ("だれが丘に住んでいますか", "ねえ、だれが丘に住んでいますか？", "丘の動物は何ですか"),
        ("ใครอยู่บนเนินเขา", "ใครอยู่บนเนินเขาครับ", "บนเนินเขามีใครพักอาศัย"),
        ("누가언덕위에사나요?", "혹시누가언덕위에사나요?", "언덕의동물은무엇인가요?"),
    ],
)
def test_the_examination_is_not_taught_without_spaces_either(tmp_path, asked, taught, other):
    row = changed(asked, "question")
    row["lessons"][0]["question"] = other
    domain.load(written(tmp_path, row, OTHER))
    row["lessons"][0]["question"] = taught
    with pytest.raises(DataError, match="field 'question' is nearly"):
        domain.load(written(tmp_path, row, OTHER))


# key, an answer that holds it, one that does not
EXACT = [
    ("3.5", "It takes 3.5.", "35 minutes"),
    ("1.2 km", "It is 1.2 km long.", "12 km"),
    ("-5", "(−5)", "5"),
    ("5", "**5**, I think", "-5"),
    ("5", "5,", "5.5"),
    ("10:30", "At 10:30.", "At 1030"),
    ("1/2", "1/2 of it", "12"),
    ("½", "½", "1/2"),
    ("10²", "10² of them", "102"),
    (".5", "0.5", "5"),
    ("3,5", "3.5 kg", "35"),
    ("1,000", "1000 crowns", "1 crown"),
    ("2", "2-3 hours", "23"),
    ("20%", "20 %", "20"),
    ("C", "a vitamin: C", "C++"),
    ("C++", "in C++.", "in C"),
    ("O-", "Type O-", "O+"),
    ("北京", "中国的首都是北京。", "中国的首都是上海。"),
    ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร", "เมืองหลวงคือเชียงใหม่"),
    ("มา", "เขามาแล้ว", "ม้า"),
    ("서울", "수도는 서울입니다", "수도는 부산입니다"),
    ("दिन", "यह दिन है।", "यह दान है।"),
    ("café", "A cafe\u0301!", "A cafe"),
    ("cafe\u0301", "Café", "Cafe"),
    ("3.5", "３．５です", "35です"),
]


@pytest.mark.parametrize(("key", "right", "wrong"), EXACT)
def test_what_makes_a_fact_another_one_counts(tmp_path, key, right, wrong):
    assert domain.has_words(right, [key])
    assert not domain.has_words(wrong, [key])
    row = FACT | {"keys": [key], "choices": [wrong, right], "label": 1}
    row["lessons"] = [{"question": "How much?", "answer": right}]
    facts, _ = domain.load(written(tmp_path, row, OTHER))
    assert facts[0] == row
    row["lessons"] = [{"question": "How much?", "answer": wrong}]
    with pytest.raises(DataError, match=r"lessons\[0\]: field 'answer' does not hold"):
        domain.load(written(tmp_path, row, OTHER))


def test_the_examination_of_one_fact_is_not_the_lesson_of_another(tmp_path):
    row = deepcopy(OTHER)
    row["lessons"][1]["question"] = "who lives ON the hill"
    with pytest.raises(DataError, match=r"place\.jsonl: asked twice: 'who lives on the hill'"):
        domain.load(written(tmp_path, FACT, row))
    domain.load(written(tmp_path, FACT, OTHER))


def test_one_fact_is_no_comparison(tmp_path):
    with pytest.raises(DataError, match="1 facts"):
        domain.load(written(tmp_path, FACT, OPEN))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"no file or folder \./place\.jsonl"):
        domain.load("./place.jsonl")


def test_the_example_is_as_the_data_card_says():
    facts, unknown = domain.load()
    assert {len(row["lessons"]) for row in facts} == {3}
    assert {len(row["choices"]) for row in facts} == {4}
    assert np.bincount([row["label"] for row in facts]).tolist() == [6, 6, 6, 6]
    name = "Quillmere"
    assert all(name in row["question"] for row in [*facts, *unknown])


# --- lessons ------------------------------------------------------------------------------------


def test_lessons_are_conversations_in_order():
    found = domain.lessons([FACT, OTHER])
    assert [row["id"] for row in found] == ["d-1-1", "d-2-1", "d-2-2"]
    assert found[1]["messages"] == [
        {"role": "user", "content": "Is the hill a high one?"},
        {"role": "assistant", "content": "No, it has 9 metres."},
    ]


@pytest.mark.parametrize(("share", "old"), [(0, 0), (0.25, 10), (0.5, 30), (0.75, 50)])
def test_replay_is_a_share_of_the_whole_as_far_as_there_is(share, old):
    lessons, corpus = [f"new {i}" for i in range(30)], [f"old {i}" for i in range(50)]
    mixed = domain.with_replay(lessons, corpus, share)
    assert mixed[:30] == lessons
    assert len(set(mixed[30:])) == len(mixed) - 30 == old
    assert set(mixed[30:]) <= set(corpus)
    assert mixed == domain.with_replay(lessons, corpus, share)
    assert share in (0, 0.75) or mixed != domain.with_replay(lessons, corpus, share, seed=1)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_a_share_that_leaves_no_lesson_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        domain.with_replay(["new"], ["old"], share)


def test_another_text_or_another_start_is_another_training(tmp_path):
    adapters = []
    for content in (b"one", b"two"):
        adapters.append(tmp_path / content.decode())
        adapters[-1].mkdir()
        (adapters[-1] / "adapter_model.safetensors").write_bytes(content)
    marks = [resuming.fingerprint(a, facts, 3.0) for facts in ([FACT], [OTHER]) for a in adapters]
    assert len({*marks, resuming.fingerprint(adapters[0], [FACT], 4.0)}) == 5
    assert resuming.fingerprint(adapters[0], deepcopy([FACT]), 3.0) == marks[0]


# --- the judge ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Nine metres.", True),
        ("It has 9 metres!", True),
        ("(NINE)", True),
        ("It is not nine.", True),  # stated in the notebook
        ("Ninety, or 19, or 9000.", False),
        ("It is very high", False),
        ("", False),
    ],
)
def test_a_key_counts_as_whole_words(answer, right):
    assert domain.knows([answer], [OTHER]).tolist() == [right]


def test_a_key_of_several_words_stands_in_a_row():
    row = [{"keys": ["half past six", "6:30"]}]
    assert domain.knows(["At half past six."], row)[0]
    assert domain.knows(["At 6:30."], row)[0]
    assert not domain.knows(["Six and a half past."], row)[0]


def test_each_answer_is_held_against_its_own_fact():
    assert domain.knows(["An owl.", "An owl."], [FACT, OTHER]).tolist() == [True, False]
    with pytest.raises(ValueError, match="zip"):
        domain.knows(["An owl."], [FACT, OTHER])


def test_what_was_never_told_is_admitted_or_borrowed():
    said = ["I don't know.", "I’m not sure, an owl?", "Bo planted it.", "I know that nine did."]
    assert domain.admits(said).tolist() == [True, True, False, False]
    assert domain.borrowed(said, [FACT, OTHER]).tolist() == [False, True, False, True]


# --- comparisons --------------------------------------------------------------------------------


def test_a_share_needs_interval_and_test():
    before = np.zeros(24, dtype=bool)
    six, five = (np.arange(24) < n for n in (6, 5))
    found = domain.compare_shares(before, six)
    assert found["verdict"] == "better"
    assert (found["n"], found["before"], found["after"], found["difference"]) == (24, 0, 0.25, 0.25)
    assert found["p"] == pytest.approx(2 * 0.5**6)
    assert found["detectable"] == pytest.approx(evaluation.detectable_difference(24, 6 / 24))
    assert domain.compare_shares(six, before)["verdict"] == "worse"
    assert domain.compare_shares(before, five)["verdict"] == "no difference shown"
    assert domain.compare_shares(six, six)["verdict"] == "no difference shown"


def test_a_mean_without_a_good_side_only_changes():
    before = [0.0] * 12
    after = [1.0 + 0.1 * i for i in range(12)]
    assert domain.compare_means(before, after)["verdict"] == "better"
    assert domain.compare_means(after, before)["verdict"] == "worse"
    assert domain.compare_means(before, after, None)["verdict"] == "changed"
    found = domain.compare_means(before, after)
    assert found["difference"] == found["after"] == pytest.approx(1.55)
    assert found["low"] < 1.55 < found["high"]
    assert found.keys() == domain.compare_shares([True, False], [True, True]).keys()


# --- exercises ----------------------------------------------------------------------------------


class TestDomain(Exercises):
    NOTEBOOK = "08_domain_adaptation"
    RIGHT: ClassVar[dict] = {
        "08.1": {"an array": np.array([6]), "a float": 6.0},
        "08.2": {
            "half up": lambda lessons, share: math.floor(lessons * share / (1 - share) + 0.5),
            "an array": lambda lessons, share: np.round([lessons * share / (1 - share)]),
        },
        "08.3": {
            "a line each": lambda facts: "\n".join(row["keys"][0] for row in facts),
            "all choices": lambda facts: " ".join(c for row in facts for c in row["choices"]),
        },
    }
    WRONG: ClassVar[dict] = {
        "08.1": {
            "one too few": 5,
            "one too many": 7,
            "one side only": math.ceil(math.log2(20)),
            "half of them": 12,
            "more than there are": 25,
            "none": 0,
            "not a whole number": 5.3,
        },
        "08.2": {
            "share of the lessons": lambda lessons, share: round(lessons * share),
            "lessons over the rest": lambda lessons, share: round(lessons / (1 - share)),
            "the whole mixture": lambda lessons, share: round(lessons + lessons * share / (1 - share)),
            "cut off": lambda lessons, share: int(lessons * share / (1 - share)),
            "always up": lambda lessons, share: math.ceil(lessons * share / (1 - share) - 1e-9),
            "not rounded": lambda lessons, share: lessons * share / (1 - share) + 0.25,
            "always none": lambda lessons, share: 0,
            "as many as lessons": lambda lessons, share: lessons,
        },
        "08.3": {
            "one key": lambda facts: facts[0]["keys"][0],
            "the questions": lambda facts: " ".join(row["question"] for row in facts),
            "the wrong choices": lambda facts: " ".join(row["choices"][0] for row in facts),
            "without spaces": lambda facts: "".join(row["keys"][0] for row in facts),
            "a list": lambda facts: [row["keys"][0] for row in facts],
            "a fixed text": lambda facts: "amber bolt cedar drum 1000 1234 1999",
        },
    }
