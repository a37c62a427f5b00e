"""A training may be stopped, killed or cut off; run again, it ends where it would have ended."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import build_encoder, build_model, pair_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_sft import CONVERSATIONS
from transformers import TrainingArguments

from sawyer_utils import models, runtime
from sawyer_utils.data import Pair
from sawyer_utils.models import load_tokenizer
from sawyer_utils.plumbing import resuming
from sawyer_utils.plumbing.resuming import StopButton, TrainingInterrupted
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import RewardModel, train_reward
from sawyer_utils.sft import sft_trainer, train_sft

torch.set_num_threads(1)

STEPS = 6
PROFILE = replace(
    PROFILES["smoke"],
    precision="fp32",
    checkpoint_minutes=0.0,
    sft_batch=2,
    sft_micro_batch=1,
    sft_max_steps=STEPS,
    reward_batch=2,
    reward_max_steps=STEPS,
    reward_pair_tokens=24,
    reward_rank=4,
)
PAIRS = [
    Pair(str(i), "letters", f"a {x}", f"{x} b c", f"d {x}", margin=1 + i % 3, kinds=("good", "bad"))
    for i, x in enumerate("efghij")
]


def train_sft_here(folder, on_log=None, profile=PROFILE, seed=0, **options):
    """A tiny policy's training; returns its log."""
    tokenizer = load_tokenizer(profile)
    base = build_model(tokenizer)
    torch.manual_seed(seed)
    model = models.add_lora(base, rank=4)
    return train_sft(model, tokenizer, profile, CONVERSATIONS, folder, on_log or ignore, **options)


def train_reward_here(folder, on_log=None, profile=PROFILE, seed=0, **options):
    base = Path(folder).parent / "encoder"
    if not base.exists():
        build_encoder(pair_tokenizer()).save_pretrained(base)
        pair_tokenizer().save_pretrained(base)
    profile = replace(profile, reward_base=str(base))
    return train_reward(
        RewardModel.untrained(profile, seed=seed), profile, PAIRS, folder, on_log or ignore, **options
    )


STAGES = {"sft": (train_sft_here, "adapter"), "reward": (train_reward_here, "model")}


def stage_of(name: str):
    """``(train(folder, on_log, …), weights(folder))`` of one stage."""
    train, kind = STAGES[name]
    return train, lambda folder: load_file(Path(folder) / kind / "adapter_model.safetensors")


@pytest.fixture(params=STAGES)
def stage(request):
    return stage_of(request.param)


def ignore(log) -> None:
    """For ``on_log``."""


def numbers(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


def check_same(stage, folder, log, whole_folder, whole_log) -> None:
    weights = stage[1]
    assert numbers(log) == numbers(whole_log)
    assert numbers(runtime.read_json(folder / "log.json")) == numbers(whole_log)
    one, two = weights(folder), weights(whole_folder)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not (folder / "checkpoint").exists()


def press(at_step: int, times: int = 1):
    """Presses the Stop button when the log has this many lines."""

    def on_log(log):
        if len(log) == at_step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return on_log


def test_a_training_from_another_adapter_is_another_training(tmp_path):
    tokenizer, starts = load_tokenizer(PROFILE), []
    for value in (0.0, 0.1, 0.2, 0.1):
        torch.manual_seed(len(starts))  # of a fresh adapter the random half is no matter
        model = models.add_lora(build_model(tokenizer), rank=4)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name and (value or "lora_B" in name):
                    parameter.fill_(value)
        trainer = sft_trainer(model, tokenizer, PROFILE, CONVERSATIONS, tmp_path)
        starts.append(resuming.identity(trainer, "tiny")["start"])
    assert starts[0] == "fresh"
    assert len({*starts[:3]}) == 3
    assert starts[3] == starts[1]


# --- the Stop button ----------------------------------------------------------------------------


def test_the_stop_button_keeps_the_step_and_the_next_run_goes_on(stage, tmp_path, capsys):
    train, _ = stage
    whole = train(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=f"after step 3 of {STEPS}.*run this cell again") as stopped:
        # Nothing but the button saves here.
        train(tmp_path / "cut", press(2), replace(PROFILE, checkpoint_minutes=60.0))
    assert stopped.value._render_traceback_() == [str(stopped.value)]
    assert "end of this step" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "cut" / "log.json").exists()
    shown = []
    torch.manual_seed(99)  # a new process has another random state
    log = train(tmp_path / "cut", lambda log: shown.append(len(log)), seed=5)
    assert shown == [4, 5, 6], "with the whole history, from where it stopped"
    check_same(stage, tmp_path / "cut", log, tmp_path / "whole", whole)


def test_a_second_press_stops_at_once_and_in_the_last_step_there_is_nothing_to_stop(stage, tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        stage[0](tmp_path / "cut", press(2, times=2))
    assert not isinstance(stopped.value, TrainingInterrupted)
    assert len(stage[0](tmp_path / "run", press(STEPS))) == STEPS
    assert (tmp_path / "run" / "log.json").exists()


def test_in_another_thread_no_signal_is_touched():
    found = []

    def work():
        with StopButton() as button:
            found.append((button.enabled, signal.getsignal(signal.SIGINT)))

    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, handler)]


# --- killed -------------------------------------------------------------------------------------


# Each stage dies at two moments: what saves and resumes is one code for both.
MOMENTS = {
    "sft": ("in a step", "writing the weights"),
    "reward": ("writing the optimizer", "at the end of a checkpoint"),
}


def train_and_die(name: str, moment: str, folder: Path) -> None:
    """Dies in its third step or checkpoint: SIGKILL, so that nothing can tidy up."""
    owner, method = {
        "in a step": (torch.optim.AdamW, "step"),
        "writing the weights": (PeftModel, "save_pretrained"),
        "writing the optimizer": (resuming.Trainer, "_save_optimizer_and_scheduler"),
        "at the end of a checkpoint": (resuming._Keep, "on_save"),
    }[moment]
    original, calls = getattr(owner, method), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            if moment == "writing the weights":  # the folder is there, and half a file
                Path(args[1]).mkdir(exist_ok=True)
                (Path(args[1]) / "adapter_model.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, method, call)
    STAGES[name][0](folder)


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(name, tmp_path, forked):
    stage = stage_of(name)
    whole = stage[0](tmp_path / "whole")
    folders = {moment: tmp_path / moment.replace(" ", "_") for moment in MOMENTS[name]}
    running = {moment: forked(train_and_die, name, moment, folder) for moment, folder in folders.items()}
    for moment, folder in folders.items():
        running[moment].join(timeout=300)
        assert running[moment].exitcode == -signal.SIGKILL, moment
        shown = []
        log = stage[0](folder, lambda log, shown=shown: shown.append(len(log)), seed=5)
        went_on_from = 3 if moment == "at the end of a checkpoint" else 2
        assert shown == list(range(went_on_from + 1, STEPS + 1)), moment
        check_same(stage, folder, log, tmp_path / "whole", whole)


# --- what a checkpoint is of --------------------------------------------------------------------


WEIGHTS, CUT_OFF = "adapter_model.safetensors", "half of the adapter"
LOST = ("optimizer.pt", "scheduler.pt", "trainer_state.json", WEIGHTS, CUT_OFF)
CHANGES = {
    "learning rate": ("(learning_rate)", {"sft_lr": 1e-3}),
    "base": ("(base)", {"policy_base": "another"}),
    "batch": ("(batch)", {"sft_batch": 4}),
    "data": ("(data)", {}),
    "rank": ("(adapter)", {}),
    "alpha": ("(adapter)", {}),
    "resume=False": ("Moved", {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_run_is_not_used(tmp_path, capsys, change):
    with pytest.raises(TrainingInterrupted):
        train_sft_here(tmp_path / "cut", press(3))
    shown, options = [], {"resume": False} if change == "resume=False" else {}
    said, other = CHANGES[change]
    profile, tokenizer = replace(PROFILE, **other), load_tokenizer(PROFILE)
    rank, alpha = 2 if change == "rank" else 4, 8 if change == "alpha" else 32
    model = models.add_lora(build_model(tokenizer), rank, alpha)
    rows = CONVERSATIONS[:3] if change == "data" else CONVERSATIONS
    told = lambda log: shown.append(len(log))  # noqa: E731
    train_sft(model, tokenizer, profile, rows, tmp_path / "cut", told, **options)
    assert shown == [1, 2, 3, 4, 5, 6]
    assert said in (out := capsys.readouterr().out)
    assert "starting over" in out
    aside = tmp_path / "cut" / "earlier-1"
    assert sorted(path.name for path in aside.iterdir()) == ["checkpoint", "run.json"]


def lora(**settings):
    made = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(target_modules=["0"], **settings)
    )
    trainer = SimpleNamespace(args=TrainingArguments(), model=made, train_dataset=[])
    return resuming.identity(trainer, "base")["adapter"]


def test_each_setting_of_an_adapter_tells_runs_apart_and_where_it_came_from_does_not():
    settings = ({}, {"r": 4}, {"lora_alpha": 4}, {"lora_dropout": 0.1}, {"use_rslora": True}, {"bias": "all"})
    assert len({lora(**one) for one in settings}) == len(settings)
    assert lora(base_model_name_or_path="there", revision="main") == lora()


@pytest.mark.parametrize("lost", LOST)
def test_a_checkpoint_that_has_lost_a_file_is_not_used(tmp_path, lost):
    """As on a drive whose uploads did not all arrive."""
    with pytest.raises(TrainingInterrupted):
        train_sft_here(tmp_path, press(3))
    [checkpoint] = (tmp_path / "checkpoint").glob("checkpoint-*")
    if lost == CUT_OFF:
        os.truncate(checkpoint / WEIGHTS, 200)
    else:
        (checkpoint / lost).unlink()
    shown = []
    train_sft_here(tmp_path, lambda log: shown.append(len(log)))
    assert shown == [1, 2, 3, 4, 5, 6]


def test_smaller_pieces_go_on(tmp_path, capsys):
    """The advice after running out of memory is a smaller micro-batch: what is learnt stays."""
    larger = replace(PROFILE, sft_micro_batch=2)
    whole = train_sft_here(tmp_path / "whole", profile=larger)
    with pytest.raises(TrainingInterrupted):
        train_sft_here(tmp_path / "cut", press(3), larger)
    shown = []
    smaller = replace(PROFILE, sft_micro_batch=1, checkpoint_minutes=60.0)
    log = train_sft_here(tmp_path / "cut", lambda log: shown.append(len(log)), smaller)
    assert "starting over" not in capsys.readouterr().out
    assert shown == [5, 6]
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in whole], abs=1e-4)
    one, two = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


def test_a_finished_training_is_loaded_and_one_of_no_known_run_moved_aside(
    stage, tmp_path, capsys, monkeypatch
):
    train, weights = stage
    log = train(tmp_path / "run")
    before = weights(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "train", lambda *_: pytest.fail("trained again"))
        assert train(tmp_path / "run") == log
    assert "Already trained" in capsys.readouterr().out
    assert all(torch.equal(value, weights(tmp_path / "run")[key]) for key, value in before.items())
    (tmp_path / "run" / "run.json").write_text("{")  # damaged, or from before runs had identities
    assert numbers(train(tmp_path / "run")) == numbers(log)
    assert "starting over" in capsys.readouterr().out
    assert (tmp_path / "run" / "earlier-1" / "log.json").exists()


def test_a_checkpoint_holds_the_adapter_and_not_the_table(tmp_path):
    with pytest.raises(TrainingInterrupted):
        train_sft_here(tmp_path / "cut", press(2))
    [checkpoint] = (tmp_path / "cut" / "checkpoint").glob("checkpoint-*")
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert any("lora_A" in name for name in saved)
    assert all("lora_" in name for name in saved)
    assert max(tensor.shape[0] for tensor in saved.values()) < 1000  # the table has 49,154 rows
    table = build_model(load_tokenizer(PROFILE)).get_input_embeddings().weight
    assert (checkpoint / "adapter_model.safetensors").stat().st_size < table.nbytes / 10


def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resuming.time, "monotonic", lambda: now[0])
    saved = []
    original = resuming._Keep.on_save

    def on_save(self, args, state, control, **kwargs):
        saved.append(state.global_step)
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(resuming._Keep, "on_save", on_save)

    def minute_a_step(log):
        now[0] += 60.0

    train_sft_here(tmp_path, minute_a_step, replace(PROFILE, checkpoint_minutes=2.0))
    # Step n ends when n - 1 minutes have passed; after step 3 it is kept at minute 3.
    assert saved == [3, 6]
