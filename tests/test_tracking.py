"""TRACKER sends the same numbers to a tracker: to TensorBoard's files, read back, and to a stand-in."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
from accelerate import PartialState
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


def train_ppo(letters, folder) -> list[dict]:
    """Two steps; returns the log."""
    config = PPOConfig(steps=2, batch_size=4, minibatches=2, response_tokens=4, checkpoint_every=1)
    trainer = PPOTrainer(
        build_actor(letters), letters, lambda _, said: [0.1 * len(x) for x in said], config, folder
    )
    return trainer.train(["a b", "c d", "e f", "g h"])


def test_nothing_is_tracked_unless_asked(letters, tmp_path):
    STAGES["sft"][0](tmp_path / "sft")
    train_ppo(letters, tmp_path / "ppo")
    assert not list(tmp_path.rglob("*tensorboard*"))
    assert not list(tmp_path.rglob("events.*"))


@pytest.mark.parametrize("name", STAGES)
def test_tensorboard_has_every_step_of_the_trainers(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER", "TensorBoard")
    log = STAGES[name][0](tmp_path / name)
    found = written(tmp_path / name / "tensorboard")
    losses = [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in log]
    assert found["train/loss"] == losses
    assert len(losses) == STEPS
    assert found["train/learning_rate"] == [(x["step"], pytest.approx(x["learning_rate"])) for x in log]


def test_tensorboard_has_every_step_of_ppo(letters, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER", "tensorboard")
    log = train_ppo(letters, tmp_path / "local" / "ppo")
    found = written(tmp_path / "local" / "ppo" / "tensorboard")
    for key in ("reward", "kl", "length", "finished", "policy_loss"):
        assert found[key] == [(line["step"], pytest.approx(line[key], rel=1e-6)) for line in log]
    assert "samples" not in found
    assert "step" not in found


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_ppo_reaches_the_other_trackers_through_accelerate(letters, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, stand_in := MagicMock())
    monkeypatch.setenv("TRACKER", name)
    log = train_ppo(letters, tmp_path / "local" / "ppo")
    started = stand_in.init.call_args.kwargs
    assert (started["project"], started["name"]) == ("sawyer", "local-ppo")
    calls = stand_in.init.return_value.log.call_args_list
    assert [call.args[0]["reward"] for call in calls] == [line["reward"] for line in log]
    assert [call.kwargs["step"] for call in calls] == [1, 2]
    stand_in.init.return_value.finish.assert_called_once_with()


def test_a_run_that_is_stopped_ends_in_its_tracker_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", stand_in := MagicMock())
    monkeypatch.setenv("TRACKER", "wandb")
    PartialState()  # as the trainer has it
    with pytest.raises(KeyboardInterrupt), tracking.follow(tmp_path / "local" / "ppo"):
        raise KeyboardInterrupt
    stand_in.init.return_value.finish.assert_called_once_with()


def test_the_trainers_are_told_the_tracker(tmp_path, monkeypatch):
    assert tracking.trainer_options(tmp_path / "local" / "sft")["report_to"] == "none"
    monkeypatch.setenv("TRACKER", "WandB")
    told = tracking.trainer_options(tmp_path / "local" / "sft")
    assert told == {"report_to": "wandb", "project": "sawyer", "run_name": "local-sft"}


@pytest.mark.parametrize(("name", "said"), [("tensorbord", "tensorboard"), ("comet_ml", "comet")])
def test_a_tracker_that_is_unknown_or_missing_says_what_to_do(tmp_path, monkeypatch, name, said):
    monkeypatch.setenv("TRACKER", name)
    with pytest.raises((ValueError, RuntimeError), match=said):  # transformers' own words
        STAGES["sft"][0](tmp_path / "sft")


def test_ppo_names_the_trackers_that_there_are(letters, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER", "tensorbord")
    with pytest.raises(ValueError, match=r"TRACKER='tensorbord' is unknown.*tensorboard"):
        train_ppo(letters, tmp_path)


def test_a_tracked_training_gives_the_same_numbers(tmp_path, monkeypatch):
    plain = STAGES["sft"][0](tmp_path / "plain")
    monkeypatch.setenv("TRACKER", "tensorboard")
    tracked = STAGES["sft"][0](tmp_path / "tracked", profile=replace(PROFILE, checkpoint_minutes=60.0))
    assert numbers(tracked) == numbers(plain)
