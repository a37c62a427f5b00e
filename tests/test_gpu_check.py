"""benchmarks/gpu_check.py, rehearsed on a pretended GPU with tiny shapes: every part runs, and one that
fails or lacks a package is recorded while the others go on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fakegpu
import pytest
import torch
from transformers import BertConfig, LlamaConfig, RobertaConfig

from sawyer_utils import models, runtime
from sawyer_utils.plumbing import machine, memory
from sawyer_utils.profiles import PROFILES

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu_check as bench

fakegpu.install()
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 1}
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
TINY = {
    "sft_batch": 4,
    "sft_micro_batch": 2,
    "sft_max_steps": 1,
    "reward_batch": 4,
    "reward_max_steps": 1,
    "ppo_steps": 1,
    "ppo_epochs": 1,
    "ppo_batch": 4,
    "ppo_micro_batch": 2,
    "eval_batch": 4,
    "response_tokens": 4,
}
BIG = {**TINY, "prompt_tokens": 12, "conversation_tokens": 32, "reward_pair_tokens": 24, "lora_rank": 4}


@pytest.fixture
def sizes():
    """Shapes of some thousand weights in the place of 135 million and 7 billion."""
    return bench.Sizes(
        local=replace(bench.LOCAL, **TINY),
        big=replace(PROFILES["llama2"], **BIG),
        prompts=5,
        questions=2,
        policy=LlamaConfig(vocab_size=200, tie_word_embeddings=True, **SHAPE, **HEADS),
        judge=BertConfig(vocab_size=150, max_position_embeddings=256, num_labels=1, **ENCODER),
        # The pretended card takes 4-bit layers of 16,384 weights or more.
        llama=LlamaConfig(vocab_size=203, head_dim=64, **{**SHAPE, "hidden_size": 128}, **HEADS),
        roberta=RobertaConfig(
            vocab_size=210, max_position_embeddings=64, num_labels=1, type_vocab_size=1, **ENCODER
        ),
    )


class Counters:
    """What a card says of itself; the pretended one has no memory of its own."""

    def __init__(self):
        self.fractions = []

    def install(self, monkeypatch):
        shape = SimpleNamespace(name="pretended", total_memory=int(60e9))
        monkeypatch.setattr(torch.fakegpu, "get_device_properties", lambda number: shape, raising=False)
        monkeypatch.setattr(
            torch.fakegpu, "set_per_process_memory_fraction", self.fractions.append, raising=False
        )


@pytest.fixture
def gpu(monkeypatch, tmp_path, sizes):
    """The course finds the pretended GPU, no weights, and adapters that fit the stand-ins."""

    counters = Counters()
    counters.install(monkeypatch)
    monkeypatch.setattr(machine, "number_format", lambda: ("fakegpu", torch.float16, "pretended"))
    monkeypatch.setattr(bench, "at_hand", lambda name: False)
    shipped, home = tmp_path / "shipped", tmp_path / "stand-ins"
    monkeypatch.setattr(bench, "SHIPPED", Path(PROJECT) / "checkpoints" / "local")
    profile, *_ = bench.local_weights(sizes, home)
    # On a device that it does not know, bitsandbytes compiles its kernels anew at each call.
    plain = torch._dynamo.config.patch(disable=True)
    with plain, fakegpu.trainers(), fakegpu.bitsandbytes():
        _, base = models.load_policy(replace(profile, precision="fp32"))
        adapted = models.add_lora(base, profile.lora_rank, profile.lora_alpha)
        models.save_adapter(adapted, shipped / "sft" / "adapter")
        monkeypatch.setattr(bench, "SHIPPED", shipped)
        yield counters


PROJECT = runtime.project_root()
LOCAL_PARTS = ("load", "sampling", "PPO", "PPO's update", "evaluation", "multiple choice")
TRAININGS = ("supervised steps", "reward model's steps")
SEVEN_B = [f"7B in NF4: {part}" for part in ("build", "one supervised step", "sampling", "one PPO step")]
PARTS = [f"local fp16: {part}" for part in (*LOCAL_PARTS, *TRAININGS)] + SEVEN_B


def hold(monkeypatch, gib: float) -> None:
    """Let the card's counter stand at so much."""
    monkeypatch.setattr(torch.fakegpu, "max_memory_allocated", lambda: gib * 2**30, raising=False)


def outcome(found: dict) -> dict[str, str]:
    return {row["part"]: row.get("not_run") or row.get("error") or "ok" for row in found["parts"]}


def test_all_parts_run_and_are_written(gpu, sizes, tmp_path, capsys):
    path = tmp_path / "results" / "gpu.json"
    found = bench.check(bench.Card(), replace(sizes, numbers=("fp16",)), path)  # bf16: in the next test
    assert outcome(found) == dict.fromkeys(PARTS, "ok")
    assert runtime.read_json(path)["parts"] == found["parts"]
    assert found["card"]["name"] == "pretended"
    assert found["card"]["versions"]["torch"] == torch.__version__
    assert found["weights"] == "random"
    rows = {row["part"]: row for row in found["parts"]}
    fast = [name for name, row in rows.items() if "tokens" in row]
    assert all(rows[name]["tokens_per_second"] > 0 for name in fast)
    assert {name.split(": ")[1] for name in fast} >= {"sampling", "PPO's update", "supervised steps"}
    unmeasured = {"load", "build"}
    assert all(("paper_gib" in row) == (name.split(": ")[1] not in unmeasured) for name, row in rows.items())
    assert gpu.fractions == [0.25, 1.0]  # 15 of 60 GB, and all again
    printed = capsys.readouterr().out
    assert all(part in printed for part in PARTS)


def test_bf16_which_small_cards_emulate_comes_last(gpu, sizes, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(bench, "local", lambda record, sizes, number, *_: order.append(number))
    monkeypatch.setattr(bench, "seven_b", lambda *_: order.append("7B"))
    bench.check(bench.Card(), sizes, tmp_path / "gpu.json")
    assert order == ["fp16", "7B", "bf16"]


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(gpu, sizes, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.")

    def nothing(*_, **__):
        raise ValueError("no number")

    monkeypatch.setattr(bench, "_choose", full)
    monkeypatch.setattr(bench, "_one_sft_step", nothing)
    monkeypatch.setattr(bench, "train_reward", lambda *_, **__: [{"loss": float("nan")}])
    found = bench.check(bench.Card(), replace(sizes, numbers=("bf16",)), tmp_path / "gpu.json")
    said = outcome(found)
    failed = {
        "local bf16: multiple choice": "OutOfMemoryError: CUDA",
        "7B in NF4: one supervised step": "no number",
    }
    assert {name for name, words in said.items() if words != "ok"} == failed.keys()
    assert all(words in said[name] for name, words in failed.items())
    assert "test_gpu_check.py" in said["7B in NF4: one supervised step"], "where it failed"
    assert [row["losses"] for row in found["parts"] if "reward model" in row["part"]] != []
    written = runtime.read_json(tmp_path / "gpu.json")  # NaN is a finding, and no JSON
    assert [row["losses"] for row in written["parts"] if "reward model" in row["part"]] == [["nan"]]


def test_what_cannot_be_loaded_leaves_out_what_hangs_on_it_alone(gpu, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SHIPPED", tmp_path / "nowhere")
    monkeypatch.setattr(
        bench, "local_weights", lambda sizes, folder: (sizes.local, tmp_path / "nowhere", "random")
    )
    monkeypatch.setattr(bench, "_shapes", lambda profile: [sizes.llama, sizes.judge])
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name in bench.TRL else name)
    said = outcome(bench.check(bench.Card(), replace(sizes, numbers=("fp16",)), tmp_path / "gpu.json"))
    assert said.pop("local fp16: load") != "ok"
    for part in ("local fp16: supervised steps", "local fp16: reward model's steps", SEVEN_B[1]):
        assert said.pop(part) == "no module trl"
    assert said == dict.fromkeys((SEVEN_B[0], *SEVEN_B[2:]), "ok")


def test_the_peak_of_a_part_is_its_own_and_of_all_its_steps(gpu, tmp_path, monkeypatch):
    record = bench.Record(bench.Card(), tmp_path / "gpu.json", minutes=1.0)
    resets = []
    monkeypatch.setattr(torch.fakegpu, "reset_peak_memory_stats", lambda: resets.append(1), raising=False)

    def two_steps():
        hold(monkeypatch, 5.0)
        memory.reset_card_peak()  # as PPO does before each step
        hold(monkeypatch, 2.0)
        return {}, None

    record.part("two steps", two_steps)
    record.part("little", lambda: ({}, None))
    assert [row["peak_gib"] for row in record.found["parts"]] == [5.0, 2.0]
    assert len(resets) == 3


def test_when_the_time_is_over_the_rest_is_not_begun(gpu, sizes, tmp_path):
    record = bench.Record(bench.Card(), tmp_path / "gpu.json", minutes=0.0)
    assert record.part("late", lambda: pytest.fail("begun")) is None
    assert outcome(record.found) == {"late": "the 0 minutes were over"}


def test_without_a_gpu_nothing_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check.py"])
    monkeypatch.setattr(memory, "card", lambda: None)
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    bench.main()
    assert "nothing written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
