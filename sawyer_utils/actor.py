"""Policy and critic on one trunk: the one forward pass of PPO."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sawyer_utils import losses
from sawyer_utils.plumbing.bases import UnsuitableBase
from sawyer_utils.rollout import Rollout


class ActorCritic(nn.Module):
    """Policy and value head on one trunk. Every gradient path goes through ``forward``.

    Raises:
        ValueError: if the output layer is trained or quantised, or the model does something after it.
    """

    # Response tokens whose (…, V) logits exist at once: 25 MB here. What is larger than 32 MB, glibc
    # takes from the system each time anew, page by page.
    CHUNK = 128

    def __init__(self, model):
        super().__init__()
        self.model = model
        head = model.get_base_model().get_output_embeddings()
        if any(p.requires_grad or not p.is_floating_point() for p in head.parameters()):
            raise ValueError("The output layer has to be frozen and not quantised.")
        check_output_layer(model)
        device = next(model.parameters()).device
        self.value_head = nn.Linear(head.weight.shape[1], 1, device=device)
        nn.init.zeros_(self.value_head.weight)  # V = 0 at first: no critic is better than a wrong one
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self, rollout: Rollout, temperature: float, detach_value: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log π(a_t), V(s_t) and entropy of each response token: three (B, R), 0 outside the mask.

        Args:
            temperature: the one the tokens were sampled at.
            detach_value: let the value loss train the head alone, not the trunk.
        """
        base, mask = self.model.get_base_model(), rollout.response_mask
        states = response_states(base, rollout)[mask]  # (N, D), for N response tokens in all
        tokens = rollout.response_ids[mask]  # (N,)
        head = base.get_output_embeddings()
        chunks = zip(states.split(self.CHUNK), tokens.split(self.CHUNK), strict=True)
        # Recomputed in the backward pass: 8 % more of its time, and no logits are kept.
        keep = {"use_reentrant": False, "preserve_rng_state": False}
        parts = [checkpoint(_of_tokens, head, *chunk, temperature, **keep) for chunk in chunks]
        logprobs, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        with torch.autocast(states.device.type, enabled=False):
            seen = states.float()
            values = self.value_head(seen.detach() if detach_value else seen).squeeze(-1)

        def spread_out(flat: Tensor) -> Tensor:  # (N,) -> (B, R)
            return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

        return spread_out(logprobs), spread_out(values), spread_out(entropies)


def _of_tokens(head: nn.Module, states: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log π of the given tokens, and the entropy of each choice; two (n,), in fp32.

    The entropy has no gradient, and without one in sight (while log π_old is taken) it is 0.

    Args:
        states: (n, D), what goes into the output layer.
        tokens: (n,).
    """
    logits = head(states)  # (n, V)
    with torch.autocast(logits.device.type, enabled=False):  # it takes some sums to 16 bits
        logprobs = losses.log_softmax(logits, temperature)
        found = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        wanted = torch.is_grad_enabled()
        return found, losses.entropy(logprobs.detach()) if wanted else torch.zeros_like(found)


CHANGED = (
    "changes its logits after the output layer: log-probs would be off by {:.2g} nats. PPO here reads that "
    "layer alone: choose a model without logit scaling or soft-capping, such as Llama, SmolLM2, Qwen or "
    "Mistral."
)
PADDED = (
    "reads a padded prompt otherwise than the same prompt alone: log-probs would be off by {:.2g} nats. "
    "Choose a model whose positions leave padding out, such as Llama, SmolLM2, Qwen, Mistral or T5."
)


@torch.no_grad()
def check_output_layer(model) -> None:
    """Compare the output layer's logits with the model's own, on a few tokens, and with those of the same
    tokens after padding.

    Some models scale their logits after that layer (Granite, Cohere) or bend them (Gemma 2). Log-probs taken
    from the layer alone would then be off by nats, while every ratio of two of them still starts at 1. Others
    (BART, Pegasus) count positions from the first token on, padding or not.

    Args:
        model: a causal or an encoder-decoder language model, with adapters or without.

    Raises:
        UnsuitableBase: if two of the three differ.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    device, words = next(base.parameters()).device, next(head.parameters()).shape[0]
    # (1, T), four of a prompt and four of a response
    ids = (torch.arange(1, 9, device=device) % words).unsqueeze(0)
    everything = torch.ones_like(ids, dtype=torch.bool)
    batch = Rollout([""], [""], ids, everything, everything[:, 4:], everything[:, 0])
    padded = replace(batch, input_ids=F.pad(ids, (3, 0)), attention_mask=F.pad(everything, (3, 0)))
    training = base.training
    base.eval()  # dropout would differ from one pass to the next
    taken, after = (losses.log_softmax(head(response_states(base, b))) for b in (batch, padded))  # (1, 4, V)
    if base.config.is_encoder_decoder:
        start = torch.full_like(ids[:, :1], base.config.decoder_start_token_id)
        read = {"input_ids": ids[:, :4], "decoder_input_ids": torch.cat([start, ids[:, 4:-1]], 1)}
        logits = base(**read, use_cache=False).logits
    else:
        logits = base(input_ids=ids, use_cache=False).logits[:, 3:-1]
    base.train(training)
    # Half precision rounds a logit of 20 to a tenth, and two passes may sum in another order.
    allowed = 1e-3 if logits.dtype == torch.float32 else 0.5
    for other, problem in ((losses.log_softmax(logits), CHANGED), (after, PADDED)):
        worst = float((taken - other).abs().max())
        if not worst < allowed:
            raise UnsuitableBase(f"{type(base).__name__} {problem.format(worst)}")


def response_states(base: nn.Module, rollout: Rollout) -> Tensor:
    """What the model knew before each response token, ready for its output layer: (B, R, D).

    The one place that tells decoder-only models from encoder-decoder ones such as T5.
    """
    attention, width = rollout.attention_mask.long(), rollout.response_mask.shape[1]
    if not base.config.is_encoder_decoder:
        hidden = base.get_decoder()(
            input_ids=rollout.input_ids,
            attention_mask=attention,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),  # the same under any left padding
            use_cache=False,
        ).last_hidden_state  # (B, T, D)
        return hidden[:, -width - 1 : -1]
    prompt, seen = rollout.input_ids[:, :-width], attention[:, :-width]
    start = torch.full_like(prompt[:, :1], base.config.decoder_start_token_id)
    hidden = base.get_decoder()(
        input_ids=torch.cat([start, rollout.response_ids[:, :-1]], 1),
        encoder_hidden_states=base.get_encoder()(prompt, attention_mask=seen).last_hidden_state,
        encoder_attention_mask=seen,
        use_cache=False,
    ).last_hidden_state
    # T5's tied embeddings are large: its own forward scales what goes into the output layer.
    scaled = getattr(base.config, "scale_decoder_outputs", False)
    return hidden * base.config.d_model**-0.5 if scaled else hidden


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0: the ratio of old to new must be 1 before the first update."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Rates that a layer hands to a function: dropout, hidden_dropout, layerdrop, …
        for name in [name for name in vars(module) if "drop" in name.lower()]:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)
