"""The models that the profiles name, small and random: true architectures, configurations and tokenizers'
layouts, written as the Hub has them.

Configurations and tokenizer settings are those of the Hub's files, but for the sizes. SmolLM2's tokenizer
comes from the embedded weights, the others are small ones of their layout (``layouts.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import layouts
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    T5ForConditionalGeneration,
)

from sawyer_utils.plumbing import assets

SMOLLM2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 130000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 49152,
    "initializer_range": 0.1,  # with the usual 0.02 all tokens are as likely, and mistakes hide
}
LLAMA2 = SMOLLM2 | {
    "hidden_size": 128,  # bitsandbytes' own Python takes no layer of fewer than 16,384 weights
    "intermediate_size": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
ROBERTA = {
    "model_type": "roberta",
    "architectures": ["RobertaForMaskedLM"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "hidden_act": "gelu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "initializer_range": 0.1,
}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "d_model": 64,
    "d_ff": 128,
    "d_kv": 16,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 0.1,  # with 1 one token takes all
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "is_encoder_decoder": True,
    "use_cache": True,
}
CLASSIFIERS = {"cardiffnlp/twitter-roberta-base-sentiment": 3, "textattack/roberta-base-CoLA": 2}
GATED, COPY = "meta-llama/Llama-2-7b-hf", "NousResearch/Llama-2-7b-hf"


# --- tokenizers ---------------------------------------------------------------------------------


def llama2_tokenizer(folder: Path, legacy: bool) -> int:
    """Llama-2's: BPE over ``▁`` with byte fallback, a space before the first piece, no padding token.

    Returns:
        the size of the vocabulary, as of all functions here
    """
    special = {"lstrip": False, "rstrip": False, "normalized": not legacy, "single_word": False}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = {name: {"content": text, **special} for name, text in names.items()}
    settings = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    settings |= {"legacy": legacy, "model_max_length": 10**30, "pad_token": None, "sp_model_kwargs": {}}
    settings |= {name: {"__type": "AddedToken", **token} for name, token in tokens.items()}
    _json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "LlamaTokenizer"})
    _json(folder / "special_tokens_map.json", tokens)
    return _raw(folder, "llama2-legacy" if legacy else "llama2")


def roberta_tokenizer(folder: Path) -> int:
    """RoBERTa's: byte-level BPE, ``<s> question </s></s> answer </s>``, a mask that eats a space."""
    _json(folder / "tokenizer_config.json", {"model_max_length": 512})
    return _raw(folder, "roberta", files=True)


def t5_tokenizer(folder: Path) -> int:
    """T5's: a unigram model over ``▁``, ``</s>`` at the end, a hundred ``<extra_id_…>``."""
    extra = [f"<extra_id_{i}>" for i in range(100)]
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names |= {"additional_special_tokens": extra}
    settings = {"extra_ids": 100, "model_max_length": 512, "tokenizer_class": "T5Tokenizer"}
    _json(folder / "tokenizer_config.json", settings | names)
    _json(folder / "special_tokens_map.json", names)
    return _raw(folder, "t5")


def _raw(folder: Path, layout: str, files: bool = False) -> int:
    """Write the tokenizer of a layout as ``tokenizer.json``, and with ``files`` as vocabulary and merges."""
    raw = layouts.BUILDERS[layout]().backend_tokenizer
    raw.save(str(folder / "tokenizer.json"))
    if files:
        raw.model.save(str(folder))
    return raw.get_vocab_size()


def smollm2_tokenizer(folder: Path) -> int:
    """SmolLM2's own, of the base model: one token ends everything, there is none for padding."""
    raw = json.loads((Path(assets.resolve("embedded:smollm2-135m")) / "tokenizer.json").read_text("utf-8"))
    # The conversion of the embedded weights drops that digits stand alone.
    digits = {"type": "Digits", "individual_digits": True}
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, raw["pre_tokenizer"]]}
    raw["post_processor"] = None
    _json(folder / "tokenizer.json", raw)
    _json(folder / "vocab.json", raw["model"]["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    end = "<|endoftext|>"
    names = {"bos_token": end, "eos_token": end, "unk_token": end}
    added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in raw["added_tokens"]}
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
    }
    settings |= {"additional_special_tokens": [token["content"] for token in raw["added_tokens"]]}
    settings |= {"model_max_length": 8192, "tokenizer_class": "GPT2Tokenizer", "vocab_size": 49152}
    _json(folder / "tokenizer_config.json", settings | names)
    _json(folder / "special_tokens_map.json", names)
    return len(raw["model"]["vocab"])


# --- models -------------------------------------------------------------------------------------


def write_models(folder: Path) -> None:
    """All of them, below ``folder/models``."""
    _write(folder, "HuggingFaceTB/SmolLM2-1.7B", LlamaForCausalLM, SMOLLM2, smollm2_tokenizer)
    write_llama2(folder)
    _write(folder, "FacebookAI/roberta-base", RobertaForMaskedLM, ROBERTA, roberta_tokenizer)
    for name, labels in CLASSIFIERS.items():
        config = ROBERTA | {"architectures": ["RobertaForSequenceClassification"]}
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
        _write(folder, name, RobertaForSequenceClassification, config, roberta_tokenizer, labels)
        _as_in_2020(folder / "models" / name)
    _write(folder, "google/flan-t5-small", T5ForConditionalGeneration, T5, t5_tokenizer)


def write_llama2(folder: Path) -> None:
    """Llama-2 and its ungated copy, each in two files; the two have the two settings of ``legacy``."""
    for name, legacy in {GATED: False, COPY: True}.items():
        tokenizer = partial(llama2_tokenizer, legacy=legacy)
        _write(folder, name, LlamaForCausalLM, LLAMA2, tokenizer, max_shard_size="800KB")


def _write(
    folder: Path,
    name: str,
    architecture: type[PreTrainedModel],
    settings: dict,
    tokenizer: Callable[[Path], int],
    seed: int = 0,
    **options,
) -> None:
    place = folder / "models" / name
    place.mkdir(parents=True)
    size = tokenizer(place)
    settings = {"vocab_size": size} | settings | ({"vocab_size": size} if settings is LLAMA2 else {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(AutoConfig.for_model(**settings))
    model.to(getattr(torch, settings.get("torch_dtype", "float32"))).save_pretrained(place, **options)
    _json(place / "config.json", settings)  # as the Hub has it, not as this version would write it
    (place / "README.md").write_text(f"# {name}\n\nSmall and random.\n")


def _as_in_2020(place: Path) -> None:
    """These two were never converted: weights by ``torch.save``, and a tokenizer without its one file."""
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (place / name).unlink()


def _json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
