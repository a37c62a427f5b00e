"""How likely a model finds given texts, with what they share read once.

:func:`loglikelihoods` gives what ``HFLM.loglikelihood`` of lm-eval 0.4.13 gives (held against it in
``tests/test_lm_eval.py``). The tokens that all contexts begin with, such as a task's instruction, are
read once, and the rest of each context once; a copy of transformers' key-value cache then serves each
continuation, a row of its own. Rows are padded on the right, where no token sees the padding.

Sliding windows are transformers' own. A model without such a cache (recurrent layers, or code that does
not fill it) reads every row whole: the same numbers, but slowly.

Letters: B rows, T tokens of the longest, V vocabulary. Log-likelihoods are sums, in nats.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from contextlib import contextmanager
from copy import deepcopy
from itertools import takewhile
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sawyer_utils.actor import check_output_layer
from sawyer_utils.plumbing.progress import each

BATCH_TOKENS = 512  # tokens read at once, padding included
NOTHING = -100  # a target that cross_entropy leaves out


# --- from text to tokens ------------------------------------------------------------------------


class Request(NamedTuple):
    """Tokens of a context and a continuation whose log-likelihood is asked for."""

    context: tuple[int, ...]  # at least one
    continuation: tuple[int, ...]
    truncated: int  # tokens cut from the left of the context


def encode_request(tokenizer, context: str, continuation: str, longest: int) -> Request:
    """Encode as lm-eval does: both together, split where the context alone ends.

    Spaces that end the context go to the continuation, for in most vocabularies they belong to the
    next word. An empty context is the tokenizer's first token (or its stop token, without one).

    Args:
        longest: tokens the model can read. The last one of a continuation is never read, so
            ``longest + 1`` are kept.

    Raises:
        ValueError: if nothing is left to predict, or to predict it from, or the continuation alone
            is longer than ``longest``.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if context:
        bare = context.rstrip()
        before = _encode(tokenizer, bare, first)
        whole = _encode(tokenizer, context + continuation, first)
        ids, start = before + whole[len(before) :], len(before)
    else:
        ids, start = tokenizer.encode(continuation, add_special_tokens=False), 1
        ids = ids if ids[:1] == [first] else [first, *ids]
    if not 0 < start < len(ids):
        raise ValueError(f"No tokens to score in {continuation!r} after {context[-40:]!r}.")
    if len(ids) - start > longest:
        raise ValueError(f"A continuation of {len(ids) - start} tokens; the model reads {longest}.")
    cut = max(0, len(ids) - longest - 1)
    return Request(tuple(ids[cut:start]), tuple(ids[start:]), cut)


def _encode(tokenizer, text: str, first: int | None) -> list[int]:
    # A text that spells the first token itself shall not get it twice.
    spelled = first is not None and text.startswith(tokenizer.decode(first))
    return tokenizer.encode(text, add_special_tokens=not spelled)


def longest_input(model, tokenizer) -> int:
    """Tokens the model can read, by its configuration, else its tokenizer's, else 2048."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = tokenizer.model_max_length
    return positions or (known if known < 10**9 else 2048)


# --- from tokens to log-likelihoods -------------------------------------------------------------


@torch.no_grad()
def loglikelihoods(
    model,
    tokenizer,
    requests: list[tuple[str, str]],
    compute: torch.dtype | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[float]:
    """log π(continuation | context) of each (context, continuation), in nats.

    Args:
        compute: autocast dtype, or None for the weights' own.
        batch_tokens: read at once, with four times as many in the caches of their rows. Half of it, if
            memory does not suffice.

    Raises:
        ValueError: for a request that cannot be scored (see :func:`encode_request`), or naming the one
            for which the model gives NaN or infinity.
    """
    longest = longest_input(model, tokenizer)
    encoded = [encode_request(tokenizer, *request, longest) for request in requests]
    if cut := [request.truncated for request in encoded if request.truncated]:
        warnings.warn(
            f"{len(cut)} of {len(encoded)} requests are longer than the {longest} tokens that the model "
            f"reads: up to {max(cut)} tokens cut from the left.",
            stacklevel=2,
        )
    continuations = defaultdict(dict)  # of each context: those asked for, each once
    for context, continuation, _ in encoded:
        continuations[context][continuation] = None
    with evaluating(model), torch.autocast(model.device.type, compute, enabled=compute is not None):
        columns = zip(*(context[:-1] for context in continuations))
        opening = tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
        cache = _read(model, opening, _empty_cache(model))
        found = {
            context: _score(model, context, list(wanted), cache, batch_tokens)
            for context, wanted in each("contexts", list(continuations.items()))
        }
    logliks = [found[context][continuation] for context, continuation, _ in encoded]
    for (context, continuation), loglik in zip(requests, logliks, strict=True):
        if not math.isfinite(loglik):
            raise ValueError(f"The model gives {loglik} for {continuation!r} after {context[-40:]!r}.")
    return logliks


@torch.no_grad()
def next_logprobs(
    model, tokenizer, texts: list[str], words: tuple[str, ...], compute: torch.dtype | None = None, batch=8
) -> list[list[float]]:
    """log π of each word's (last) token right after each text, ``[[word, …] of a text, …]``; quicker than
    :func:`loglikelihoods` for many short texts that begin alike, and not rounded to 16 bits.

    Args:
        model: a PEFT model whose tokenizer pads on the left.
        compute: autocast dtype, or None for the weights' own.

    Raises:
        UnsuitableBase: for a model that changes its logits after the output layer.
    """
    check_output_layer(model)
    base, rows = model.get_base_model(), [tokenizer(text).input_ids for text in texts]
    head = base.get_output_embeddings()
    tokens = [tokenizer.encode(word, add_special_tokens=False)[-1] for word in words]
    columns = zip(*(row[:-1] for row in rows))
    opening = tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
    with evaluating(model), torch.autocast(model.device.type, compute, enabled=compute is not None):
        cache = _read(model, opening, _empty_cache(model))
        shared, found = 0 if cache is None else len(opening), []
        for start in each("batches asked", range(0, len(rows), batch)):
            part = [row[shared:] for row in rows[start : start + batch]]
            rest = tokenizer.pad({"input_ids": part}, return_tensors="pt").to(model.device)
            seen = F.pad(rest.attention_mask, (shared, 0), value=1)  # (B, T)
            if copies := deepcopy(cache):
                copies.batch_repeat_interleave(len(part))
            states = base.get_decoder()(
                input_ids=rest.input_ids,
                attention_mask=seen,
                position_ids=(seen.cumsum(1) - 1)[:, shared:].clamp(min=0),
                past_key_values=copies,
                use_cache=copies is not None,
            ).last_hidden_state[:, -1]  # (B, D)
            total = head(states).float().logsumexp(1, keepdim=True)
            # 16 bits round a logit to a tenth, as autocast's products do: those that are asked for are
            # taken in 32, as a sum.
            wanted = (states.float()[:, None] * head.weight[tokens].float()).sum(-1)  # (B, words)
            if head.bias is not None:  # GPT-J's, Phi's
                wanted += head.bias[tokens].float()
            found += (wanted - total).tolist()
    return found


@contextmanager
def evaluating(model):
    """Without dropout; and a model in training may refuse a cache."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _empty_cache(model) -> DynamicCache | None:
    """None where a layer keeps something else than keys and values."""
    cache = DynamicCache(config=model.config)
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    return cache if plain else None


def _read(model, ids: tuple[int, ...], cache: DynamicCache | None) -> DynamicCache | None:
    """A cache of ``ids``, whose first tokens the given one holds; None from a model that fills none."""
    if cache is None:
        return None
    cache, held = deepcopy(cache), cache.get_seq_length()
    if len(ids) > held:
        rest = torch.tensor([ids[held:]], device=model.device)
        model(input_ids=rest, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache if cache.get_seq_length() == len(ids) else None


def _score(model, context, continuations, opening, batch_tokens: int) -> dict[tuple[int, ...], float]:
    """The log-likelihood of each continuation after one context, whose first tokens ``opening`` holds."""
    cache = _read(model, context[:-1], opening)
    known = 0 if cache is None else len(context) - 1
    # Each row reads the context's last token: what comes after it is the first to be predicted.
    rows = [torch.tensor(context[known:] + each) for each in continuations]
    width = max(map(len, rows)) - 1
    size = max(1, min(batch_tokens // width, 4 * batch_tokens // (known + width)))
    found: list[float] = []
    for part in (rows[start : start + size] for start in range(0, len(rows), size)):
        tokens = pad_sequence(part, batch_first=True, padding_value=NOTHING).to(model.device)
        inputs, targets = tokens[:, :-1].clamp(min=0), tokens[:, 1:].clone()  # (B, T)
        targets[:, : len(context) - known - 1] = NOTHING
        copies = deepcopy(cache)
        if copies is not None:
            copies.batch_repeat_interleave(len(part))
        logits = model(input_ids=inputs, past_key_values=copies, use_cache=copies is not None).logits
        nats = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        found += (-nats.view_as(targets).sum(1)).tolist()
    return dict(zip(continuations, found, strict=True))
