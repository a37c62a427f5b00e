"""Votes of a class: what is kept of them, how far they agree."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from sawyer_utils import data
from sawyer_utils.classroom import votes, widgets
from sawyer_utils.classroom.talk import Talk
from sawyer_utils.plumbing import sources

ANSWERS = {"sft": "Hello.", "ppo": "Hello there, and welcome!"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- what is kept -------------------------------------------------------------------------------


def test_a_vote_is_a_row_of_the_corpus_schema_without_the_voter(tmp_path):
    votes.append(tmp_path / "new" / "votes.jsonl", votes.vote("Hi", ANSWERS, "ppo"))
    votes.append(tmp_path / "new" / "votes.jsonl", votes.vote("Hi", ANSWERS, "sft"))
    first, second = sources.read_jsonl(tmp_path / "new" / "votes.jsonl", sources.check_preference)
    assert set(first) == {"id", "topic", "prompt", "responses"}
    assert {key for response in first["responses"] for key in response} == {"text", "score", "kind"}
    assert first["id"] != second["id"]
    [pair] = data.pairs([first])
    assert (pair.chosen, pair.rejected) == (ANSWERS["ppo"], ANSWERS["sft"])
    assert pair.kinds == ("ppo", "sft")


def test_the_best_of_three_beat_two_and_nothing_is_known_between_those():
    row = votes.vote("Hi", {**ANSWERS, "base": "Hi hi hi"}, "sft")
    assert [(p.kinds[0], p.kinds[1]) for p in data.pairs([row])] == [("sft", "ppo"), ("sft", "base")]


@pytest.mark.parametrize("other", ["Hello.", " Hello. ", "", "  "])
def test_where_nothing_was_decided_nothing_is_kept(other):
    assert votes.vote("Hi", {"sft": "Hello.", "ppo": other}, "sft") is None
    assert votes.vote("Hi", {"sft": other, "ppo": ""}, "ppo") is None


@pytest.mark.parametrize("twin", ["Hello you.", " Hello you. ", "Hello  you.", "Hello\n\nyou."])
def test_answers_that_differ_in_white_space_alone_are_one_answer(tmp_path, twin):
    answers = {"base": "Hi hi hi.", "sft": "Hello you.", "ppo": twin}
    assert votes.vote("Hi", {"sft": "Hello you.", "ppo": twin}, "ppo") is None
    cast = [votes.vote("Hi", answers, winner) for winner in ("base", "sft", "ppo") for _ in range(4)]
    assert votes.merge_votes([write(tmp_path / "votes.jsonl", cast)]) == cast, "what is written can be read"
    found = votes.agreement(cast)
    assert (found.units, found.shared) == (1, 1)
    assert found.alpha == votes.krippendorff_alpha([[0] * 4 + [1] * 8])
    assert len(data.pairs(cast)) == len(cast), "no vote counts twice"


@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_a_vote_leaves_those_before_it_as_they_are(tmp_path, end):
    rows, path = [votes.vote(f"Question {i}", ANSWERS, "ppo") for i in range(2)], tmp_path / "votes.jsonl"
    path.write_bytes((json.dumps(rows[0]) + end).encode())
    votes.append(path, rows[1])
    assert votes.merge_votes([path]) == rows


def test_a_vote_that_is_cut_off_takes_none_along(tmp_path, monkeypatch):
    path, write_bytes = tmp_path / "votes.jsonl", Path.write_bytes

    def half(self, data):
        write_bytes(self, data[:10])
        raise OSError(28, "No space left on device")

    votes.append(path, row := votes.vote("Hi", ANSWERS, "ppo"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="No space"):
            votes.append(path, votes.vote("Hi", ANSWERS, "sft"))
    assert votes.merge_votes([path]) == [row]


def test_files_are_merged_and_one_that_comes_in_twice_counts_once(tmp_path):
    rows = [votes.vote(f"Question {i}", ANSWERS, "ppo") for i in range(4)]
    one, two = write(tmp_path / "1.jsonl", rows[:2]), write(tmp_path / "2.jsonl", rows[2:])
    longer_copy = write(tmp_path / "3.jsonl", rows[:3])  # saved again after one more vote
    assert votes.merge_votes([one, two, one, longer_copy]) == rows
    assert votes.merge_votes([]) == []


def test_the_same_vote_by_two_people_counts_twice(tmp_path):
    both = [write(tmp_path / f"{i}.jsonl", [votes.vote("Hi", ANSWERS, "ppo")]) for i in range(2)]
    assert len(votes.merge_votes(both)) == 2


def test_a_damaged_file_and_a_changed_vote_are_refused_by_name(tmp_path):
    row = votes.vote("Hi", ANSWERS, "ppo")
    good = write(tmp_path / "good.jsonl", [row])
    folder = re.escape(f"in {tmp_path}: ")
    with pytest.raises(sources.DataError, match=rf"{folder}bad\.jsonl, line 1: field 'prompt'"):
        votes.merge_votes([good, write(tmp_path / "bad.jsonl", [{**row, "prompt": ""}])])
    with pytest.raises(sources.DataError, match=rf"{folder}other\.jsonl: the vote .* differs"):
        votes.merge_votes([good, write(tmp_path / "other.jsonl", [{**row, "prompt": "Bye"}])])


def test_votes_on_one_prompt_stay_together_in_a_split():
    rows = [votes.vote(f"Question {i % 5}", ANSWERS, "ppo") for i in range(20)]
    voted = votes.pairs(rows)
    assert len({pair.id for pair in voted}) == 5
    rows[5] = votes.vote("question 0!", ANSWERS, "ppo")  # the same, spelt otherwise
    first, *_, last = votes.pairs(rows[:6])
    assert first.id == last.id


# --- the widget ---------------------------------------------------------------------------------


@pytest.fixture
def chat(letter_actor, letters, letter_profile, tmp_path):
    two = {"one": "policy", "two": "policy"}
    talk = Talk(letter_actor(seed=15), letters, letter_profile, two, seeds={"two": 1})
    panel = widgets.Chat(talk, tmp_path, ballots=tmp_path / "votes.jsonl")
    panel.tokens.value, panel.blind.value = 8, True
    return panel


def test_a_vote_that_cannot_be_kept_is_said_not_counted_and_may_be_cast_again(chat, monkeypatch):
    def full(path, row):
        raise OSError(28, "No space left on device")

    ask(chat, "a b c")
    with monkeypatch.context() as patch:
        patch.setattr(votes, "append", full)
        chat.ballot.children[0].click()
    assert "No space left" in chat.status.value
    assert not chat.votes
    chat.ballot.children[0].click()
    assert len(chat.votes) == len(votes.merge_votes([chat.ballots])) == 1


def ask(chat, text):
    chat.question.value = text
    chat.ask_button.click()


def test_two_seeds_of_one_adapter_are_two_answers(chat):
    ask(chat, "a b c")
    one, two = chat.talk.turns[-1]["replies"].values()
    assert one.text != two.text
    assert two.kl is None  # of one model to itself


def test_a_blind_vote_is_added_to_the_file(chat):
    for text in ("a b c", "d e"):
        ask(chat, text)
        chat.vote("two")
    rows = sources.read_jsonl(chat.ballots, sources.check_preference)
    assert [row["prompt"] for row in rows] == ["a b c", "d e"]
    assert [data.pairs([row])[0].kinds for row in rows] == [("two", "one")] * 2
    assert "kept in votes.jsonl" in chat.status.value


def test_no_open_vote_no_draw_and_no_later_turn_is_kept(chat, monkeypatch):
    made, vote = [], votes.vote
    monkeypatch.setattr(votes, "vote", lambda *args: made.append(args) or vote(*args))
    ask(chat, "a b c")
    chat.vote(None)
    chat.blind.value = False
    ask(chat, "a b c")
    chat.vote("two")
    chat.new_button.click()
    chat.blind.value = True
    ask(chat, "a b c")
    ask(chat, "d e f")  # a second turn rests on answers that differ
    chat.vote("two")
    assert made == [], "whatever the answers were"
    assert not chat.ballots.exists()
    assert "kept" not in chat.status.value


def test_without_a_file_nothing_is_written(letter_actor, letters, letter_profile, tmp_path):
    talk = Talk(letter_actor(), letters, letter_profile, {"ref": "ref", "ppo": "policy"})
    panel = widgets.Chat(talk, tmp_path)
    panel.blind.value, panel.tokens.value = True, 8
    ask(panel, "a b c")
    panel.vote("ppo")
    assert not list(tmp_path.iterdir())


# --- agreement ----------------------------------------------------------------------------------


def units(*voters):
    """Rows of one voter each, "." where nothing was said, as the values of each unit."""
    columns = zip(*(row.split() for row in voters), strict=True)
    return [[value for value in column if value != "."] for column in columns]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [  # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", examples A, B and C
        (("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095),
        (("a a b b d c c c e d d a", "b a b b b c c c e d d d"), 0.692),
        (
            (
                "1 2 3 3 2 1 4 1 2 . . .",
                "1 2 3 3 2 2 4 1 2 5 . 3",
                ". 3 3 3 2 3 4 2 2 5 1 .",
                "1 2 3 3 2 4 4 1 2 5 1 .",
            ),
            0.743,
        ),
    ],
)
def test_alpha_is_that_of_the_published_examples(rows, expected):
    assert votes.krippendorff_alpha(units(*rows)) == pytest.approx(expected, abs=5e-4)


def alpha_by_all_pairs(values):
    """By definition: disagreement within units against that between any two of all their values."""
    shared = [unit for unit in values if len(unit) > 1]
    n = sum(map(len, shared))
    within = sum(
        sum(a != b for i, a in enumerate(u) for j, b in enumerate(u) if i != j) / (len(u) - 1) for u in shared
    )
    everything = [value for unit in shared for value in unit]
    between = sum(a != b for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j)
    return 1 - (within / n) / (between / (n * (n - 1)))


def test_alpha_is_that_of_all_pairs_one_by_one():
    rng = random.Random(0)
    for _ in range(50):
        values = [rng.choices("abc", k=rng.randint(0, 5)) for _ in range(12)] + [["a", "b"]]
        assert votes.krippendorff_alpha(values) == pytest.approx(alpha_by_all_pairs(values))


def test_the_ends_of_alpha():
    assert votes.krippendorff_alpha([[0, 0], [1, 1]]) == 1.0
    assert votes.krippendorff_alpha([[0, 1]] * 50) < 0
    for nothing in ([], [[0]], [[0, 0], [0, 0]]):
        assert math.isnan(votes.krippendorff_alpha(nothing))


def test_agreement_does_not_need_every_voter_on_every_answer():
    rows = [votes.vote("shared", ANSWERS, winner) for winner in ("sft", "sft", "ppo")]
    rows += [votes.vote(f"alone {i}", ANSWERS, "ppo") for i in range(5)]
    found = votes.agreement([*rows, rows[-1]])
    assert (found.votes, found.units, found.shared) == (9, 6, 2)
    assert found.alpha == votes.krippendorff_alpha([[1, 1, 0], [0, 0]])
    assert str(found).startswith("9 votes on 6 sets of answers, 2 of them with several votes: Krippendorff")
    for few in (rows, rows[3:]):  # one set with several votes, and none
        assert str(votes.agreement(few)).endswith("with several votes: no agreement to be computed")


def cast(*winners, voters=3):
    """Votes of several people on one question for each of the winners, whose texts are in no order."""
    rng = random.Random(1)
    asked = [(f"Question {i}", {s: f"{rng.random()}" for s in ("sft", "ppo")}) for i in range(len(winners))]
    return [votes.vote(*asked[i], winner) for i, winner in enumerate(winners) for _ in range(voters)]


def test_one_model_winning_always_is_agreement():
    found = votes.agreement(cast(*["ppo"] * 30))
    assert (found.alpha, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_interval_draws_sets_of_answers_and_holds_alpha():
    found = votes.agreement(cast(*["ppo"] * 30, *["sft"] * 30, voters=2) + cast(*["sft"] * 20, voters=1))
    assert found.low < found.alpha < found.high < 1.0
    assert (found.units, found.shared) == (60, 60)
