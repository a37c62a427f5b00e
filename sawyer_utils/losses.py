"""The mathematics of the course as pure functions. Nothing but torch.

Letters: B batch, T tokens of a response, V vocabulary. ``mask`` is True on the tokens that count.
Everything is in nats and computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log π of every token at a sampling temperature, (…, V) in float32 from logits (…, V)."""
    logits = logits.float()
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log π(token | everything before it).

    Args:
        logits: (B, T, V); ``logits[:, t]`` predicts ``tokens[:, t]`` (already shifted).
        tokens: (B, T).
        temperature: the one the tokens were sampled with.

    Returns:
        (B, T) in float32.
    """
    return log_softmax(logits, temperature).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def entropy(logprobs: Tensor) -> Tensor:
    """Entropy of distributions given by their log-probabilities, (…) from (…, V)."""
    return -torch.linalg.vecdot(logprobs.exp(), logprobs)


# --- masks --------------------------------------------------------------------------------------


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` where ``mask`` is True; what lies elsewhere cannot matter, not even NaN.

    Raises:
        ValueError: if nothing is selected.
    """
    if not mask.any():
        raise ValueError("masked_mean: the mask selects nothing.")
    return x[mask].mean()


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale the masked entries to variance 1 (biased) and, if asked, mean 0; zeros elsewhere.

    With fewer than two entries there is no spread to scale by, and ``x`` comes back as it is.
    """
    values = x[mask]
    if values.numel() < 2:
        return torch.where(mask, x, 0.0)
    mean, variance = values.mean(), values.var(unbiased=False)
    scaled = (x - mean) * torch.rsqrt(variance + eps)
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0.0)


# --- KL divergence ------------------------------------------------------------------------------
# Estimators from samples of π, after http://joschu.net/blog/kl-approx.html


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log π − log π_ref: unbiased for KL(π ‖ π_ref), but negative on many single tokens."""
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(r − 1) − log r with r = π_ref/π: unbiased too, and never negative."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def adapted_kl_coef(kl_coef: float, kl: float, target: float, gain: float = 0.1) -> float:
    """β for the next step, so that the KL of a response (nats) moves towards ``target``.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: β ← β (1 + gain · e) with the relative
    error e cut at ±0.2.
    """
    error = (kl - target) / target
    return kl_coef * (1 + gain * max(-0.2, min(0.2, error)))


# --- rewards, advantages ------------------------------------------------------------------------


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """What each token is paid: −β·KL everywhere, plus the response's score on its last token.

    Ziegler et al. 2019 (arXiv 1909.08593), equation 2. The last token is the stop token, or the
    last sampled one of an unfinished response.

    Args:
        scores: (B,) from the reward function.
        kl: (B, T) per-token estimate (k1).
        mask: (B, T), True on the response up to and with its stop token.

    Returns:
        (B, T), zero outside the mask.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.to(rewards).unsqueeze(1))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, equation 16).

        δ_t = r_t + γ V_{t+1} − V_t          A_t = δ_t + γ λ A_{t+1}

    with V = 0 after the last token: the response is over, nothing is left to earn.

    Args:
        rewards, values, mask: (B, T). The mask of each row is one run of True from t = 0.

    Returns:
        (advantages, returns), both (B, T) and zero outside the mask; returns = advantages + values.
    """
    values = torch.where(mask, values, 0.0)
    rewards = torch.where(mask, rewards, 0.0)
    next_values = F.pad(values[:, 1:], (0, 1))
    deltas = rewards + gamma * next_values - values  # δ_t
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + gamma * lam * following  # A_t
        advantages[:, t] = following
    return advantages, advantages + values


def group_advantages(rewards: Tensor, mask: Tensor, size: int, scale: bool = False) -> Tensor:
    """What a response is still paid from each token on, less what the other answers to its prompt were paid.

    Leave-one-out (RLOO, Ahmadian et al. 2024, arXiv 2402.14740): the mean of the others does not hang on the
    answer itself, so it shifts no gradient in expectation. Answers that are all paid the same get exactly 0.

    Args:
        rewards, mask: (B, T); rows ``size`` by ``size`` are answers to one prompt.
        scale: divide by the standard deviation in the group (GRPO, Shao et al. 2024, arXiv 2402.03300). A
            group that almost agrees then counts as much as any other (Liu et al. 2025, arXiv 2503.20783).

    Returns:
        (B, T), zero outside the mask.

    Raises:
        ValueError: if the rows are no groups of at least two.
    """
    if size < 2 or len(rewards) % size:
        raise ValueError(f"{len(rewards)} answers are no groups of {size}.")
    to_come, _ = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    paid = to_come[:, 0].view(-1, size)  # in all
    better = (paid.unsqueeze(2) - paid.unsqueeze(1)).sum(2) / (size - 1)  # than the mean of the others
    before = to_come[:, :1] - to_come  # what is paid before a token is not this token's doing
    advantages = better.view(-1, 1) - before
    if scale:
        advantages = advantages / (paid.std(1).repeat_interleave(size).unsqueeze(1) + 1e-4)
    return torch.where(mask, advantages, 0.0)


# --- losses -------------------------------------------------------------------------------------


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """The clipped surrogate, negated, per token (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    −min(ρ A, clip(ρ, 1−ε, 1+ε) A)        ρ = π/π_old
    """
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """½ max((V − R)², (V_clipped − R)²) per token: the critic may not jump either."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(R − V)/Var(R): 1 is a perfect critic, 0 one that says nothing, below 0 a harmful one."""
    v, r = values[mask].float(), returns[mask].float()
    spread = r.var(unbiased=False)
    # Returns that are equal but for rounding have no variance to explain.
    return float(1 - (r - v).var(unbiased=False) / spread) if spread > 1e-8 else 0.0


def bradley_terry(difference: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """−log σ(difference − margin), the loss of a preference (Bradley & Terry 1952).

    Args:
        difference: score of the chosen response minus that of the rejected one.
        margin: how clearly the chosen one was better; asks for a larger difference.
    """
    return -F.logsigmoid(difference - margin)


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """−log σ(β (log π(c)/π_ref(c) − log π(r)/π_ref(r))) of each pair, (B,).

    Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7): Bradley and
    Terry's loss, with β log π/π_ref in the place of a reward model.

    Args:
        policy_chosen, policy_rejected, ref_chosen, ref_rejected: (B,), each the *sum* of a response's
            token log-probs in nats, not their mean.
        beta: the weight of the KL divergence in the objective whose optimum this loss seeks.
    """
    return bradley_terry(beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)))
