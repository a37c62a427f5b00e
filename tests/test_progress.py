"""What is said while a notebook runs: how far the cell is, never an earlier one, and a time that learns."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pytest
from conftest import build_actor
from test_trainers import kind, profile, start, train  # noqa: F401

from sawyer_utils import evaluation, sft
from sawyer_utils.chapters import choices
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing import progress
from sawyer_utils.plumbing.files import read_json
from sawyer_utils.plumbing.progress import Stage, each, stage
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import RewardModel


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Everything that is written for who runs the notebook, in its order."""
    found, path = [], tmp_path / "progress.json"
    monkeypatch.setenv("SAWYER_PROGRESS", str(path))
    monkeypatch.setattr(Stage, "current", None)
    write = progress.write_json
    monkeypatch.setattr(progress, "write_json", lambda p, now: (found.append(now), write(p, now)))
    yield found
    assert not path.exists(), "what is over is said no more"


def steps(told, what):
    return [(now["step"], now["total"]) for now in told if now["what"] == what]


# --- what the cells say -------------------------------------------------------------------------


def test_lists_that_are_gone_through_say_how_far_they_are(told, letters, letter_profile):
    actor, asked = build_actor(letters), list("abcde")
    sizes = replace(letter_profile, response_tokens=3, eval_batch=2)
    answers = evaluation.answer(actor, letters, asked, sizes)
    evaluation.kl_to_reference(actor, answers, "ref")
    RewardModel.untrained(letter_profile).score(asked, list("vwxyz"), batch=2)
    talks = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 5
    sft.graded_losses(actor, letters, talks, batch=2)
    questions = [{"id": a, "question": a, "choices": ["b", "c"], "label": 0} for a in asked]
    choices.score_choices(actor, letters, questions)
    choices.ask_for_letter(actor, letters, questions, batch=2)
    thirds = [(0, 3), (1, 3), (2, 3)]
    for what in ("answers", "compared", "scored", "read", "of letters"):
        assert steps(told, f"batches {'of ' * (what == 'answers')}{what}") == thirds
    assert steps(told, "contexts") == [(i, 5) for i in range(5)]


def test_each_kind_of_training_says_its_own_steps(told, profile, start, kind, tmp_path):  # noqa: F811
    train(kind, profile, start, tmp_path)
    said = [now for now in told if now["what"] == "training"]
    assert (said[0]["step"], said[-1]["step"]) == (0, said[-1]["total"])
    assert "loss" not in said[0], "before its first step it has none"
    assert all("loss" in now for now in said[1:])


def test_ppo_says_its_steps_and_not_what_is_inside_of_them(told, letters):
    settings = PPOConfig(steps=3, batch_size=4, micro_batch=4, response_tokens=4)

    def reward_fn(prompts, responses):
        return [float(len(r)) for r in each("inside", responses)]

    PPOTrainer(build_actor(letters), letters, reward_fn, settings).train(list("abcd"))
    assert steps(told, "PPO") == [(i, 3) for i in range(4)]
    assert not steps(told, "inside")
    assert "reward" not in told[0]
    assert all({"reward", "kl"} <= now.keys() for now in told[1:])


def test_after_an_error_the_next_one_is_heard(told):
    with pytest.raises(ZeroDivisionError), stage("first"):
        1 / 0
    assert list(each("second", [1, 2])) == [1, 2]
    assert steps(told, "second") == [(0, 2), (1, 2)]


def test_the_seconds_before_a_cut_count():
    clock, state = progress.Clock(), SimpleNamespace(log_history=[{"seconds": 100.0}])
    clock.on_train_begin(None, state, None)
    state.log_history.append({})
    clock.on_log(None, state, None)
    assert 100 <= state.log_history[-1]["seconds"] < 110


def test_a_training_that_goes_on_counts_its_own_pace(told, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with stage("training") as said:
        said.tell(50, 100)  # so far it came in an earlier session
        now[0] = 60.0
        said.tell(60, 100, {"loss": float("nan")})
    assert [line["left"] for line in told] == [None, 240.0]
    assert "loss" not in told[1]


@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_a_file_that_somebody_reads_ends_no_training(monkeypatch, tmp_path, call):
    """On Windows a file that is open elsewhere can be neither replaced nor removed."""
    monkeypatch.setenv("SAWYER_PROGRESS", str(tmp_path / "progress.json"))

    def refuse(*_, **__):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(*((progress.Path, call) if call == "unlink" else ("os.replace",)), refuse)
    assert list(each("items", "ab")) == ["a", "b"]
    assert Stage.current is None


def test_without_the_variable_nothing_is_written(monkeypatch):
    monkeypatch.delenv("SAWYER_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "write_json", None)
    assert list(each("items", "ab")) == ["a", "b"]


# --- what is shown of it ------------------------------------------------------------------------


def notebook(*cells: str):
    made = [nbformat.v4.new_markdown_cell(c) if c[0] == "#" else nbformat.v4.new_code_cell(c) for c in cells]
    return nbformat.v4.new_notebook(cells=made)


TRAINS = """
import os, json, time
from pathlib import Path
Path(os.environ["SAWYER_PROGRESS"]).write_text(
    json.dumps({"what": "training", "step": 7, "total": 9, "left": 300.0, "loss": 1.25}))
time.sleep(1.0)
"""


def test_a_running_notebook_shows_its_cell_and_nothing_of_an_earlier_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "my runs"))
    lines, real = [], course.progress_line
    monkeypatch.setattr(course, "progress_line", lambda *args: lines.append(real(*args)) or lines[-1])
    waits = SimpleNamespace(Event=lambda: Waiting(), Thread=course.threading.Thread)
    monkeypatch.setattr(course, "threading", waits)
    cells = notebook("## 1. Train", TRAINS, "## 2. Sample", "import time\ntime.sleep(1.5)")
    course.execute(cells, PROFILES["smoke"], "01_sft", course.Clock(["01_sft"], {"01_sft": 1.0}))
    of = {n: [line for line in lines if f"cell {n}/4" in line] for n in (2, 4)}
    assert any("training 7/9  loss 1.25" in line and "about 5 min left" in line for line in of[2])
    assert of[4]
    assert not [line for line in of[4] if "training" in line or "loss" in line]
    assert not list((tmp_path / "my runs").rglob("progress.json"))


def test_a_kernel_imports_this_course_and_not_another_clone(monkeypatch, tmp_path):
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    (tmp_path / "other" / "sawyer_utils").mkdir(parents=True)
    (tmp_path / "other" / "sawyer_utils" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    cells = notebook("import sawyer_utils; print(sawyer_utils.__file__)")
    course.execute(cells, PROFILES["smoke"], "01_sft", course.Clock(["01_sft"], {"01_sft": 1.0}))
    assert cells.cells[0].outputs[0].text.startswith(str(course.project_root()))


class Waiting:
    """An event that is looked at ten times a second."""

    def __init__(self):
        import threading

        self.event = threading.Event()

    def wait(self, _):
        return self.event.wait(0.1)

    def set(self):
        self.event.set()


@pytest.mark.parametrize("text", ["", "{"])
def test_a_file_that_is_being_written_is_no_trouble(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    state = {"cell": 3, "cells": 9, "began": course.time.monotonic() - 90}
    clock = course.Clock(["a"], {"a": 5.0})
    line = course.progress_line("a", state, tmp_path / "progress.json", clock)
    assert line.startswith("a  cell 3/9  1.5 min in this cell  0.0 min so far, about 5 min left")


def test_long_parts_give_back_what_they_have_freed(told, monkeypatch):
    """At their end, and every few seconds before it; a part of a part does not."""
    now, times = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "give_back", lambda: times.append(now[0]))
    for _ in each("batches", range(4)):
        now[0] += 3.0
        list(each("of a batch", "ab"))
    assert times == [6.0, 12.0]
    monkeypatch.delenv("SAWYER_PROGRESS")  # nobody has to watch
    for _ in each("batches", range(3)):
        now[0] += 6.0
    assert times[2:] == [18.0, 24.0, 30.0]


# --- the time left ------------------------------------------------------------------------------

EXPECTED, SECTIONS = {"a": 4.0, "b": 10.0}, {"a": {"start": 1, "train": 3}, "b": {"start": 5, "end": 5}}


@pytest.fixture
def machine(monkeypatch):
    """``machine(slow)``: two notebooks on a machine that takes ``slow`` times as long; minutes left, as said,
    at each half minute, and the true ones."""

    def run(slow: float, sections=SECTIONS, says: bool = False):
        now, found = [0.0], []
        monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
        clock = course.Clock(list(EXPECTED), EXPECTED, sections)
        total = 60 * slow * sum(EXPECTED.values())
        for name, minutes in EXPECTED.items():
            parts = SECTIONS[name]
            clock.begin([*parts, "new"])
            for part, share in parts.items():
                clock.enter(part)
                took, end = 0.0, 60 * slow * minutes * share / sum(parts.values())
                while took < end:
                    left = re.search(r"(about (\d+)|less than a) min", clock(end - took if says else 0.0))
                    found.append((int(left[2] or 0), (total - now[0]) / 60))
                    now[0], took = now[0] + 30, took + 30
            clock.finished(name)
        return found

    return run


@pytest.mark.parametrize("says", [False, True])
@pytest.mark.parametrize("sections", [SECTIONS, {}], ids=["sections known", "nothing known"])
@pytest.mark.parametrize("slow", [0.5, 1.0, 3.0])
def test_the_estimate_is_never_done_before_the_work_is(machine, slow, sections, says):
    found = machine(slow, sections, says)
    assert not [left for left, true in found if left == 0 and true > 2.0]


@pytest.mark.parametrize("slow", [0.5, 1.0, 3.0])
def test_the_estimate_learns_from_what_it_sees(machine, slow):
    """From the first tenth on it is right to a third, where it began with a factor of three."""
    found = machine(slow)
    whole = found[0][1]
    for left, true in found:
        if 1.0 < true < 0.75 * whole:
            assert left == pytest.approx(true, rel=0.4, abs=1.0)


def test_what_a_training_says_of_itself_counts_more_than_what_is_usual(machine):
    told, untold = machine(3.0, says=True), machine(3.0)
    first = next(i for i, (_, true) in enumerate(untold) if true < 0.95 * untold[0][1])
    assert told[first][0] > untold[first][0]


def test_times_are_those_of_this_machine_before_the_committed_ones():
    committed = read_json(course.project_root() / "results" / "local.json")["minutes"]
    minutes, sections = course.expected({"seconds": {"01_sft": 30.0}})
    assert minutes["01_sft"] == 0.5 != committed["01_sft"]
    assert minutes["02_reward"] == committed["02_reward"]
    assert sum(sections["03_ppo"].values()) > 0
    ledger = {"seconds": {}, "sections": {"03_ppo": {"7. Train": 3.0}}}
    assert course.expected(ledger)[1]["03_ppo"] == {"7. Train": 3.0}


def test_headings_that_have_changed_count_as_unknown(machine):
    """One short section that kept its name is not taken for the whole notebook."""
    renamed = {"a": {"start": 0.01, "practise": 4}, "b": {"begin": 5, "end": 0.01}}
    found = machine(1.0, renamed)
    assert max(left for left, _ in found) <= 1.5 * found[0][1]
