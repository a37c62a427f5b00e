"""Policy and critic on one trunk: the one forward pass of PPO."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sawyer_utils import losses
from sawyer_utils.rollout import Rollout


class ActorCritic(nn.Module):
    """Policy and value head on one trunk. Every gradient path goes through ``forward``."""

    # Response tokens whose (…, V) logits exist at once: 25 MB here. What is larger than 32 MB, glibc
    # takes from the system each time anew, page by page.
    CHUNK = 128

    def __init__(self, model):
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.value_head = nn.Linear(model.config.hidden_size, 1, device=device)
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

        def head_of(part: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            logprobs = losses.log_softmax(head(part), temperature)  # (n, V)
            with torch.no_grad():  # of no use to a caller without gradients
                spread = losses.entropy(logprobs) if training else torch.zeros_like(target)
            return logprobs.gather(1, target.unsqueeze(1)).squeeze(1), spread.float()

        training = torch.is_grad_enabled()
        parts = [
            # Recomputed in the backward pass: (N, V) logits are never kept.
            checkpoint(head_of, part, target, use_reentrant=False)
            for part, target in zip(states.split(self.CHUNK), tokens.split(self.CHUNK), strict=True)
        ]
        with torch.autocast(states.device.type, enabled=False):
            seen = states.float()
            values = self.value_head(seen.detach() if detach_value else seen).squeeze(-1)

        def spread_out(flat: Tensor) -> Tensor:  # (N,) -> (B, R)
            return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

        logprobs, entropies = (spread_out(torch.cat(p)) for p in zip(*parts, strict=True))
        return logprobs, spread_out(values), entropies


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
        # A layer's own rate, and those that attention layers hand to a function.
        for name in ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
