"""Sampling: prompts in, responses with their masks out.

Shapes, here and in ``ppo.py``: B batch, P prompt tokens (left-padded), R response tokens
(right-padded), T = P + R, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sawyer_utils.chat import decode, encode_prompt, endings

STEP = 8  # columns


@dataclass
class Rollout:
    """A batch of prompts and sampled responses; PPO fills in the lower half step by step."""

    prompts: list[str]  # B
    responses: list[str]  # B, without the token that ended them
    input_ids: Tensor  # (B, T) prompt, then response
    attention_mask: Tensor  # (B, T) True on real tokens; carried along, never guessed from ids
    response_mask: Tensor  # (B, R) True up to and with the token that ended the response
    finished: Tensor  # (B,) True where the stop token ended the response

    logprobs: Tensor | None = None  # (B, R) log π_old(a_t)
    ref_logprobs: Tensor | None = None  # (B, R) log π_ref(a_t)
    values: Tensor | None = None  # (B, R) V(s_t)
    scores: Tensor | None = None  # (B,) from the reward function, penalty included
    rewards: Tensor | None = None  # (B, R) r_t
    advantages: Tensor | None = None  # (B, R) A_t
    returns: Tensor | None = None  # (B, R) A_t + V(s_t), before whitening

    @property
    def response_ids(self) -> Tensor:
        """(B, R)"""
        return self.input_ids[:, -self.response_mask.shape[1] :]

    @property
    def lengths(self) -> Tensor:
        """(B,) response tokens, stop included."""
        return self.response_mask.sum(1)

    def to(self, device) -> Rollout:
        """The same batch with its tensors on ``device``."""
        return self._changed(lambda _, value: value.to(device) if isinstance(value, Tensor) else value)

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, index: Tensor) -> Rollout:
        """The chosen rows as a new batch, trimmed to their longest prompt and response."""

        def picked(_, value):
            if isinstance(value, Tensor):
                return value[index.to(value.device)]
            return [value[i] for i in index.tolist()]

        return self._changed(picked)._trimmed()

    def _trimmed(self) -> Rollout:
        width = self.response_mask.shape[1]
        prompt = self.attention_mask[:, : self.input_ids.shape[1] - width]
        # Columns that are padding in every row, a multiple of STEP of them: on a CPU each new
        # shape leaves a compiled kernel behind.
        cut_right = (width - int(self.lengths.max())) // STEP * STEP
        cut_left = int((prompt.cumsum(1) == 0).all(0).sum()) // STEP * STEP

        def trimmed(name, value):
            if not isinstance(value, Tensor) or value.dim() == 1:
                return value
            over_both = name in ("input_ids", "attention_mask")
            return value[:, cut_left if over_both else 0 : value.shape[1] - cut_right]

        return self._changed(trimmed)

    def _changed(self, change: Callable[[str, Any], Any]) -> Rollout:
        """A new batch of what ``change(name, value)`` makes of each field that is filled in."""
        filled = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: change(k, value) for k, value in filled.items() if value is not None})


def joined(parts: list[Rollout]) -> Rollout:
    """Fresh rollouts as one batch, padded to the widest prompt and the widest response."""
    response = max(part.response_mask.shape[1] for part in parts)
    prompt = max(part.input_ids.shape[1] - part.response_mask.shape[1] for part in parts)

    def padded(part: Rollout, name: str) -> Tensor:
        value, width = getattr(part, name), part.response_mask.shape[1]
        if value.dim() == 1:
            return value
        left = 0 if name == "response_mask" else prompt + width - value.shape[1]
        return F.pad(value, (left, response - width))

    names = ("input_ids", "attention_mask", "response_mask", "finished")
    return Rollout(
        prompts=[text for part in parts for text in part.prompts],
        responses=[text for part in parts for text in part.responses],
        **{name: torch.cat([padded(part, name) for part in parts]) for name in names},
    )


def prompts_of_step(prompts: list[str], step: int, config) -> list[str]:
    """A step's prompts, ``config.batch_size`` in all, each ``config.answers`` times in a row: each pass over
    the list is a new shuffle, known from seed and pass, so that a run that goes on continues where it was.

    Args:
        step: those before it.
    """
    size = config.batch_size // config.answers
    picked = []
    for place in range(step * size, (step + 1) * size):
        shuffle, index = divmod(place, len(prompts))
        generator = torch.Generator().manual_seed(config.seed + shuffle)
        picked += [prompts[torch.randperm(len(prompts), generator=generator)[index]]] * config.answers
    return picked


def left_pad(sequences: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, mask), both (B, P): padding on the left, so that generation continues real text."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad_id] * (width - len(s)) + s for s in sequences])
    mask = torch.tensor([[False] * (width - len(s)) + [True] * len(s) for s in sequences])
    return ids, mask


def mask_after_end(response_ids: Tensor, endings: list[int], stop_id: int) -> tuple[Tensor, Tensor]:
    """``(response_mask (B, R), finished (B,))``: True up to and with the first token that ends an answer
    (:func:`chat.endings`); finished if that is the stop token."""
    ends = torch.isin(response_ids, torch.tensor(endings, device=response_ids.device))
    ended_before = ends.cumsum(1) - ends.long()
    mask = ended_before == 0
    return mask, (mask & (response_ids == stop_id)).any(1)


class Draw(LogitsProcessor):
    """Draws the token: where the running sum of the probabilities passes a uniform number.

    One random number a row. ``torch.multinomial`` takes one a word of the vocabulary: on a CPU a
    quarter of the time of a decoding step.
    """

    def __init__(self, temperature: float):
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, logits: Tensor) -> Tensor:
        """(B, V) logits → 0 at the token that was drawn, −∞ elsewhere.

        Raises:
            ValueError: if the model gives no probabilities to draw from.
        """
        exact = torch.float32 if logits.device.type == "mps" else torch.float64  # which Apple's GPU lacks
        cumulative = (logits.float() / self.temperature).softmax(-1).to(exact).cumsum(-1)
        if not cumulative[:, -1].isfinite().all():
            raise ValueError("The model's logits are not finite: its weights or its precision are broken.")
        uniform = torch.rand(len(logits), 1, dtype=exact, device=logits.device)
        # Strictly beyond: a token of probability 0 adds nothing to the sum and is never drawn.
        token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        last = logits.shape[1] - 1  # unless rounding takes the number to the very end of the sum
        return torch.full_like(logits, -torch.inf).scatter(1, token.clamp(max=last), 0.0)


@torch.no_grad()
def sample(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    temperature: float = 1.0,
    at_once: int | None = None,
) -> Rollout:
    """Sample one response a prompt from the model's full distribution (temperature 0: greedy).

    A response ends at the stop token; unfinished at any other special token, or at ``max_new_tokens``.

    No top-k, no top-p, no penalty, whatever the model's own generation config says: PPO's
    log-probs are those of the full distribution, and they must be the sampler's.

    Args:
        at_once: where the cache of the whole list does not fit: so many prompts at a time, of
            similar length. The rows come back in the order of ``prompts``.

    Raises:
        ValueError: for an empty list.
    """
    if not prompts:
        raise ValueError("sample: no prompts.")
    if at_once and at_once < len(prompts):
        return _in_groups(model, tokenizer, prompts, at_once, max_new_tokens, temperature)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    prompt_ids, prompt_mask = left_pad(encoded, tokenizer.pad_token_id)
    input_ids = _generate(model, tokenizer, prompt_ids, prompt_mask, max_new_tokens, temperature)
    response_ids = input_ids[:, prompt_ids.shape[1] :]
    response_mask, finished = mask_after_end(response_ids, endings(tokenizer), tokenizer.eos_token_id)
    return Rollout(
        prompts=list(prompts),
        responses=[decode(tokenizer, ids) for ids in response_ids],
        input_ids=input_ids,
        attention_mask=torch.cat([prompt_mask.to(input_ids.device), response_mask], 1),
        response_mask=response_mask,
        finished=finished,
    )


def _generate(
    model, tokenizer, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int, temperature: float
) -> Tensor:
    """(B, P + R) prompts and what the model says to them, on the model's device."""
    device = next(model.parameters()).device
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    # Greedy, over what Draw leaves of the logits; nothing else touches them.
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=endings(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    # Only an encoder-decoder has one.
    config.decoder_start_token_id = getattr(base.config, "decoder_start_token_id", None)
    draw = LogitsProcessorList([Draw(temperature)] if temperature else [])
    with _generation_config(base, config):
        input_ids = base.generate(
            input_ids=prompt_ids.to(device),
            attention_mask=prompt_mask.long().to(device),
            logits_processor=draw,
        )
    if base.config.is_encoder_decoder:  # which gives the response alone, after its start token
        input_ids = torch.cat([prompt_ids.to(device), input_ids[:, 1:]], 1)
    return input_ids


def _in_groups(model, tokenizer, prompts: list[str], size: int, *settings) -> Rollout:
    """:func:`sample` for ``size`` prompts of similar length at a time, in the order of ``prompts``."""
    order = torch.tensor([len(encode_prompt(tokenizer, p)) for p in prompts]).argsort(stable=True)
    groups = [[prompts[i] for i in group] for group in order.split(size)]
    return joined([sample(model, tokenizer, group, *settings) for group in groups]).rows(order.argsort())


@contextmanager
def _generation_config(model, config: GenerationConfig):
    """Put ``config`` in the place of the model's own, from which generate() fills whatever an
    argument leaves open (suppressed tokens, a cut-off, …)."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own
