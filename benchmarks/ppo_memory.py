"""Does PPO on a 7B policy fit a T4? Peak memory of generation and of an update, computed and measured.

    python benchmarks/ppo_memory.py

The policy has Llama-2-7B's shape and random weights: NF4 with double quantisation, LoRA adapters
``policy`` and ``ref`` on every linear layer, three trained embedding rows; the reward model is a
RoBERTa-base. On a GPU one rollout and one update of ``PPOTrainer`` run in fp16 at each size, and the
peaks go to results/ppo_memory.json. Without one the budget is printed: what the shapes say.

The budget's formulas are ``memory_budget.py``'s, where it says what they leave
out. A length is prompt plus response, half each. A T4 shows torch 14.75 GiB, hence the goal of 13.5.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from datetime import date
from importlib.metadata import version

import bitsandbytes
import torch
from memory_budget import RANK, phases, resident, working
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sawyer_utils import models, runtime
from sawyer_utils.models import POLICY, REF
from sawyer_utils.plumbing import machine, workarounds
from sawyer_utils.plumbing.memory import GIB
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.reward import RewardModel

GOAL = 13.5  # GiB, at the last of the sizes
SIZES = ((1, 256), (8, 256), (1, 512), (8, 512))  # micro-batch, tokens of prompt and response


def llama_2_7b() -> LlamaConfig:
    """Else transformers' defaults: 32,000 words, 32 layers of 32 heads, 4096 and 11,008 wide."""
    return LlamaConfig(max_position_embeddings=4096)


def roberta_base() -> RobertaConfig:
    """Else transformers' defaults: 50,265 words, 12 layers of 12 heads, 768 and 3072 wide."""
    return RobertaConfig(max_position_embeddings=514, type_vocab_size=1, num_labels=1)


# --- the run ------------------------------------------------------------------------------------


def nf4(layer: nn.Linear, dtype: torch.dtype, device: str) -> bitsandbytes.nn.Linear4bit:
    """A 4-bit layer of that shape; its random weight is a float for a moment only."""
    options = {"compress_statistics": True, "quant_type": "nf4"}
    shape = layer.out_features, layer.in_features
    new = bitsandbytes.nn.Linear4bit(*shape[::-1], bias=False, compute_dtype=dtype, device="meta", **options)
    weight = torch.empty(shape, dtype=dtype, device=device).normal_(0, 0.02)
    new.weight = bitsandbytes.nn.Params4bit(weight, module=new, **options).to(device)
    return new


def build_policy(
    llama: LlamaConfig, dtype: torch.dtype, device: str, four_bit: bool = True, rank: int = RANK
):
    """What ``models.load_actor`` gives, from random weights, a layer at a time: in 4 bits the float
    model, 13 GB for the 7B shape, never exists."""
    with torch.device("meta"):
        model = LlamaForCausalLM(llama)
    for name, module in list(model.named_modules()):
        if four_bit and isinstance(module, nn.Linear) and module is not model.lm_head:
            model.set_submodule(name, nf4(module, dtype, device))
            continue
        for key, parameter in list(module.named_parameters(recurse=False)):
            weight = torch.ones(parameter.shape, dtype=dtype, device=device)
            weight = weight if weight.dim() == 1 else weight.normal_(0, 0.02)
            setattr(module, key, nn.Parameter(weight, requires_grad=False))
    model.model.rotary_emb = LlamaRotaryEmbedding(llama).to(device)  # its buffers were meta, too
    if four_bit:
        model.is_loaded_in_4bit = True  # from which PEFT knows
        workarounds.keep_gradients(model)
    lora = {"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
    config = LoraConfig(**lora, task_type="CAUSAL_LM")
    model = get_peft_model(model.eval(), config, adapter_name=POLICY)
    model.add_adapter(REF, config)
    models.activate(model, POLICY)
    return model


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words w1, w2, …, a token each. The stop token is one that the model does not have, so that
    every response takes its full length."""
    words = ["<pad>", *(f"w{i}" for i in range(1, vocabulary)), "<stop>"]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<stop>")


def build_trainer(
    llama: LlamaConfig, judge: RobertaConfig, dtype: torch.dtype, device: str, four_bit: bool = True
) -> PPOTrainer:
    """The real trainer, with Adam's moments there, as they are from a run's second step on."""
    tokenizer = build_tokenizer(llama.vocab_size)
    with torch.device(device):
        encoder = RobertaForSequenceClassification(judge).to(dtype)
    reward = RewardModel(encoder, tokenizer, max_tokens=max(length for _, length in SIZES))
    config = PPOConfig(epochs=1, minibatches=1, activation_checkpointing=True, compute=dtype)
    trainer = PPOTrainer(build_policy(llama, dtype, device, four_bit), tokenizer, reward, config)
    for _ in range(16):  # fp16's loss scale starts high: updates that overflow are skipped
        generate_and_update(trainer, 1, 16, lambda work: (work(), 0))
        if trainer.optimizer.state:
            return trainer
    raise RuntimeError("Every gradient overflowed: there is no update to measure.")


def budget(llama: LlamaConfig, judge: RobertaConfig, rows: int, length: int, **options) -> dict[str, int]:
    """Peak bytes of the two phases; ``options`` are those of ``phases``."""
    found = phases(llama, judge, rows, length, **options)
    return {name: sum(held.values()) for name, held in found.items()}


def generate_and_update(trainer: PPOTrainer, rows: int, length: int, peak) -> dict[str, int]:
    """Peak bytes of the phases that :func:`budget` names.

    Args:
        peak: calls a function and returns its result and the peak of the bytes allocated meanwhile.
    """
    half = length // 2
    trainer.config = replace(trainer.config, batch_size=rows, micro_batch=rows, response_tokens=half)
    # Of unequal length, so that attention gets a mask, as in a real run.
    prompts = ["w1 " * max(1, half - row) for row in range(rows)]
    batch, generation = peak(lambda: trainer.advantages(trainer.score(trainer.rollout(prompts))))
    _, update = peak(lambda: trainer.update(batch))
    return {"generation": generation, "update": update}


def cuda_peak(work):
    """``(result, peak bytes)`` of a function on the GPU."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return work(), torch.cuda.max_memory_allocated()


# --- the table ----------------------------------------------------------------------------------


def in_gib(sizes: dict[str, int], ending: str = "") -> dict[str, float]:
    return {name + ending: round(size / GIB, 3) for name, size in sizes.items()}


def show(rows: list[dict]) -> None:
    """Print dictionaries of equal keys as a table."""
    print("  ".join(rows[0]))
    for row in rows:
        print("  ".join(f"{value:{len(name)}}" for name, value in row.items()))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    machine.quiet_libraries()
    runtime.seed_everything(0)
    llama, judge = llama_2_7b(), roberta_base()
    fixed, rows = in_gib(resident(llama, judge)), []
    for size in SIZES:
        row = dict(zip(("micro_batch", "length"), size, strict=True)) | in_gib(working(llama, *size))
        rows.append(row | in_gib(budget(llama, judge, *size), "_budget"))
    print(f"GiB that stay: {fixed}, in all {sum(fixed.values()):.3f}. GiB that come and go, and peaks:")
    if not torch.cuda.is_available():
        show(rows)
        print("No GPU here: nothing was measured, nothing written.")
        return
    trainer = build_trainer(llama, judge, torch.float16, "cuda")
    for row, size in zip(rows, SIZES, strict=True):
        row |= in_gib(generate_and_update(trainer, *size, cuda_peak), "_measured")
    show(rows)
    device = torch.cuda.get_device_name()
    peak = max(rows[-1]["generation_measured"], rows[-1]["update_measured"])
    print(f"{device}: {peak} GiB at {SIZES[-1]}; the goal is at most {GOAL}.")
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    found = {"date": date.today().isoformat(), "device": device, "versions": versions, "peak_gib": peak}
    found |= {"resident_gib": fixed, "sizes_gib": rows}
    path = runtime.project_root() / "results" / "ppo_memory.json"
    path.parent.mkdir(exist_ok=True)
    runtime.write_json(path, found)


if __name__ == "__main__":
    main()
