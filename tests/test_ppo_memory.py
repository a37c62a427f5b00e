"""The memory benchmark on a tiny Llama: the real trainer in 4 bits, against the budget's arithmetic.

A GPU counts the bytes that are allocated; here a dispatch mode does, so that the budget of what comes
and goes is checked too.
"""

from __future__ import annotations

import sys
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sawyer_utils import runtime
from sawyer_utils.models import REF
from sawyer_utils.plumbing.memory import GIB

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import memory_budget
import ppo_memory as bench

LLAMA = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 192}
# No two numbers alike: fewer key-value heads than attention heads, and heads that do not add up to the width.
TINY = LlamaConfig(**LLAMA, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=24)
JUDGE = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_labels": 1}
JUDGE |= {"max_position_embeddings": 514}
TINY_JUDGE = RobertaConfig(**JUDGE, num_hidden_layers=1, num_attention_heads=2)
TINY_BERT = BertConfig(**JUDGE, num_hidden_layers=2, num_attention_heads=2)
SIZES = ((1, 16), (4, 16), (1, 32), (4, 32))


@pytest.fixture(scope="module")
def trainer():
    torch.manual_seed(0)
    return bench.build_trainer(TINY, TINY_JUDGE, torch.bfloat16, "cpu")


def held(trainer) -> dict[str, list[torch.Tensor]]:
    """The trainer's tensors, under the names of ``bench.resident``."""
    found = {name: [] for name in bench.resident(TINY, TINY_JUDGE)}
    for name, parameter in trainer.actor.named_parameters():
        if not parameter.is_floating_point():
            state = parameter.quant_state
            found["nf4"].append(parameter)
            found["scales"] += [state.absmax, state.state2.absmax, state.offset]
        elif parameter.requires_grad:
            moments = trainer.optimizer.state[parameter]
            found["policy"] += [parameter, parameter.grad, moments["exp_avg"], moments["exp_avg_sq"]]
        else:
            found["ref" if f".{REF}" in name else "embedding_head_norms"].append(parameter)
    found["reward_model"] = list(trainer.reward_fn.model.parameters())
    return found


class LiveBytes(TorchDispatchMode):
    """The bytes of all storages alive, and their peak: what CUDA's allocator counts."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.peak = set(), 0, 0

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, key, size).atexit = False

    def drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return made


def live_peak(trainer, work):
    """``bench.cuda_peak`` for a CPU."""
    tensors = tree_leaves(held(trainer))
    with LiveBytes() as live:
        for tensor in tensors:
            live.add(tensor)
        del tensors, tensor  # gradients are freed at the start of an update
        return work(), live.peak


def test_the_7b_numbers_are_those_of_the_hand_arithmetic():
    llama, judge = bench.llama_2_7b(), bench.roberta_base()
    linear = sum(out * into for out, into in memory_budget.linear_shapes(llama))
    fixed = bench.resident(llama, judge)
    assert linear == 32 * (4 * 4096**2 + 3 * 4096 * 11008) == 6_476_005_376
    assert linear + fixed["embedding_head_norms"] // 2 == 6_738_415_616
    assert fixed["nf4"] / GIB == pytest.approx(3.016, abs=5e-4)
    assert fixed["scales"] / GIB == pytest.approx(0.096, abs=5e-4)
    assert memory_budget.lora_parameters(llama) == 78_080 * 16 * 32 == 39_976_960
    assert fixed["policy"] / GIB == pytest.approx(0.596, abs=5e-4)
    assert fixed["reward_model"] / 2 == pytest.approx(124.65e6, rel=1e-4)
    assert memory_budget.kv_cache(llama, 1) == 2**19
    assert max(bench.budget(llama, judge, 8, 512).values()) < bench.GOAL * GIB


def test_what_stays_is_counted_to_the_byte(trainer):
    actual = {name: sum(t.nbytes for t in tensors) for name, tensors in held(trainer).items()}
    assert actual == bench.resident(TINY, TINY_JUDGE)


def test_the_cache_is_counted_to_the_byte(trainer):
    cache = DynamicCache()
    with torch.no_grad():
        trainer.actor.model.eval()(input_ids=torch.ones(2, 7, dtype=torch.long), past_key_values=cache)
    actual = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert actual == memory_budget.kv_cache(TINY, 2 * 7)


@pytest.mark.parametrize(("rows", "length"), SIZES)
def test_the_budget_bounds_the_peak(trainer, rows, length):
    measured = bench.generate_and_update(trainer, rows, length, partial(live_peak, trainer))
    budget = bench.budget(TINY, TINY_JUDGE, rows, length)
    fixed = sum(bench.resident(TINY, TINY_JUDGE).values())
    assert measured.keys() == budget.keys()
    for phase, peak in measured.items():
        assert fixed < peak <= budget[phase], phase
        if (rows, length) == SIZES[-1]:  # and is not far from it where there is much to do
            assert peak - fixed > 0.4 * (budget[phase] - fixed), phase


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("heads", [4, 2])
def test_the_shapes_are_those_of_the_real_models(tied, heads):
    llama = LlamaConfig(**LLAMA, num_attention_heads=4, num_key_value_heads=heads, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = LlamaForCausalLM(llama)
        encoders = [RobertaForSequenceClassification(TINY_JUDGE), BertForSequenceClassification(TINY_BERT)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not model.lm_head]
    assert memory_budget.linear_shapes(llama) == [(m.out_features, m.in_features) for m in linear]
    for encoder in encoders:
        assert memory_budget.encoder_parameters(encoder.config) == sum(
            p.numel() for p in encoder.parameters()
        )
    fixed = memory_budget.resident(llama, TINY_JUDGE, "fp32")
    weights = fixed["layers"] + fixed["embedding_head_norms"]
    assert weights == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_budget_of_a_float_policy_bounds_its_peak(precision):
    torch.manual_seed(0)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    trainer = bench.build_trainer(TINY, TINY_JUDGE, dtype, "cpu", four_bit=False)
    options = {"precision": precision, "judge_bytes": dtype.itemsize}
    fixed = sum(memory_budget.resident(TINY, TINY_JUDGE, **options).values())
    actual = {name: sum(t.nbytes for t in tensors) for name, tensors in held(trainer).items()}
    assert sum(actual.values()) == fixed
    for rows, length in SIZES[::3]:
        measured = bench.generate_and_update(trainer, rows, length, partial(live_peak, trainer))
        budget = bench.budget(TINY, TINY_JUDGE, rows, length, **options)
        for phase, peak in measured.items():
            assert fixed < peak <= budget[phase], phase


def test_weights_and_optimizer_are_what_stays_in_both_phases():
    shapes = memory_budget.MODELS["HuggingFaceTB/SmolLM2-1.7B"], memory_budget.ROBERTA
    for precision in memory_budget.BYTES:
        fixed = sum(memory_budget.resident(*shapes, precision).values())
        for held in memory_budget.phases(*shapes, 8, 512, precision).values():
            assert held["weights"] + held["optimizer"] == fixed


def test_the_named_models_have_their_published_sizes():
    published = dict(zip(memory_budget.MODELS, (134.5e6, 1.711e9, 6.738e9, 8.030e9, 13.016e9), strict=True))
    for name, count in published.items():
        fixed = memory_budget.resident(memory_budget.MODELS[name], memory_budget.ROBERTA, "fp32")
        size = (fixed["layers"] + fixed["embedding_head_norms"]) / 4
        assert size == pytest.approx(count, rel=1e-3), name


@pytest.fixture
def written(monkeypatch, tmp_path, trainer):
    """``written(gpu)``: run the benchmark, with the tiny trainer on a GPU that says "1 GiB"; what
    it left in the results folder, or None."""
    monkeypatch.setattr("sys.argv", ["ppo_memory.py"])
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(bench, "SIZES", SIZES[:2])
    monkeypatch.setattr(bench, "build_trainer", lambda *shapes: trainer)
    monkeypatch.setattr(bench, "cuda_peak", lambda work: (work(), 2**30))

    def run(gpu: bool):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        bench.main()
        path = tmp_path / "results" / "ppo_memory.json"
        return runtime.read_json(path) if path.exists() else None

    return run


def test_without_a_gpu_the_budget_is_printed_and_nothing_written(written, capsys):
    assert written(gpu=False) is None
    assert "update_budget" in capsys.readouterr().out


def test_with_a_gpu_the_table_is_kept_with_its_device(written):
    found = written(gpu=True)
    assert (found["device"], found["peak_gib"]) == ("a card", 1.0)
    assert [(row["micro_batch"], row["length"]) for row in found["sizes_gib"]] == list(SIZES[:2])
    assert all({"generation_measured", "update_measured"} <= row.keys() for row in found["sizes_gib"])
