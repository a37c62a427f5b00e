"""TRACKER sends the same numbers to a tracker: to TensorBoard's files, read back, and to a stand-in."""

from __future__ import annotations

import os
import struct
import sys
import types
from dataclasses import replace

import pytest
from conftest import build_actor
from test_resuming import PROFILE, STAGES, STEPS, numbers

from sawyer_utils.plumbing import tracking
from sawyer_utils.ppo import PPOConfig, PPOTrainer


def written(folder) -> dict[str, list[tuple[int, float]]]:
    """``{name: [(step, value), …]}`` of all event files under ``folder``.

    A record is its length (8 bytes), a checksum (4), the event, and another checksum (4).
    """
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.rglob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("TRACKER", raising=False)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # so that it is put back afterwards
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")


def ppo_trainer(letters, folder, steps=2) -> PPOTrainer:
    def share_of_a(prompts, responses):
        return [response.count("a") / (len(response) + 1) for response in responses]

    config = PPOConfig(steps=steps, batch_size=4, minibatches=2, response_tokens=4, checkpoint_every=1)
    return PPOTrainer(build_actor(letters), letters, share_of_a, config, folder)


PROMPTS = ["a b", "c d", "e f", "g h"]


def test_nothing_is_tracked_unless_asked(letters, tmp_path):
    STAGES["sft"][0](tmp_path / "sft")
    ppo_trainer(letters, tmp_path / "ppo").train(PROMPTS)
    assert not list(tmp_path.rglob("*tensorboard*"))
    assert not list(tmp_path.rglob("events.*"))


@pytest.mark.parametrize("name", STAGES)
def test_tensorboard_has_every_step_of_the_trainers(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER", "tensorboard")
    log = STAGES[name][0](tmp_path / name)
    found = written(tmp_path / name / "tensorboard")
    losses = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in log]
    assert found["train/loss"] == losses
    assert len(losses) == STEPS
    assert found["train/learning_rate"] == [(x["step"], pytest.approx(x["learning_rate"])) for x in log]


def test_tensorboard_has_every_step_of_ppo_also_of_a_run_that_went_on(letters, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER", "tensorboard")
    folder = tmp_path / "local" / "ppo"

    def cut(log):
        if len(log) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ppo_trainer(letters, folder, steps=4).train(PROMPTS, cut)
    log = ppo_trainer(letters, folder, steps=4).train(PROMPTS)
    found = written(folder / "tensorboard")
    for key in ("reward", "kl", "length", "finished", "policy_loss"):
        assert found[key] == [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in log]
    assert "samples" not in found
    assert "step" not in found


class StandIn:
    """Of wandb or trackio: keeps what it is told."""

    def __init__(self):
        self.started, self.logged, self.finished = [], [], 0
        self.config = types.SimpleNamespace(update=lambda *args, **kwargs: None)

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, values, step=None, **options):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_ppo_reaches_the_other_trackers_through_accelerate(letters, tmp_path, monkeypatch, name):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr(tracking, "find_spec", lambda package: package == name or None)
    monkeypatch.setenv("TRACKER", name)
    log = ppo_trainer(letters, tmp_path / "local" / "ppo").train(PROMPTS)
    [started] = stand_in.started
    assert started["project"] == "sawyer"
    assert started["name"] == "local-ppo"
    assert [step for step, _ in stand_in.logged] == [1, 2]
    assert [values["reward"] for _, values in stand_in.logged] == [line["reward"] for line in log]
    assert stand_in.finished == 1


def test_the_trainers_are_told_the_tracker(tmp_path, monkeypatch):
    assert tracking.trainer_options(tmp_path / "local" / "sft")["report_to"] == "none"
    monkeypatch.setenv("TRACKER", "WandB")
    monkeypatch.setattr(tracking, "find_spec", lambda package: package == "wandb" or None)
    told = tracking.trainer_options(tmp_path / "local" / "sft")
    assert told == {"report_to": "wandb", "project": "sawyer", "run_name": "local-sft"}
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_tracker_that_is_unknown_or_missing_says_what_to_do(monkeypatch):
    monkeypatch.setenv("TRACKER", "tensorbord")
    with pytest.raises(ValueError, match="Choose one of: none, tensorboard, trackio, wandb"):
        tracking.tracker()
    monkeypatch.setenv("TRACKER", "trackio")
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    with pytest.raises(ModuleNotFoundError, match="pip install trackio"):
        tracking.tracker()


def test_a_tracked_training_gives_the_same_numbers(tmp_path, monkeypatch):
    plain = STAGES["sft"][0](tmp_path / "plain")
    monkeypatch.setenv("TRACKER", "tensorboard")
    tracked = STAGES["sft"][0](tmp_path / "tracked", profile=replace(PROFILE, checkpoint_minutes=60.0))
    assert numbers(tracked) == numbers(plain)
