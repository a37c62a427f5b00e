"""What PPO takes of a GPU's memory: bytes, from the shapes alone; no model is built.

The formulas are held against what is really allocated by ``ppo_memory.py`` and its tests; ``fits.py`` adds
those of the other stages, and puts a profile's sizes in. They are of the course's own PPO: one base (its
vocabulary counts up to three new rows), LoRA adapters ``policy`` and ``ref`` on every linear layer, a value
head, activation checkpointing, and a small encoder that judges.

What stays (weights, adapters, Adam) and the KV cache are exact; the rest is an upper bound, which counts
together what is not always there together. Left out is what torch does not count (the CUDA context and
its libraries, :data:`CONTEXT`), fragmentation, and attention scores: the memory-efficient kernel keeps
none; without it they would be 64 MiB a row at 512 tokens of a 7B model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sawyer_utils.actor import ActorCritic
from sawyer_utils.plumbing.memory import GIB

CONTEXT = GIB // 2  # the CUDA context and its libraries
RANK = 16
CONTROL_ROWS = 2  # that the embedding table gains
BYTES = {"nf4": 2, "fp16": 2, "bf16": 2, "fp32": 4}  # of a number outside the 4-bit layers


@dataclass(frozen=True)
class Shape:
    """What the formulas ask of a model, under the names of transformers' configs, any of which will do
    in its place."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 0  # decoders only, as head_dim and tie_word_embeddings
    head_dim: int = 0
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 0  # encoders only, as type_vocab_size
    type_vocab_size: int = 0


MODELS = {  # under the names that a profile's policy_base takes
    "embedded:smollm2-135m": Shape(49_155, 576, 1536, 30, 9, 3, 64, True),
    "HuggingFaceTB/SmolLM2-1.7B": Shape(49_155, 2048, 8192, 24, 32, 32, 64, True),
    "meta-llama/Llama-2-7b-hf": Shape(32_003, 4096, 11_008, 32, 32, 32, 128),
    "meta-llama/Llama-3.1-8B": Shape(128_259, 4096, 14_336, 32, 32, 8, 128),
    "meta-llama/Llama-2-13b-hf": Shape(32_003, 5120, 13_824, 40, 40, 40, 128),
}
ROBERTA = Shape(50_265, 768, 3072, 12, 12, max_position_embeddings=514, type_vocab_size=1)
JUDGES = {  # under those of its reward_base
    # Two thirds of its layers, frozen; counted as an encoder, which is a little more.
    "embedded:smollm2-135m": Shape(49_152, 576, 1536, 20, 9, max_position_embeddings=8192),
    "embedded:minilm-l6": Shape(30_522, 384, 1536, 6, 12, max_position_embeddings=512, type_vocab_size=2),
    "FacebookAI/roberta-base": ROBERTA,
}


# --- the parts ----------------------------------------------------------------------------------


def linear_shapes(model) -> list[tuple[int, int]]:
    """(out, in) of every layer that is adapted: all linear ones but the head."""
    width, inner = model.hidden_size, model.intermediate_size
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    attention = [(queries, width), (keys, width), (keys, width), (width, queries)]
    return model.num_hidden_layers * [*attention, (inner, width), (inner, width), (width, inner)]


def lora_parameters(model, rank: int = RANK) -> int:
    """Of one adapter."""
    return sum(rank * (out + into) for out, into in linear_shapes(model))


def encoder_parameters(judge) -> int:
    """Of a BERT or RoBERTa with one output."""
    width, inner = judge.hidden_size, judge.intermediate_size
    embeddings = (judge.vocab_size + judge.max_position_embeddings + judge.type_vocab_size + 2) * width
    layer = 4 * width * (width + 1) + inner * (width + 1) + width * (inner + 1) + 4 * width
    return embeddings + judge.num_hidden_layers * layer + width * (width + 1) + width + 1


def resident(model, judge, precision="nf4", rank: int = RANK, judge_bytes: int = 2) -> dict[str, int]:
    """What stays in memory from the first update to the last, in bytes.

    Args:
        precision: of the policy's frozen weights, a key of :data:`BYTES`.
        judge_bytes: of one weight of the reward model. The course's own loader takes 4.
    """
    sizes = [out * into for out, into in linear_shapes(model)]
    lora, width = lora_parameters(model, rank), model.hidden_size
    number = BYTES[precision]
    tables = (1 if model.tie_word_embeddings else 2) * model.vocab_size * width
    norms = (2 * model.num_hidden_layers + 1) * width
    if precision == "nf4":
        # A scale for 64 weights, in a byte; a float for 256 scales and an offset a layer (Dettmers
        # et al. 2023, arXiv 2305.14314, section 3). Code tables, 1 KB a layer, are not counted.
        layers = {
            "nf4": sum(sizes) // 2,
            "scales": sum(n // 64 + 4 * math.ceil(n / 64 / 256) + 4 for n in sizes),
        }
    else:
        layers = {"layers": number * sum(sizes)}
    return {
        **layers,
        "embedding_head_norms": number * (tables + norms),
        # fp32 weight, gradient and Adam's two moments; the value head, too.
        "policy": 16 * (lora + width + 1),
        "ref": 4 * lora,
        "reward_model": judge_bytes * encoder_parameters(judge),
    }


def kv_cache(model, tokens: int, precision="nf4") -> int:
    """Bytes of keys and values."""
    width = model.num_key_value_heads * model.head_dim
    return tokens * 2 * model.num_hidden_layers * width * BYTES[precision]


def one_layer(model, tokens: int, precision="nf4") -> int:
    """Bytes of what a layer makes of so many tokens: an upper bound, not yet with gradients."""
    number = BYTES[precision]
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    # Autograd keeps two norms' inputs in fp32 (8 bytes) and, in the compute type, two norms' outputs,
    # queries, keys and values, attention twice; of the MLP gate, activation, other half and product.
    attention = number * (3 * queries + 2 * keys)
    return tokens * ((8 + 2 * number) * model.hidden_size + attention + 4 * number * model.intermediate_size)


def working(
    model,
    rows: int,
    length: int,
    precision="nf4",
    rank: int = RANK,
    response: int | None = None,
    sampled: int | None = None,
) -> dict[str, int]:
    """What comes and goes, in bytes; all but ``kv_cache`` and ``layer_inputs`` are upper bounds.

    Args:
        rows: of a micro-batch.
        length: prompt and response.
        response: tokens of the response; half of ``length`` unless given.
        sampled: rows that are sampled at once; as many as a micro-batch has unless given.
    """
    tokens, width, inner = rows * length, model.hidden_size, model.intermediate_size
    number, layers = BYTES[precision], sum(out * into for out, into in linear_shapes(model))
    folded = layers + model.vocab_size * width
    response, sampled = response or length // 2, sampled or rows
    chunk = min(ActorCritic.CHUNK, rows * response)  # response tokens
    return {
        "kv_cache": kv_cache(model, sampled * length, precision),
        "layer_inputs": tokens * model.num_hidden_layers * width * number,  # kept by checkpointing
        # One layer, recomputed; as much again for gradients and passing results.
        "layer": 2 * one_layer(model, tokens, precision),
        "prompts": 2 * one_layer(model, sampled * (length - response), precision),  # through a layer at once
        # In 16 bits: logits, log-softmax, its exponential, and that again in 16 (12); in fp32 the
        # first three (12).
        "logits": chunk * model.vocab_size * 12,
        # One weight out of its 4 bits, autocast's 16-bit copy of the adapter. Adam's own come when all
        # else is gone.
        "temporaries": (2 * width * inner if precision == "nf4" else 0)
        + (2 * lora_parameters(model, rank) if number == 2 else 0),
        # Sampling folds the adapter into a copy of layers and embeddings, unless they are in 4 bits.
        "merged": 0 if precision == "nf4" else number * folded,
    }


# --- the two phases -----------------------------------------------------------------------------


def phases(
    model,
    judge,
    rows: int,
    length: int,
    precision="nf4",
    rank: int = RANK,
    judge_bytes: int = 2,
    response: int | None = None,
    sampled: int | None = None,
) -> dict[str, dict[str, int]]:
    """Bytes at the peak of each phase, by what they are for; the arguments are those of :func:`resident`
    and :func:`working`.

    ``generation`` is all that comes before the update: sampling, where the prompts pass a layer at
    once, and then the two scoring passes, which need no cache.
    """
    stays = resident(model, judge, precision, rank, judge_bytes)
    part = working(model, rows, length, precision, rank, response, sampled)
    # 12 of policy's 16 bytes are gradient and moments.
    learned = lora_parameters(model, rank) + model.hidden_size + 1
    fixed = {"weights": sum(stays.values()) - 12 * learned, "optimizer": 12 * learned}
    scoring = {"activations": part["layer"], "logits": part["logits"]}
    sampling = {
        "merged copy": part["merged"],
        "cache": part["kv_cache"],
        "activations": part["prompts"],
    }
    generation = max(sampling, scoring, key=lambda held: sum(held.values()))
    update = {**scoring, "activations": part["layer_inputs"] + part["layer"]}
    found = {"generation": {**fixed, **generation}, "update": {**fixed, **update}}
    for held in found.values():
        held["activations"] += part["temporaries"]
    return found
