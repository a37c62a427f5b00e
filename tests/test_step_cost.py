"""What one PPO step computes, counted and not timed: it may not grow unnoticed.

Tokens that go through the trunk and products of the output layer have exact formulas. Operators have none:
their number is recorded here, and a change that makes it larger has to change the record with it.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from test_ppo import SMALL, count_a
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sawyer_utils import rollout
from sawyer_utils.ppo import PPOTrainer

torch.set_num_threads(1)

PROMPTS = ["a b c d", "e f g h", "i j k l", "m n o p", "q r s t", "u v w x", "y z a b", "c d e f"]
B, R = SMALL.batch_size, SMALL.response_tokens
PASSES = 2  # over the whole batch before the update: log π_old and log π_ref
OPERATORS = {"rollout": 4691, "update": 9179}  # torch 2.13; another version may differ a little


class Operators(TorchDispatchMode):
    """Counts the operators that run inside it."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def trainer(letters, letter_actor, monkeypatch):
    """Answers never end: each has as many tokens as it may."""
    monkeypatch.setattr(rollout, "endings", lambda tokenizer: [len(tokenizer) + 1])
    return PPOTrainer(letter_actor(), letters, count_a, SMALL)


@pytest.fixture
def read(trainer):
    """The shapes of the token ids that the trunk reads, in order."""
    seen = []
    decoder = trainer.actor.model.get_base_model().get_decoder()

    def note(module, args, kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def tokens(shapes) -> int:
    return sum(rows * width for rows, width in shapes)


def test_each_token_is_read_as_often_as_it_has_to_be(trainer, read):
    batch = trainer.rollout(PROMPTS)
    prompt = batch.input_ids.shape[1] - R
    assert batch.response_mask.all()
    # Sampling reads the prompts once and each token but the last once.
    sampling, passes = read[:R], read[R:]
    assert sampling == [(B, prompt), *[(B, 1)] * (R - 1)]
    assert tokens(passes) == PASSES * B * (prompt + R)
    read.clear()
    trainer.update(trainer.advantages(trainer.score(batch)))
    assert tokens(read) == SMALL.epochs * B * (prompt + R)


def test_the_output_layer_sees_answers_alone(trainer, letters):
    head = trainer.actor.model.get_base_model().get_output_embeddings()
    words, width = head.weight.shape
    seen = []
    handle = head.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel() // width)
    )
    batch = trainer.advantages(trainer.score(trainer.rollout(PROMPTS)))
    # One position a row while sampling, the prompt's last one included; then the answers' tokens.
    assert sum(seen) == B * R + PASSES * B * R
    seen.clear()
    trainer.update(batch)
    handle.remove()
    # Twice: chunks are computed again in the backward pass, and no logits are kept.
    assert sum(seen) == 2 * SMALL.epochs * B * R
    assert words == len(letters)


def test_products_of_an_update(trainer):
    """Of weight matrices: forward and backward once each, and no gradient of the frozen ones."""
    batch = trainer.advantages(trainer.score(trainer.rollout(PROMPTS)))
    model = trainer.actor.model.get_base_model()
    with FlopCounterMode(display=False) as counter:
        trainer.update(batch)
    read, answers = SMALL.epochs * batch.input_ids.numel(), SMALL.epochs * B * R
    linear = 3 * model.get_output_embeddings().weight.numel() * answers  # twice forward, once backward
    linear += 3 * trainer.actor.value_head.weight.numel() * answers
    for name, module in model.named_modules():
        if not hasattr(module, "base_layer"):
            continue
        # What the first layer reads is the frozen embedding: nothing asks for its gradient.
        first = "layers.0." in name and name.endswith(("q_proj", "k_proj", "v_proj"))
        frozen, down, up = (
            part.weight.numel()
            for part in (module.base_layer, module.lora_A["policy"], module.lora_B["policy"])
        )
        linear += (2 * frozen + 3 * (down + up) - first * (frozen + down)) * read
    found = counter.get_flop_counts()["Global"]
    assert sum(found[each] for each in (torch.ops.aten.mm, torch.ops.aten.addmm)) == 2 * linear


def test_operators(trainer):
    with Operators() as counted:
        batch = trainer.rollout(PROMPTS)
    sampling = counted.calls.total()
    with Operators() as counted:
        trainer.update(trainer.advantages(trainer.score(batch)))
    found = {"rollout": sampling, "update": counted.calls.total()}
    for part, most in OPERATORS.items():
        assert 0.8 * most < found[part] < 1.05 * most, found
