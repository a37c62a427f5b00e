"""What every trainer of the libraries is told (one GPU, fp16's first scale), and what its log leaves out."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fakegpu
import pytest
import torch
from conftest import build_actor, letter_tokenizer
from safetensors.torch import load_file
from test_peers import PAIRS, dpo, rloo

from sawyer_utils import models, reward, runtime, sft
from sawyer_utils.chapters import peers
from sawyer_utils.chat import add_control_tokens
from sawyer_utils.plumbing import machine, trainers
from sawyer_utils.plumbing.progress import LogTo
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.reward import RewardModel

torch.set_num_threads(1)

TALKS = [
    {"messages": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": text}]}
    for text in ("d e f g", "k l", "x y z", "b")
]
KINDS = {"sft": "adapter", "reward": "model", "dpo": "adapter", "rloo": "adapter"}

fakegpu.install()  # before autograd first runs in this process


@pytest.fixture(scope="module")
def profile(letter_profile):
    sizes = {"sft_max_steps": 3, "sft_batch": 2, "sft_micro_batch": 1, "reward_max_steps": 3}
    sizes |= {"reward_batch": 4, "dpo_batch": 2, "response_tokens": 4}
    sizes |= {"ppo_batch": 4, "ppo_epochs": 2, "ppo_micro_batch": 2}
    return replace(letter_profile, precision="auto", checkpoint_minutes=0.0, **sizes)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A saved SFT adapter."""
    folder = tmp_path_factory.mktemp("sft") / "adapter"
    model = build_actor(add_control_tokens(letter_tokenizer()), hidden_size=64)
    models.save_adapter(model, folder, models.POLICY)
    return folder


def lengths(prompts, responses) -> list[float]:
    return [float(len(text)) for text in responses]


def student(profile):
    tokenizer, model = models.load_policy(profile)
    torch.manual_seed(0)
    return models.add_lora(model, 4, 8), tokenizer


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def trainer_of(kind: str, profile, start, folder):
    """The trainer of one of the four trainings, built."""
    if kind == "sft":
        return sft.sft_trainer(*student(profile), profile, TALKS, folder)
    if kind == "reward":
        return reward.reward_trainer(RewardModel.untrained(profile), profile, PAIRS, folder)
    return peers.ready(
        dpo(profile, start, folder) if kind == "dpo" else rloo(profile, start, folder, lengths)
    )


def train(kind: str, profile, start, folder, on_log=lambda log: None) -> list[dict]:
    """The whole training: its log."""
    if kind == "sft":
        return sft.train_sft(*student(profile), profile, TALKS, folder, on_log)
    if kind == "reward":
        return reward.train_reward(RewardModel.untrained(profile), profile, PAIRS, folder, on_log)
    return peers.train(trainer_of(kind, profile, start, folder), profile, folder, on_log)


def weights(kind: str, folder) -> dict[str, torch.Tensor]:
    return load_file(folder / KINDS[kind] / "adapter_model.safetensors")


# --- the order of rows, and what is finished --------------------------------------------------


def test_rows_of_about_one_length_stand_together_and_the_eights_in_no_order_of_length():
    lengths = [i % 40 for i in range(83)]
    order = trainers.in_batches(list(range(83)), lengths)
    assert sorted(order) == list(range(83))
    eights = [[lengths[i] for i in order[at : at + 8]] for at in range(0, 80, 8)]
    assert all(max(eight) - min(eight) <= 5 for eight in eights)
    means = [sum(eight) for eight in eights]
    assert means not in (sorted(means), sorted(means, reverse=True))
    first, second = sum(means[:5]) / 40, sum(means[5:]) / 40
    assert abs(first - second) < 12  # in order of length it is 20


@pytest.mark.parametrize("there", [(), ("log",), ("weights",), ("log", "weights")])
def test_a_training_is_finished_with_its_log_and_its_weights(tmp_path, there, capsys):
    if "log" in there:
        runtime.write_json(tmp_path / "log.json", [{"step": 1}])
    (tmp_path / "model").mkdir()
    if "weights" in there:
        (tmp_path / "model" / "adapter_model.safetensors").touch()
    found = trainers.finished(tmp_path, "model")
    assert found == ([{"step": 1}] if len(there) == 2 else None)
    assert ("Already trained" in capsys.readouterr().out) == (len(there) == 2)


# --- fp16's gradient scaler ---------------------------------------------------------------------


def test_the_scale_begins_where_nothing_is_skipped(kind, profile, start, tmp_path):
    with fakegpu.course("fp16"):
        trainer = trainer_of(kind, profile, start, tmp_path)
        assert trainer.accelerator.scaler.get_scale() == trainers.FP16_SCALE <= 2**13  # more overflows
        trainer.train()
        # The same object scales the loss and unscales the gradients.
        assert trainer.accelerator.scaler is trainer.optimizer.scaler
        if kind == "rloo":  # its one random batch on a random model overflows once, and halves the scale
            assert trainer.accelerator.scaler.get_scale() >= trainers.FP16_SCALE / 2
            return
        assert trainer.accelerator.scaler.get_scale() == trainers.FP16_SCALE
    assert all(math.isfinite(line.get("grad_norm", 0.0)) for line in trainer.state.log_history)


def test_without_fp16_there_is_no_scaler(kind, profile, start, tmp_path):
    assert trainer_of(kind, replace(profile, precision="bf16"), start, tmp_path).accelerator.scaler is None


def test_steps_that_overflow_are_left_out_of_the_log_and_said(
    kind, profile, start, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(trainers, "FP16_SCALE", 2.0**60)  # overflows at each of a few tries
    with fakegpu.course("fp16"):
        log = train(kind, profile, start, tmp_path)
    assert runtime.read_json(tmp_path / "log.json") == log  # without NaN, which JSON does not have
    skipped = sum("grad_norm" not in line for line in log)
    assert skipped == len(log) > 1
    said = capsys.readouterr().out
    assert f"grad_norm was not finite in {skipped} of {len(log)} log entries" in said
    assert "fp16 overflowed there, and the step was skipped" in said
    assert all(tensor.isfinite().all() for tensor in weights(kind, tmp_path).values())


@pytest.mark.parametrize("kind", ["sft", "reward"], indirect=False)
def test_a_rerun_after_an_overflow_restores_no_nan(kind, profile, start, tmp_path, monkeypatch):
    first = 2.0**60
    monkeypatch.setattr(trainers, "FP16_SCALE", first)

    def cut(log):
        if len(log) == 2:
            raise KeyboardInterrupt

    with fakegpu.course("fp16"):
        with pytest.raises(KeyboardInterrupt):
            train(kind, profile, start, tmp_path, cut)
        monkeypatch.setattr(trainers, "FP16_SCALE", 1.0)
        scales, plain = [], torch.amp.GradScaler.update
        monkeypatch.setattr(
            torch.amp.GradScaler, "update", lambda self: scales.append(self.get_scale()) or plain(self)
        )
        log = train(kind, profile, start, tmp_path)
    assert len(log) == 3
    assert "grad_norm" not in log[0]
    assert runtime.read_json(tmp_path / "log.json") == log
    assert scales[0] == first / 2, "the checkpoint after a skipped step had its own scale"


@pytest.mark.parametrize(("first", "then"), [("fp16", "bf16"), ("bf16", "fp16")])
@pytest.mark.parametrize("kind", ["sft", "reward"], indirect=False)
def test_a_training_goes_on_in_the_number_format_of_another_card(
    kind, first, then, profile, start, tmp_path, capsys
):
    def cut(log):
        if len(log) == 2:
            raise KeyboardInterrupt

    with fakegpu.course(first), pytest.raises(KeyboardInterrupt):
        train(kind, profile, start, tmp_path, cut)
    shown = []
    with fakegpu.course(then):
        log = train(kind, profile, start, tmp_path, lambda log: shown.append(len(log)))
    assert shown == [2, 3], "with what there was, from where it was cut off"
    assert [line["step"] for line in log] == [1, 2, 3]
    assert "starting over" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["dpo", "rloo"], indirect=False)
@pytest.mark.parametrize("at", [2, 3])
def test_a_training_by_trl_that_was_cut_off_goes_on_to_the_same_numbers(kind, at, profile, start, tmp_path):
    """RLOO from where it drew answers last: it takes two steps of each batch of them."""
    profile = replace(profile, precision="fp32", ppo_minibatches=2)

    def run(folder, on_log):
        trainer = rloo(profile, start, folder, lengths)
        if kind == "dpo":
            trainer = dpo(profile, start, folder, max_steps=4, per_device_train_batch_size=2)
        return peers.train(trainer, profile, folder, on_log)

    def cut(log):
        if len(log) == at + 1:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", cut)
    shown = []
    log = run(tmp_path / "cut", lambda log: shown.append(len(log)))
    assert shown == list(range(3 if kind == "rloo" else at + 1, 5))
    assert [line["loss"] for line in log] == [line["loss"] for line in whole]
    one, two = (weights(kind, tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)


# --- what is no number --------------------------------------------------------------------------


def test_without_a_scaler_a_gradient_that_is_not_finite_stops_the_training(
    profile, start, tmp_path, monkeypatch
):
    plain, steps = torch.optim.AdamW.step, []

    def step(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 2:  # what the third step computes with
            self.param_groups[0]["params"][0].data.fill_(math.nan)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with (
        fakegpu.course("bf16"),
        pytest.raises(FloatingPointError, match="Step 3: grad_norm is not a finite number"),
    ):
        train("sft", profile, start, tmp_path)
    assert not (tmp_path / "adapter").exists()
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoint").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-2"]


def test_other_numbers_that_are_not_finite_are_left_out_and_said(capsys):
    history = [{"step": 1, "loss": 1.0, "entropy": math.inf, "num_tokens": 5}, {"step": 2, "loss": 2.0}]
    state = SimpleNamespace(log_history=history, global_step=2, max_steps=2)
    args, progress = SimpleNamespace(fp16=False), LogTo()
    progress.close()
    progress.on_train_begin(args, state, None)
    progress.on_log(args, state, None)
    assert progress.log == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]
    progress.on_train_end(args, state, None)
    said = "entropy was not finite in 1 of 2 log entries, which leave it out.\n"
    assert capsys.readouterr().out == said


def test_weights_are_written_whatever_becomes_of_the_log(kind, profile, start, tmp_path, monkeypatch):
    def fail(path, value):
        assert not (path.parent / KINDS[kind]).exists(), "the log comes first"
        raise OSError("No space left on device")

    monkeypatch.setattr(trainers, "write_json", fail)
    with pytest.raises(OSError, match="No space left"):
        train(kind, replace(profile, precision="fp32"), start, tmp_path)
    assert weights(kind, tmp_path)


# --- several GPUs -------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs are in sight, as far as torch.cuda and transformers' Trainer ask."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with fakegpu.course("bf16"):
        yield


def test_a_trainer_takes_one_gpu_of_several(two_gpus, kind, profile, start, tmp_path):
    trainer = trainer_of(kind, profile, start, tmp_path)
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == trainer.args.per_device_train_batch_size
    if kind == "sft":
        assert trainer.train().global_step == sft.total_steps(profile, len(TALKS))
        assert trainer.model_wrapped is trainer.model


def test_without_it_transformers_would_take_both(two_gpus, profile, start, tmp_path, monkeypatch):
    # When this fails, the libraries have changed and one_gpu can go.
    monkeypatch.setattr(trainers, "one_gpu", lambda args: args)
    with pytest.raises(ValueError, match="DataParallel"):
        trainer_of("sft", profile, start, tmp_path)


@pytest.mark.parametrize(
    ("before", "after"), [(None, "0"), ("", "0"), ("2,3", "2"), ("GPU-a,GPU-b", "GPU-a")], ids=str
)
def test_a_notebook_sees_the_first_gpu_alone(monkeypatch, capsys, before, after):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine.see_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("2 GPUs: this process uses the first.")


@pytest.mark.parametrize(("gpus", "rank"), [(2, "1"), (1, None), (0, None)])
def test_who_has_one_or_is_given_one_keeps_it(monkeypatch, capsys, gpus, rank):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    machine.see_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert not capsys.readouterr().out


def test_gpus_are_hidden_before_anything_looks_for_one(monkeypatch):
    order = []
    monkeypatch.setattr(machine, "see_one_gpu", lambda: order.append("see one"))
    monkeypatch.setattr(machine, "quiet_libraries", lambda: order.append("libraries"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: order.append("is there one?") or False)
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    runtime.setup()
    assert order[:2] == ["see one", "libraries"]


@pytest.mark.parametrize(
    ("asked", "seen"), [({}, ""), ({"SAWYER_TESTS_ON_GPU": "1"}, "3"), ({"SAWYER_WHOLE_RUN": "x"}, "3")]
)
def test_unit_tests_see_no_gpu_unless_asked_for(asked, seen):
    known = {k: v for k, v in os.environ.items() if k not in ("SAWYER_TESTS_ON_GPU", "SAWYER_WHOLE_RUN")}
    code = "import os, conftest; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**known, "CUDA_VISIBLE_DEVICES": "3", **asked},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == seen, done.stderr


# --- PPO, whose scaler is its own ---------------------------------------------------------------


def ppo_of(profile, start, folder=None, **options) -> PPOTrainer:
    sizes = {
        "steps": 2,
        "batch_size": 4,
        "micro_batch": 2,
        "epochs": 1,
        "minibatches": 1,
        "checkpoint_every": 1,
    }
    tokenizer, model = models.load_actor(profile, start)
    config = PPOConfig.from_profile(profile, **sizes, **options)
    return PPOTrainer(model, tokenizer, lengths, config, folder)


PROMPTS = ["a b c", "d", "e f g", "h"]


def test_ppo_begins_at_the_same_scale_and_skips_nothing(profile, start):
    with fakegpu.course("fp16"):
        trainer = ppo_of(profile, start)
        assert trainer.scaler.get_scale() == trainers.FP16_SCALE
        assert [line["optimizer_steps"] for line in trainer.train(PROMPTS)] == [1, 1]


def test_a_ppo_checkpoint_keeps_the_scaler(profile, start, tmp_path):
    with fakegpu.course("fp16"):
        trainer = ppo_of(profile, start, tmp_path)
        trainer.scaler = torch.amp.GradScaler("fakegpu", init_scale=2.0**60, growth_interval=7)
        trainer.step(PROMPTS)  # overflows: half of it from here on
        trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "_growth_tracker": 3})
        trainer.save_checkpoint()
        again = ppo_of(profile, start, tmp_path)
        assert again.scaler.state_dict() != trainer.scaler.state_dict()
        assert again.load_checkpoint()
        assert again.scaler.state_dict() == trainer.scaler.state_dict()
        assert again.scaler.get_scale() == 2.0**59
        again.step(PROMPTS)  # and goes on from there
        assert again.scaler.get_scale() == 2.0**58


def test_gradients_are_clipped_in_true_units(profile, start):
    """At any scale of the loss the same norm is found, and the same step is made."""
    found = []
    for scale in (2.0**4, 2.0**10):
        with fakegpu.course("fp16"):
            trainer = ppo_of(profile, start, max_grad_norm=1e-3)
            trainer.scaler = torch.amp.GradScaler("fakegpu", init_scale=scale)
            seen, step = [], trainer.optimizer.step
            trainer.optimizer.step = lambda *x, t=trainer, s=seen, step=step, **y: (
                s.append(torch.stack([p.grad.norm() for p in t.trained]).norm().item()) or step(*x, **y)
            )
            line = trainer.step(PROMPTS)
            found.append((line["grad_norm"], seen[0]))
    (norm, clipped), (again, too) = found
    assert norm == pytest.approx(again, rel=1e-2)
    assert norm > 1e-2, "the limit should bite"
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    assert too == pytest.approx(1e-3, rel=1e-3)


NAMED = {
    "sft": {"sft_micro_batch", "conversation_tokens"},
    "reward": {"reward_batch", "reward_pair_tokens"},
    "dpo": {"ppo_micro_batch"},
    "rloo": {"ppo_micro_batch", "ppo_batch"},
}


def test_without_memory_the_advice_names_settings_of_this_training(
    kind, profile, start, tmp_path, monkeypatch
):
    seen = []

    @contextmanager
    def explained(model, halves):
        seen.append(halves)
        yield

    monkeypatch.setattr(trainers.memory, "explained", explained)
    train(kind, profile, start, tmp_path)
    if kind == "sft":  # as a method beside DPO
        peers.train(trainer_of(kind, profile, start, tmp_path / "beside"), profile, tmp_path / "beside")
        assert set(seen.pop()) == {"sft_micro_batch"}
    assert set(seen[0]) == NAMED[kind]
    assert all(size == getattr(profile, name) for name, (size, _) in seen[0].items())
