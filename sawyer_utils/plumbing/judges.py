"""What a judge of any kind reads, and how its base is loaded: an encoder, which takes question and answer as
a pair, or a causal language model, which takes them as one text."""

from __future__ import annotations

import math
from functools import partial

import torch
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sawyer_utils.plumbing import assets


def load_classifier(base: str, device: str):
    """A base with a new head of one number, its tokenizer, and the names of the other layers that the base
    comes without (a pooler, in what was saved without one): they are random, too, and to be trained whole.
    """
    path = assets.resolve(base)
    model, found = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=torch.float32, output_loading_info=True
    )
    missing = {key.rpartition(".")[0] for key in found["missing_keys"]}
    new = sorted(name for name in missing if name.split(".")[0] not in SEQ_CLS_HEAD_NAMES)
    tokenizer = load_tokenizer(base)
    if tokenizer.sep_token is None:  # a causal model's head reads the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    model.name_or_path = ""  # PEFT writes it into the adapter: this machine's path
    return model.to(device), tokenizer, new


def load_tokenizer(base: str):
    """A judge's tokenizer; a causal model's pads at the end, if it can with another token than the last."""
    tokenizer = AutoTokenizer.from_pretrained(assets.resolve(base))
    if tokenizer.sep_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token or tokenizer.eos_token
        tokenizer.padding_side = "right"
    return tokenizer


def encode_pair(tokenizer, prompt: str, response: str, max_tokens: int | None) -> list[int]:
    """What the model reads: ``[CLS] question [SEP] answer [SEP]``; for a causal model, which has no token
    between two texts, ``Question: …``, ``Answer: …`` and its end token. Of a pair that is too long, the
    longer text loses its end.

    A "[SEP]" or "</s>" that the texts spell stays text: it is not the token.

    Args:
        max_tokens: None cuts nothing.
    """
    if tokenizer.sep_token is not None:
        cut = {"truncation": "longest_first", "max_length": max_tokens} if max_tokens else {}
        return tokenizer(prompt, response, split_special_tokens=True, **cut).input_ids
    plain = partial(tokenizer, split_special_tokens=True)
    question = plain(f"Question: {prompt}").input_ids  # with the token that begins a text, if there is one
    middle = plain("\nAnswer:", add_special_tokens=False).input_ids
    answer = plain(f" {response}", add_special_tokens=False).input_ids
    end = [tokenizer.eos_token_id] if tokenizer.eos_token != tokenizer.pad_token else []
    too_many = len(question + middle + answer + end) - (max_tokens or math.inf)
    while too_many > 0:
        (question if len(question) > len(answer) else answer).pop()
        too_many -= 1
    return question + middle + answer + end


def longest_input(model: nn.Module) -> int | None:
    """Tokens that an encoder has positions for; None if it counts them another way.

    RoBERTa's table of 514 begins with those of the padding, and 512 are left.
    """
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)
