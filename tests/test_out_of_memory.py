"""When the GPU's memory runs out, the message has the three settings that help most, with their numbers.

No GPU is needed: torch's error and its counters are played, the arithmetic is ours.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import build_actor
from test_resuming import train_reward_here, train_sft_here
from torch import nn

from sawyer_utils.plumbing import memory
from sawyer_utils.plumbing.progress import Stage
from sawyer_utils.ppo import PPOConfig, PPOTrainer

GIB = 2**30
TORCHS = "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 14.56 GiB"


class Card:
    """A T4 that has held 14 GiB in an earlier stage; ``use`` is what the next one holds at its peak."""

    def __init__(self, use: float):
        self.peak, self.use, self.emptied = 13.9 * GIB, use, 0

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, number: int):
        return SimpleNamespace(total_memory=14.56 * GIB)

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.use * GIB

    def max_memory_allocated(self) -> float:
        return self.peak

    def empty_cache(self) -> None:
        self.emptied += 1


@pytest.fixture
def card(monkeypatch):
    """A T4 with 14 GiB in use."""
    found = Card(14.0)
    monkeypatch.setattr(memory, "card", lambda: found)
    monkeypatch.setattr(memory, "_before_reset", 0.0)
    return found


def model_of(frozen_gib: float, trained_gib: float) -> nn.Module:
    """A model that takes no memory and says that it does: 16-bit frozen weights, fp32 trained ones."""
    model = nn.Module()
    for name, dtype, size in (("frozen", torch.float16, frozen_gib), ("trained", torch.float32, trained_gib)):
        weight = nn.Parameter(torch.empty(int(size * GIB) // dtype.itemsize, dtype=dtype, device="meta"))
        setattr(model, name, weight.requires_grad_(name == "trained"))
    return model


def advice(model, **halves) -> str:
    with pytest.raises(memory.OutOfMemory) as stopped, memory.explained(model, halves):
        raise torch.OutOfMemoryError(TORCHS)
    assert stopped.value.__suppress_context__
    assert stopped.value._render_traceback_() == [str(stopped.value)]
    return str(stopped.value)


def test_the_numbers_are_those_of_the_card(card):
    # 14 GiB in use: 6 frozen, 4 × 0.5 trained with gradient and moments, so 6 that come and go.
    said = advice(
        model_of(6, 0.5), micro_batch=(8, 1.0), response_tokens=(128, 0.25), prompt_tokens=(256, 0.75)
    )
    assert "14.0 of 14.6 GiB were in use, 8.0 of it by weights and optimizer, and 1.50 GiB more" in said
    assert re.findall(r"^\d\. .*", said, re.MULTILINE) == [
        "1. precision nf4: about 4.20 GiB less",
        "2. micro_batch 8 → 4: about 3.00 GiB less",
        "3. prompt_tokens 256 → 128: about 2.25 GiB less",
    ]
    assert "lora_rank, half of it: about 1.00 GiB less" in advice(model_of(6, 0.5))  # of 4 × 0.5
    assert card.emptied, "the cache is given back, so that a smaller try in the same session can start"


def test_what_is_in_4_bits_or_1_already_is_not_suggested(card):
    model = model_of(4, 0.5)
    model.is_loaded_in_4bit = True
    said = advice(model, micro_batch=(1, 1.0), response_tokens=(128, 0.5))
    assert "nf4" not in said
    assert "micro_batch" not in said
    assert re.findall(r"^\d\. (\w+)", said, re.MULTILINE) == ["response_tokens", "lora_rank"]


def test_other_errors_pass_as_they_are(card):
    with pytest.raises(ZeroDivisionError), memory.explained(nn.Linear(1, 1), {}):
        1 / 0
    assert not card.emptied


def test_an_earlier_stages_peak_is_not_taken_for_this_ones(card):
    card.use = 9.0  # it failed because it asked for much at once
    said = advice(model_of(6, 0.5), micro_batch=(8, 1.0))
    assert "9.0 of 14.6 GiB were in use" in said
    assert "micro_batch 8 → 4: about 0.50 GiB less" in said  # 1 GiB came and went, not 5.9
    assert memory.peak_memory_gib() == pytest.approx(13.9)  # which is not forgotten


def test_where_no_card_counts_the_error_passes_as_it_is():
    with pytest.raises(torch.OutOfMemoryError), memory.explained(nn.Linear(1, 1), {}):
        raise torch.OutOfMemoryError(TORCHS)


def test_of_ppo_the_sizes_in_use_and_their_shares_are_named():
    config = PPOConfig(batch_size=16, generation_batch=4, prompt_tokens=192, response_tokens=64)
    assert [*config.halves().values()] == [(config.micro_batch, 1.0), (4, 1.0), (64, 0.25)]


# --- each training ------------------------------------------------------------------------------


def full(*_, **__):
    raise torch.OutOfMemoryError(TORCHS)


def test_every_training_explains_it_and_keeps_its_checkpoint(card, letters, tmp_path, monkeypatch):
    wanted = {"sft": "conversation_tokens", "reward": "reward_batch 2 → 1"}  # SFT's micro-batch is 1
    for name, train in (("sft", train_sft_here), ("reward", train_reward_here)):
        steps, step = [], torch.optim.AdamW.step

        def third(*args, steps=steps, step=step, **kwargs):
            steps.append(1)
            return full() if len(steps) == 3 else step(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", third)
            with pytest.raises(memory.OutOfMemory, match=wanted[name]) as stopped:
                train(tmp_path / name)
            assert "sft_micro_batch" not in str(stopped.value)
        assert Stage.current is None, "what comes next is heard"
        assert (tmp_path / name / "checkpoint" / "checkpoint-2" / "trainer_state.json").exists()

    config = PPOConfig(steps=2, batch_size=4, minibatches=2, response_tokens=4, checkpoint_every=1)
    trainer = PPOTrainer(build_actor(letters), letters, lambda p, r: [0.0] * len(r), config, tmp_path / "ppo")
    monkeypatch.setattr(trainer, "update", full)
    with pytest.raises(memory.OutOfMemory, match="generation_batch"):
        trainer.train(["a b", "c d", "e f", "g h"])
