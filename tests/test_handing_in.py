"""What a student hands in, and the table of a class: no answer, nothing personal but the name."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from test_checks import toys  # noqa: F401

from sawyer_utils.__main__ import main
from sawyer_utils.classroom import checks, quiz, votes
from sawyer_utils.classroom.handing_in import collect, hand_in
from sawyer_utils.plumbing.reading import DataError


@pytest.fixture
def session(toys, monkeypatch, tmp_path):  # noqa: F811
    """``session()``: a kernel that has just started."""

    def start():
        monkeypatch.setattr(checks, "attempted", {})
        monkeypatch.setattr(quiz, "shown", {})

    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    start()
    return start


def test_a_file_says_what_was_right_and_nothing_else(session, tmp_path, capsys):
    for answer in (None, 1, 2.5, 1):  # right once stays right
        checks.check("99.1", answer)
    checks.check("99.2", lambda x: None)  # a stub, so not attempted
    checks.check("99.3", "blue")
    panel = quiz.quiz("01")
    right = [choice["right"] for choice in panel.questions[0]["choices"]].index(True)
    panel.choose(right)
    panel.go(+1)
    panel.choose([choice["right"] for choice in panel.questions[1]["choices"]].index(False))
    path = hand_in("Ada L.")
    assert path == tmp_path / "runs" / "hand-in-ada-l.json"
    found = {"99.1": True, "99.3": False}, {"01": [True, False, None, None, None]}
    assert json.loads(path.read_text()) == dict(zip(("name", "exercises", "quiz"), ("Ada L.", *found)))
    assert "1 of 2 exercises that you tried are right, 1 of 5 questions" in capsys.readouterr().out


def test_a_later_session_adds_to_the_file_and_first_choices_stay(session):
    checks.check("99.1", 2.5)
    panel = quiz.quiz("01")
    wrong = [choice["right"] for choice in panel.questions[0]["choices"]].index(False)
    panel.choose(wrong)
    hand_in("Ada")
    session()
    checks.check("99.1", 1)
    checks.check("99.3", "red")
    again, other = quiz.quiz("01"), quiz.quiz("02")
    again.choose([choice["right"] for choice in again.questions[0]["choices"]].index(True))
    hand_in("Ada")
    assert len(other.questions) == 5
    found = json.loads(hand_in("Ada").read_text())
    assert found["exercises"] == {"99.1": True, "99.3": True}
    assert found["quiz"] == {"01": [False, *[None] * 4], "02": [None] * 5}


def test_a_quiz_cell_that_runs_again_keeps_what_was_answered(session):
    first = quiz.quiz("01")
    right = [choice["right"] for choice in first.questions[0]["choices"]].index(True)
    first.choose((right + 1) % 2)  # a wrong one
    tries = first.first_tries()
    again = quiz.quiz("01")
    assert again.first_tries() == tries
    assert "of 1 answered" in again.status.value, "and it is shown"
    again.choose(right)
    assert json.loads(hand_in("Ada").read_text())["quiz"]["01"] == tries


@pytest.mark.parametrize("name", ["", "  ", "../.."])
def test_a_name_without_letters_is_refused_and_none_leaves_the_folder(session, tmp_path, name):
    with pytest.raises(ValueError, match="Type the name"):
        hand_in(name, tmp_path)
    assert hand_in("../é b", tmp_path) == tmp_path / "hand-in-é-b.json"


@pytest.fixture
def folder(tmp_path):
    """Three files as they come in: folders of their own, a copy's name, one name twice."""
    ada = {"name": "ada", "exercises": {"01.1": True, "01.2": False}, "quiz": {"01": [True, True, False]}}
    bob = {"name": "=Bob", "exercises": {"01.1": True, "03.1": True}, "quiz": {"01": [None, True, None]}}
    for place, found in (("b/hand-in-bob.json", bob), ("hand-in-ada (1).json", ada)):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(json.dumps(found))
    return tmp_path


def test_a_class_is_a_row_a_name_and_one_for_all(folder):
    table = collect(folder)
    assert list(table.index) == ["ada", "Bob", "class of 2"], "by name, and no formula for a spreadsheet"
    assert list(table.columns) == ["01.1", "01.2", "03.1", "quiz 01"]
    assert table.loc["class of 2"].tolist() == [2, 0, 1, 3]
    assert pd.isna(table.loc["Bob", "01.2"]), "not tried is not wrong"


def test_the_command_prints_the_table_and_gathers_the_votes(folder, capsys):
    for student in "ab":  # two files of one name
        row = votes.vote("Hi", {"sft": "Hello.", "ppo": "Hello there!"}, "ppo")
        votes.append(folder / student / "votes.jsonl", row)
    for _ in range(2):
        main(["collect", str(folder)])
        assert len((folder / "votes-class.jsonl").read_text().splitlines()) == 2
    said = capsys.readouterr().out
    assert "2 votes on 1 sets of answers" in said
    assert "NA" not in said
    table = (folder / "class.csv").read_text(encoding="utf-8-sig")
    assert table.splitlines()[0] == "name,01.1,01.2,03.1,quiz 01"


@pytest.mark.parametrize("name", ["Zoë Müller", "Ağa, 李", 'O\'Neil "Jo"'])
def test_a_spreadsheet_shows_the_name_as_it_was_typed(session, tmp_path, name):
    checks.check("99.1", 2.5)
    hand_in(name, tmp_path)
    main(["collect", str(tmp_path)])
    assert (tmp_path / "class.csv").read_bytes().startswith(b"\xef\xbb\xbf"), "by which Excel knows UTF-8"
    assert pd.read_csv(tmp_path / "class.csv", encoding="utf-8-sig")["name"][0] == name


@pytest.mark.parametrize(
    "before", ["lovelaceada_12_34_", "Ada Lovelace_7_assignsubmission_file_", "Übung, 1 "]
)
def test_what_a_learning_platform_puts_before_a_name_hides_no_file(folder, before):
    (folder / "b/hand-in-bob.json").rename(folder / f"{before}hand-in-bob.json")
    (folder / "._hand-in-bob.json").write_bytes(b"\0macOS")
    assert list(collect(folder).index) == ["ada", "Bob", "class of 2"]


@pytest.mark.parametrize("name", ["hand-in-bob.json.txt", "Hand-In-Bob.JSON", "7_HAND-IN-bob.Json.TXT"])
def test_neither_case_nor_txt_hides_a_file(folder, name, capsys):
    (folder / "b/hand-in-bob.json").rename(folder / name)
    assert list(collect(folder).index) == ["ada", "Bob", "class of 2"]
    assert "Not read" not in capsys.readouterr().out


def test_a_file_that_was_not_read_is_named(folder, capsys):
    for name in ("b/Dora.JSON", "._eve.json", "a list.txt"):
        (folder / name).write_text("{}")
    assert list(collect(folder).index) == ["ada", "Bob", "class of 2"]
    assert f"in the name: {Path('b/Dora.JSON')}.\n" in capsys.readouterr().out


def test_files_of_one_name_are_one_person(folder, capsys):
    text = (folder / "hand-in-ada (1).json").read_text()
    for place in ("hand-in-ada.json", "c/hand-in-ada.json"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(text.replace('"ada"', '"Ada "').replace('"01.2": false', '"02.1": true'))
    table = collect(folder)
    assert [name.casefold() for name in table.index] == ["ada", "bob", "class of 2"]
    assert table.iloc[0].tolist()[:3] == [1, 0, 1]
    assert table.loc["class of 2", "01.1"] == 2, "no one counts twice"
    assert "(3 files)" in capsys.readouterr().out


def test_a_later_file_takes_back_nothing_that_was_right(folder):
    later = {"name": "ada", "exercises": {"01.1": False}, "quiz": {"01": [False, False, True]}}
    (folder / "z").mkdir()
    (folder / "z" / "hand-in-ada.json").write_text(json.dumps(later))
    assert collect(folder).loc["ada", ["01.1", "quiz 01"]].tolist() == [1, 2]


def test_votes_alone_are_no_error(tmp_path, capsys):
    votes.append(tmp_path / "votes.jsonl", votes.vote("Hi", {"sft": "Hello.", "ppo": "Hello there!"}, "ppo"))
    main(["collect", str(tmp_path)])
    assert "1 votes on 1 sets" in capsys.readouterr().out


def test_who_has_tried_nothing_is_a_row_all_the_same(session, tmp_path):
    hand_in("Ada", tmp_path)
    assert list(collect(tmp_path).index) == ["Ada", "class of 1"]


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "a", "exercises": {"01.1": "yes"}, "quiz": {}}'])
def test_what_is_no_such_file_is_named(folder, text):
    (folder / "b/hand-in-c.json").write_text(text)
    with pytest.raises(SystemExit, match=r"b.hand-in-c\.json is no file that hand_in"):
        main(["collect", str(folder)])


def test_an_empty_folder_is_no_class(tmp_path):
    with pytest.raises(DataError, match="There is no hand-in"):
        collect(tmp_path)
