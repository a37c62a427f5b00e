"""The corpus proves itself, and bad input is named by file, line and field."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from copy import deepcopy

import pytest

from sawyer_utils import data
from sawyer_utils.chapters import domain, summaries
from sawyer_utils.course import corpus_proof
from sawyer_utils.plumbing import sources
from sawyer_utils.plumbing.sources import DataError

CHECKS = {schema.name: schema.check for schema in corpus_proof.SCHEMAS}


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- the embedded corpus ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts(tokenizer):
    return corpus_proof.check_corpus(tokenizer=tokenizer)


def test_the_corpus_has_the_promised_sizes(counts):
    rows = counts["rows"]
    assert rows["conversations"] >= 480
    assert rows["preferences"] >= 360
    assert rows["prompts"] >= 360
    assert rows["truthful_mini"] >= 100
    assert rows["religions_mini"] >= 100
    assert counts["multi_turn"] >= 100
    assert counts["test_prompts"] == 120
    assert counts["topics"] >= 20


def test_every_prompt_has_three_or_four_scored_responses(counts):
    for rows, name in ((data.load_preferences(), "preferences"), (data.load_gold(), "gold_preferences")):
        assert {len(row["responses"]) for row in rows} <= {3, 4}
        assert counts[name]["responses"] == sum(len(row["responses"]) for row in rows)
    assert counts["preferences"]["kinds"].keys() | counts["gold_preferences"]["kinds"] == set(
        corpus_proof.KINDS
    )


def test_length_alone_cannot_win(counts):
    # If the longer response always won, a reward model would learn to count words.
    assert counts["preferences"]["shorter_wins"] >= 0.25
    assert 0.45 <= counts["gold_preferences"]["shorter_wins"] <= 0.55


@pytest.mark.parametrize("load", [data.load_preferences, data.load_gold])
def test_good_answers_come_in_all_lengths(load):
    best = [max(row["responses"], key=lambda r: r["score"])["text"] for row in load()]
    words = sorted(len(text.split()) for text in best)
    tenth = len(words) // 10
    assert words[tenth] <= 10
    assert words[-tenth] >= 40


def test_the_gold_judge_learns_from_other_texts():
    """It shares no prompt with what PPO is trained or judged on, either (check_corpus)."""
    said = {r["text"] for row in data.load_preferences() for r in row["responses"]}
    assert said.isdisjoint(r["text"] for row in data.load_gold() for r in row["responses"])


def test_no_answer_position_is_favoured(counts):
    for name in ("truthful_mini", "religions_mini"):
        first_four = [counts["labels"][name].get(position, 0) for position in range(4)]
        assert max(first_four) - min(first_four) <= 3


def test_the_fixed_prompts_are_in_no_set():
    asked = {row["messages"][0]["content"] for row in data.load_conversations()}
    asked |= {row["prompt"] for row in data.load_preferences()}
    asked |= {row["prompt"] for split in ("train", "test") for row in data.load_prompts(split)}
    words = {" ".join(data.normalise(text)) for text in asked}
    assert not words & {" ".join(data.normalise(text)) for text in data.FIXED_PROMPTS}


def test_a_limit_keeps_many_topics():
    # The files are ordered by topic: the first 48 rows would be about two things.
    def train_prompts(limit):
        return data.load_prompts("train", limit=limit)

    for load in (data.load_conversations, data.load_preferences, train_prompts):
        some = load(limit=48)
        assert len(some) == 48
        assert len({row["topic"] for row in some}) >= 20
        assert some == load(limit=48)
    assert len({row["topic"] for row in data.load_prompts("test", limit=8)}) == 8
    assert data.load_conversations(limit=10**6) == data.load_conversations()
    for limit in (1, 5, 6, 9):  # more than half, too, reach to the end
        some = sources.spread(list(range(10)), limit)
        assert (len(set(some)), some[0]) == (limit, 0)
        assert 10 - some[-1] <= math.ceil(10 / limit)


# --- bad files ----------------------------------------------------------------------------------

CONVERSATION = {
    "id": "c-1",
    "topic": "t",
    "messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}],
}
PREFERENCE = {
    "id": "p-1",
    "topic": "t",
    "prompt": "How are you?",
    "responses": [
        {"text": "Very well!", "score": 9, "kind": "engaging"},
        {"text": "Go away.", "score": 2, "kind": "rude"},
    ],
}
PROMPT = {"id": "q-1", "topic": "t", "prompt": "Why?", "split": "train"}
QUESTION = {"id": "t-1", "question": "Which?", "choices": ["this", "that"], "label": 0}
NEWS = {"id": "n-1", "topic": "t", "text": "It rained.", "split": "train"}
GOOD = {
    "conversations": CONVERSATION,
    "preferences": PREFERENCE,
    "prompts": PROMPT,
    "truthful_mini": QUESTION,
    "religions_mini": QUESTION,
    "news": NEWS,
}
GONE = object()


def changed(row: dict, value, *path) -> dict:
    """A copy of ``row`` with the field at ``path`` replaced, or gone."""
    copy = deepcopy(row)
    *parents, last = path
    target = copy
    for key in parents:
        target = target[key]
    if value is GONE:
        del target[last]
    else:
        target[last] = value
    return copy


TALK, TWO = CONVERSATION["messages"], PREFERENCE["responses"]
BAD = {  # schema -> (value, path, what the message must name)
    "conversations": [
        (GONE, ("messages",), "'messages'"),
        ("Hello?", ("messages",), "'messages'"),
        (TALK[:1], ("messages",), "'messages'"),
        ([*TALK, TALK[0]], ("messages",), "must end with the assistant"),
        ("Hello?", ("messages", 0), "'messages[0].role'"),
        ("system", ("messages", 0, "role"), "'messages[0].role'"),
        ("user", ("messages", 1, "role"), "'messages[1].role'"),
        ("  \n", ("messages", 1, "content"), "messages[1]: field 'content'"),
        (GONE, ("messages", 1, "content"), "messages[1]: field 'content'"),
        (GONE, ("id",), "'id'"),
    ],
    "preferences": [
        (GONE, ("prompt",), "'prompt'"),
        (" ", ("prompt",), "'prompt'"),
        (TWO[:1], ("responses",), "'responses'"),
        ("Go away.", ("responses", 1), "responses[1]"),
        ("", ("responses", 1, "text"), "responses[1]: field 'text' is empty"),
        ("Very  well!", ("responses", 1, "text"), "one text with two different"),
        (9, ("responses", 1, "score"), "two different scores"),
        *((bad, ("responses", 0, "score"), "responses[0]: field 'score'") for bad in (GONE, "nine", True)),
        *(
            (bad, ("responses", 0, "score"), f"'score' is {bad}, outside 1 to 10")
            for bad in (11, 0, math.nan)
        ),
    ],
    "prompts": [
        (GONE, ("prompt",), "'prompt'"),
        ("validation", ("split",), "'split' is 'validation'"),
        (["train"], ("split",), "'split'"),
    ],
    "truthful_mini": [
        (GONE, ("question",), "'question'"),
        (["this"], ("choices",), "'choices'"),
        (["this", " "], ("choices",), "'choices[1]'"),
        (2, ("label",), "'label' is 2, outside the 2 choices"),
        *((bad, ("label",), f"'label' is {bad!r}") for bad in (-1, "0", True)),
    ],
    "news": [
        (GONE, ("text",), "'text'"),
        ("  ", ("text",), "'text' is empty"),
        ("validation", ("split",), "'split' is 'validation'"),
        ("", ("summary",), "'summary' is empty"),
    ],
}
BAD_ROWS = [(name, changed(GOOD[name], v, *path), said) for name, bad in BAD.items() for v, path, said in bad]
BAD_ROWS.append(("prompts", ["not", "an", "object"], "not a JSON object"))


@pytest.mark.parametrize(("schema", "row", "named"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, schema, row, named):
    path = tmp_path / "mine.jsonl"
    path.write_text(jsonl([{**GOOD[schema], "id": "good"}, row]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        sources.read_jsonl(path, CHECKS[schema])
    assert str(caught.value).startswith("mine.jsonl, line 2: ")
    assert named in str(caught.value)


def test_an_empty_file_and_an_id_twice_are_named(tmp_path):
    """Files that cannot be read: test_sources.py."""
    path = tmp_path / "mine.jsonl"
    twice = jsonl([PROMPT, {**PROMPT, "id": "q-2"}, PROMPT])
    for text, said in (("", "no rows"), (twice, "line 3: field 'id' 'q-1' was used in line 1")):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            sources.read_jsonl(path, sources.check_prompt)


def test_a_file_of_ones_own_is_loaded_by_path(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {**PROMPT, "id": f"q-{i}", "prompt": f"Why {i}?", "split": ("train", "test")[i % 2]} for i in range(6)
    ]
    # Line ends of Windows, and a line separator inside a text, which is no end of a line.
    rows[0]["prompt"] = "One\u2028two?"
    path.write_bytes(jsonl(rows).replace("\n", "\r\n").encode())
    assert data.load_prompts("train", str(path)) == rows[::2]
    assert data.load_prompts("test", str(path), limit=2) == rows[1:5:2]


# --- a damaged corpus ---------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    """A small copy of the corpus to damage: ``corpus(name, change)`` edits one file's rows."""
    for name in CHECKS:
        rows = sources.read_jsonl(sources.EMBEDDED / f"{name}.jsonl", CHECKS[name])
        rows = rows if name == "news" else rows[::12]  # whose topics have to be in both splits
        (tmp_path / f"{name}.jsonl").write_text(jsonl(rows), encoding="utf-8")

    def damage(name, change):
        path = tmp_path / f"{name}.jsonl"
        rows = sources.read_jsonl(path, CHECKS[name])
        change(rows)
        path.write_text(jsonl(rows), encoding="utf-8")

    damage.folder = tmp_path
    return damage


def test_an_undamaged_copy_passes(corpus, tokenizer):
    corpus_proof.check_corpus(corpus.folder, tokenizer)


def first_prompt(corpus) -> str:
    return sources.read_jsonl(corpus.folder / "preferences.jsonl", sources.check_preference)[0]["prompt"]


@pytest.mark.parametrize(
    "disguise",
    [
        str,
        str.upper,
        lambda text: f"  {text.strip('?.')}!!! ",
        lambda text: text.replace(" ", ",  "),
        lambda text: f"Please tell me: {text}",
    ],
    ids=["as it is", "capitals", "other punctuation", "commas", "a preamble"],
)
def test_a_prompt_in_two_sets_is_found(corpus, disguise):
    prompt = first_prompt(corpus)
    assert len(prompt.split()) >= 5
    corpus("prompts", lambda rows: rows[3].update(prompt=disguise(prompt)))
    with pytest.raises(DataError, match=r"prompts: 1 near-duplicates") as caught:
        corpus_proof.check_corpus(corpus.folder)
    assert prompt in str(caught.value)


ASKED = {  # how to put a question into a row of each set
    "conversations": lambda row, text: row["messages"][0].update(content=text),
    **dict.fromkeys(
        ("preferences", "gold_preferences", "prompts"), lambda row, text: row.update(prompt=text)
    ),
}


@pytest.mark.parametrize(("one", "other"), itertools.combinations(ASKED, 2))
def test_any_two_sets_of_prompts_are_disjoint(corpus, one, other):
    text = "Do dolphins ever sleep at night?"
    corpus(one, lambda rows: ASKED[one](rows[2], text))
    corpus_proof.check_corpus(corpus.folder)
    corpus(other, lambda rows: ASKED[other](rows[2], text))
    with pytest.raises(DataError, match=r"prompts: 1 near-duplicates, the first: .*dolphins"):
        corpus_proof.check_corpus(corpus.folder)


def asks(text: str):
    """A change: row 0 asks this."""
    return lambda rows: rows[0].update(prompt=text)


def says(i: int, text: str):
    """A change: the last turn of talk ``i`` says this."""
    return lambda rows: rows[i]["messages"][-1].update(content=text)


def scored(kind: str, score: int):
    def rescore(rows):
        rows[2]["responses"][0].update(kind=kind, score=score)
        rows[2]["responses"][1].update(kind="evasive", score=3)  # so that two scores differ

    return rescore


def ask_twice(rows):
    rows[4]["messages"][0]["content"] = rows[9]["messages"][0]["content"].lower()


def answer_twice(rows):
    rows[1]["responses"][0]["text"] = rows[0]["responses"][0]["text"].upper() + "!"


SOCKS = "Is it odd to own three blue socks, what now shall I do?"
FOUND = [  # ({file: change}, what is said)
    ({"conversations": ask_twice}, "near-duplicates"),
    # Five words in a row are too many.
    (
        {"prompts": asks("My cat ran off with three blue socks, what now?"), "preferences": asks(SOCKS)},
        "three blue socks, what now",
    ),
    (
        {
            "prompts": asks("Do dolphins ever sleep at night?"),
            "preferences": asks("At night, ever do dolphins sleep?"),
        },
        "dolphins",
    ),
    (
        {"conversations": lambda rows: rows[0]["messages"][0].update(content="why is the sky blue")},
        "Why is the sky blue",
    ),
    (
        {"religions_mini": lambda rows: rows[0].update(question=rows[1]["question"] + "?")},
        "religions_mini: 1 near-duplicates",
    ),
    ({"preferences": answer_twice}, "one response used twice"),
    *(
        ({"preferences": scored(kind, score)}, f"a {kind} response scores {score}")
        for kind, score in (("rude", 9), ("engaging", 4), ("false", 2), ("brilliant", 10))
    ),
    ({"conversations": says(5, "Александр Пушкин написал эту поэму.")}, "not English: 'Александр"),
    (
        {name: lambda rows: rows[0].update(id="shared") for name in ("truthful_mini", "prompts")},
        r"ids used in two files: \['shared'\]",
    ),
]


@pytest.mark.parametrize(("changes", "said"), FOUND)
def test_what_the_corpus_may_not_hold_is_found(corpus, changes, said):
    for name, change in changes.items():
        corpus(name, change)
    with pytest.raises(DataError, match=said):
        corpus_proof.check_corpus(corpus.folder)


def test_four_words_in_a_row_are_allowed(corpus):
    corpus("prompts", asks("My cat ran off with three blue socks, what then?"))
    corpus("preferences", asks(SOCKS))
    corpus_proof.check_corpus(corpus.folder)


LONG = {
    "conversations over 192 tokens": ("conversations", says(5, "word " * 200)),
    **{
        rf"prompts over 64 tokens: \{{'{row}": (name, asks("pneumonia " * 64))
        for name, row in (("prompts", "q-"), ("preferences", "p-"), ("gold_preferences", "g-"))
    },
    "news over 112 tokens": (
        "news",
        lambda rows: rows[0].update(text=" ".join(f"Zyx{i}qw" for i in range(60))),
    ),
}


@pytest.mark.parametrize("said", LONG)
def test_a_row_that_would_be_truncated_is_found(corpus, tokenizer, said):
    corpus(*LONG[said])
    corpus_proof.check_corpus(corpus.folder)  # without a tokenizer there is nothing to count with
    with pytest.raises(DataError, match=said):
        corpus_proof.check_corpus(corpus.folder, tokenizer)


def test_a_missing_file_is_named(corpus):
    (corpus.folder / "prompts.jsonl").unlink()
    with pytest.raises(DataError, match=r"no file or folder .*prompts\.jsonl"):
        corpus_proof.check_corpus(corpus.folder)


# --- the news -----------------------------------------------------------------------------------


def test_the_news_has_the_promised_sizes_and_both_splits_all_topics(counts):
    train, test = summaries.load_news("train"), summaries.load_news("test")
    assert len(train) + len(test) == counts["rows"]["news"] >= 280
    assert len(train) >= 200
    assert len(test) == counts["news"]["test"] >= 70
    assert {row["topic"] for row in train} == {row["topic"] for row in test}
    assert len({row["topic"] for row in train}) == counts["news"]["topics"] >= 8
    assert len({row["topic"] for row in summaries.load_news("train", limit=24)}) >= 8


def without(topic: str, split: str):
    """A change: the news without a topic in one split."""

    def drop(rows):
        rows[:] = [row for row in rows if (row["topic"], row["split"]) != (topic, split)]

    return drop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(text="Too short."), "n-politics-001 has 2 words, not 45 to 80"),
        (lambda rows: rows[0].update(text="слово " * 50), "n-politics-001 is not English"),
        (
            lambda rows: rows[0].update(text=rows[1]["text"].replace("Mayor", "Queen")),
            "news: 1 near-duplicates, the first: n-politics-001",
        ),
        (
            lambda rows: rows[0].update(topic="a topic of its own"),
            "topics are not balanced in train",
        ),
        *((without("politics", split), f"topics are not balanced in {split}") for split in ("train", "test")),
        (lambda rows: rows[0].update(summary="It closed."), "n-politics-001"),
        (lambda rows: [row.pop("summary", 0) for row in rows], "a test row has a summary"),
    ],
    ids=[
        "short",
        "foreign",
        "twice",
        "unbalanced",
        "not in train",
        "not in test",
        "a summary to learn",
        "no yardstick",
    ],
)
def test_bad_news_is_found(corpus, change, message):
    corpus("news", change)
    with pytest.raises(DataError, match=message):
        corpus_proof.check_corpus(corpus.folder)


def test_news_that_quotes_another_file_is_found(corpus):
    rows = sources.read_jsonl(corpus.folder / "preferences.jsonl", sources.check_preference)
    answer = rows[0]["responses"][0]["text"]
    run = " ".join(data.normalise(answer)[:5])
    corpus("news", lambda rows: rows[0].update(text=f"{rows[0]['text']} {run}"))
    with pytest.raises(DataError, match=f"n-politics-001 shares '{run}' with another file"):
        corpus_proof.check_corpus(corpus.folder)


def test_near_duplicates_by_hand():
    found = domain.near_duplicates(
        {
            "a": "one two three four five",
            "b": "zero one two three four five six",
            "c": "one two three",
            "d": "One, two: three!",
            "e": "nothing alike",
        }
    )
    assert found == [("a", "b"), ("c", "d")]


# --- pairs and splits ---------------------------------------------------------------------------


def test_pairs_put_the_better_first():
    row = {
        "id": "p-1",
        "topic": "t",
        "prompt": "How are you?",
        "responses": [
            {"text": "Go away, and never come back.", "score": 2, "kind": "rude"},
            {"text": "Very well!", "score": 9, "kind": "engaging"},
            {"text": "Who can say?", "score": 2, "kind": "evasive"},
            {"text": "Fine.", "score": 6.5},  # a user's own data may know no kinds
        ],
    }
    found = [(p.chosen, p.rejected, p.margin, p.kinds, p.shorter_wins) for p in data.pairs([row])]
    rude, good, evasive, fine = (r["text"] for r in row["responses"])
    assert found == [
        (good, rude, 7, ("engaging", "rude"), True),
        # rude and evasive score the same: no pair
        (fine, rude, 4.5, ("", "rude"), True),
        (good, evasive, 7, ("engaging", "evasive"), True),
        (good, fine, 2.5, ("engaging", ""), False),
        (fine, evasive, 4.5, ("", "evasive"), True),
    ]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_stranger_is_as_good_as_the_answer_it_meets(count):
    rows = [
        {
            "id": f"p-{i}",
            "topic": "t",
            "prompt": f"Question {i}?",
            "responses": [
                {"text": f"rude {i}", "score": 2, "kind": "rude"},
                {"text": f"best {i}", "score": 9, "kind": "engaging"},
                {"text": f"fair {i}", "score": 5 + i % 2},
            ],
        }
        for i in range(count)
    ]
    found = data.strangers(rows)
    # The rude response is not defended, and is nobody's stranger.
    assert sorted(p.chosen for p in found) == sorted(
        f"{k} {i}" for k in ("best", "fair") for i in range(count)
    )
    lender = {}
    for pair in found:
        (kind, own), (other_kind, other) = pair.chosen.split(), pair.rejected.split()
        assert kind == other_kind
        assert own == pair.id.split("-")[1] != other
        assert pair.kinds == ("engaging" if kind == "best" else "", "stranger")
        assert pair.prompt == f"Question {own}?"
        assert pair.margin == (9 if kind == "best" else 5 + int(own) % 2) - 1
        lender[own] = other
    assert len(set(lender.values())) == count, "every row lends to one other"
    assert data.strangers(rows) == found
    assert count < 7 or data.strangers(rows, seed=1) != found


def test_strangers_need_two_rows_and_two_texts():
    row = {"id": "a", "topic": "t", "prompt": "Is it?", "responses": [{"text": "Yes.", "score": 9}]}
    for rows in ([row], [row, {**row, "id": "b", "prompt": "is it"}]):
        with pytest.raises(ValueError, match="another question"):
            data.strangers(rows)
    assert data.strangers([row, {**row, "id": "b", "prompt": "Was it?"}]) == [], (
        "the same text cannot be a stranger"
    )


def test_equal_texts_are_no_pair():
    """Whatever the source: nothing can be learnt from a text that is better than itself."""
    texts = ("Yes.", " Yes.\n", "No.")
    row = {"id": "a", "topic": "t", "prompt": "?"}
    row["responses"] = [{"text": text, "score": score} for text, score in zip(texts, (9, 6, 2), strict=True)]
    assert [(p.chosen, p.rejected) for p in data.pairs([row])] == [("Yes.", "No."), (" Yes.\n", "No.")]
    other = {**row, "id": "b", "prompt": "!", "responses": [{"text": "Yes. ", "score": 9}]}
    assert [p.chosen for p in data.strangers([row, other])] == []


def test_every_pair_of_the_corpus_has_a_margin():
    every = data.pairs(data.load_preferences())
    assert all(pair.margin > 0 for pair in every)
    assert len({(pair.id, pair.chosen, pair.rejected) for pair in every}) == len(every)


def test_a_split_is_stable_and_disjoint():
    rows = data.load_preferences()
    train, held_out = data.split_rows(rows, 0.2)
    ids = [{row["id"] for row in part} for part in (train, held_out)]
    assert not ids[0] & ids[1]
    assert len(train) + len(held_out) == len(rows)
    # By hash of the id: neither the order nor the neighbours decide, so new rows move no old one.
    assert {row["id"] for row in data.split_rows(rows[::-2], 0.2)[1]} <= ids[1]
    # 0.2 of 419 is 84; four standard deviations of a binomial are 33.
    assert abs(len(held_out) - 0.2 * len(rows)) < 33
    assert data.split_rows(rows, 0.0) == (rows, [])
    assert data.split_rows(rows, 1.0) == ([], rows)


def test_the_copy_that_is_damaged_is_a_copy(corpus):
    # The fixture must not point into the package.
    shutil.rmtree(corpus.folder)
    assert (sources.EMBEDDED / "prompts.jsonl").exists()


def test_a_split_does_not_hang_on_the_order_of_the_rows():
    spelt = [(("b", f"Q {i}"), ("a", f"q {i}!")) for i in range(40)]
    rows = [{"id": f"{name}-{i}", "prompt": text} for i, two in enumerate(spelt) for name, text in two]
    held = [{row["id"] for row in data.split_rows(some, 0.3)[1]} for some in (rows, rows[::-1])]
    assert held[0] == held[1]
    assert {"a" + name[1:] for name in held[0]} == {name for name in held[0] if name[0] == "a"}
