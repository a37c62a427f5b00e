"""The mathematics against exact answers.

Every check is a function that takes the implementation, so that it runs twice: on ours, where it
must pass, and on planted mistakes, where it must fail. A check that no mistake can fail is no check.
"""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from sawyer_utils import losses

# The four-token answer of notebook 03, sections 1 to 3.
LOGPROBS = tensor([[-0.5, -1.2, -0.3, -0.1]])
REF_LOGPROBS = tensor([[-0.7, -1.0, -0.9, -0.1]])
VALUES = tensor([[0.5, 0.55, 0.6, 0.8]])
WHOLE = torch.ones(1, 4, dtype=torch.bool)

# Next-token distributions over three symbols, far apart: near zero a wrong sign looks right.
P = (0.7, 0.2, 0.1)
Q = (0.1, 0.5, 0.4)


def close(found, expected, tolerance: float = 1e-5) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    found = torch.as_tensor(found, dtype=torch.float32)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance), f"{found} is not {expected}"


def ragged(seed: int, rows: int = 5, width: int = 9):
    """Random lengths from 1 to the width, both present, with a mask that is one run of True."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = 1, width
    mask = torch.arange(width) < lengths.unsqueeze(1)
    return mask, lambda: torch.randn(rows, width, generator=generator)


def spoilt(x: torch.Tensor, mask: torch.Tensor, rubbish: float) -> torch.Tensor:
    """The same numbers where the mask is True, and rubbish elsewhere."""
    return torch.where(mask, x, rubbish)


RUBBISH = (0.0, 1e9, math.inf, math.nan)


# --- log-probabilities --------------------------------------------------------------------------


def check_token_logprobs(token_logprobs):
    # By hand: the sampled symbol's own probability.
    logits = tensor([[P, Q]]).log()  # (1, 2, 3)
    close(token_logprobs(logits, tensor([[0, 2]])), [[math.log(P[0]), math.log(Q[2])]])
    # Unnormalised logits, with and without a temperature, against log_softmax.
    logits = 3 * torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    tokens = tensor([[0, 6, 3, 2], [5, 1, 1, 4]])
    for temperature in (1.0, 0.7, 2.0):
        expected = [
            [(logits[b, t] / temperature).log_softmax(-1)[tokens[b, t]] for t in range(4)] for b in range(2)
        ]
        close(token_logprobs(logits, tokens, temperature), expected)
    # Half-precision logits are computed in float32: in bf16 a log-prob is off by up to 4e-3 of itself.
    half = logits.bfloat16()
    exact = half.double().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    close(token_logprobs(half, tokens), exact.float())


def check_entropy(entropy):
    uniform = torch.full((1, 1, 3), -math.log(3))
    close(entropy(uniform), [[math.log(3)]])
    close(entropy(tensor([[P]]).log()), [[-sum(p * math.log(p) for p in P)]])


def check_log_softmax(log_softmax):
    close(log_softmax(tensor([[P]]).log() + 5.0).exp(), [[P]])  # a constant in the logits means nothing
    softer = [p**0.5 / sum(q**0.5 for q in P) for p in P]  # temperature 2 takes square roots
    close(log_softmax(tensor([[P]]).log(), 2.0).exp(), [[softer]])
    assert log_softmax(tensor([[P]]).log().bfloat16()).dtype == torch.float32


# --- masks --------------------------------------------------------------------------------------


def check_masked_mean(masked_mean):
    x = tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]])
    mask = tensor([[True, True, True], [True, False, False]])
    # A mean over tokens, 16 / 4, not a mean of the rows' means, (2 + 10) / 2.
    close(masked_mean(x, mask), 4.0)
    for rubbish in RUBBISH:
        inside = spoilt(x, mask, rubbish).requires_grad_()
        found = masked_mean(inside, mask)
        close(found, 4.0)
        found.backward()
        close(inside.grad, mask / 4)


def check_whiten(whiten):
    mask, draw = ragged(seed=1)
    x = 5 + 3 * draw()
    found = whiten(x, mask)
    close(found[mask].mean(), 0.0)
    close(found[mask].var(unbiased=False), 1.0)
    close(found, torch.where(mask, (x - x[mask].mean()) / x[mask].std(unbiased=False), 0.0))
    # Without the shift the mean stays: the sign of a reward means something.
    kept = whiten(x, mask, shift_mean=False)
    close(kept[mask].mean(), x[mask].mean(), 1e-4)
    close(kept[mask].var(unbiased=False), 1.0)
    assert not kept[~mask].any()
    for rubbish in RUBBISH:
        assert torch.equal(whiten(spoilt(x, mask, rubbish), mask), found)


def check_whiten_degenerate(whiten):
    # One token has no spread; equal tokens have none either. Neither may become NaN or a huge number.
    single = tensor([[True, False]])
    close(whiten(tensor([[3.0, math.nan]]), single), [[3.0, 0.0]])
    assert torch.isfinite(whiten(torch.full((2, 3), 7.0), torch.ones(2, 3, dtype=torch.bool))).all()


# --- KL -----------------------------------------------------------------------------------------


def exact_kl(p, q) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def expectation(estimator, p, q) -> float:
    """Σ_a p(a) · estimator(log p(a), log q(a)): no sampling, so no tolerance for luck."""
    return float(sum(a * estimator(tensor(math.log(a)), tensor(math.log(b))) for a, b in zip(p, q)))


def check_unbiased(estimator):
    for p, q in ((P, Q), (Q, P), (P, P)):
        close(expectation(estimator, p, q), exact_kl(p, q))


def check_k1(kl_k1):
    close(kl_k1(LOGPROBS, REF_LOGPROBS), [[0.2, -0.2, 0.6, 0.0]])
    check_unbiased(kl_k1)


def check_k1_of_sequences(kl_k1):
    # Two tokens, the second's distribution hanging on the first: the sum over the tokens is
    # unbiased for the KL of whole answers. All nine answers are enumerated.
    second = (P, Q, (1 / 3, 1 / 3, 1 / 3)), (Q, (0.6, 0.3, 0.1), P)
    whole = {(a, b): (P[a] * second[0][a][b], Q[a] * second[1][a][b]) for a in range(3) for b in range(3)}
    exact = sum(p * math.log(p / q) for p, q in whole.values())
    mean = 0.0
    for (a, b), (probability, _) in whole.items():
        own = tensor([P[a], second[0][a][b]]).log()
        ref = tensor([Q[a], second[1][a][b]]).log()
        mean += probability * float(kl_k1(own, ref).sum())
    close(mean, exact)


def check_k3(kl_k3):
    by_hand = [math.exp(-d) - 1 + d for d in (0.2, -0.2, 0.6, 0.0)]
    close(kl_k3(LOGPROBS, REF_LOGPROBS), [by_hand])
    check_unbiased(kl_k3)
    grid = torch.linspace(-4, 4, 81)
    assert (kl_k3(grid, torch.zeros(81)) >= 0).all()
    # exp(x) − 1 loses everything for tiny differences; the answer is x²/2.
    close(kl_k3(tensor([1e-4]), tensor([0.0])) * 1e8, [0.5], 1e-3)


def check_kl_exact(kl_exact):
    p, q = tensor([P, Q, P]).log(), tensor([Q, P, P]).log()
    expected = [exact_kl(P, Q), exact_kl(Q, P), 0.0]
    close(kl_exact(p, q), expected)
    close(kl_exact(p + 3.0, q - 8.0), expected)


# --- rewards and advantages ---------------------------------------------------------------------


def check_token_rewards(token_rewards):
    kl = LOGPROBS - REF_LOGPROBS
    close(token_rewards(tensor([1.0]), kl, WHOLE, 0.1), [[-0.02, 0.02, -0.06, 1.0]])
    # The last real token is paid the score, wherever the row ends.
    mask = tensor([[True, True, False, False], [True] * 4, [True, False, False, False]])
    kl = tensor([[0.5, 0.25, 9.0, 9.0], [0.1, 0.2, 0.3, 0.4], [1.0, 9.0, 9.0, 9.0]])
    scores = tensor([2.0, -1.0, 3.0])
    expected = [[-0.05, 1.975, 0, 0], [-0.01, -0.02, -0.03, -1.04], [2.9, 0, 0, 0]]
    close(token_rewards(scores, kl, mask, 0.1), expected)
    for rubbish in RUBBISH:
        close(token_rewards(scores, spoilt(kl, mask, rubbish), mask, 0.1), expected)


def check_token_rewards_sum(token_rewards):
    # Nothing is lost or invented: a response earns its score minus β times its whole KL.
    for seed in range(3):
        mask, draw = ragged(seed)
        kl, scores = draw(), draw()[:, 0]
        found = token_rewards(scores, kl, mask, 0.3)
        close(found.sum(1), scores - 0.3 * (kl * mask).sum(1), 1e-4)
        assert not found[~mask].any()
        assert not found.requires_grad


def slow_gae(rewards, values, mask, gamma, lam):
    """A_t = Σ_l (γλ)^(l−t) δ_l by two loops over plain numbers, one row at a time."""
    rows, width = rewards.shape
    advantages = torch.zeros(rows, width)
    for b in range(rows):
        n = int(mask[b].sum())
        r, v = rewards[b, :n].tolist(), [*values[b, :n].tolist(), 0.0]  # nothing to earn after the end
        for t in range(n):
            advantages[b, t] = sum(
                (gamma * lam) ** (s - t) * (r[s] + gamma * v[s + 1] - v[s]) for s in range(t, n)
            )
    return advantages


def check_gae_by_hand(gae):
    rewards = tensor([[-0.02, 0.02, -0.06, 1.0]])
    advantages, returns = gae(rewards, VALUES, WHOLE, 1.0, 0.95)
    close(advantages, [[0.3943, 0.3835, 0.3300, 0.2000]], 1e-4)
    close(returns, [[0.8943, 0.9335, 0.9300, 1.0000]], 1e-4)
    close(gae(rewards, VALUES, WHOLE, 1.0, 0.0)[0], [[0.03, 0.07, 0.14, 0.2]])


def check_gae_slow(gae):
    for seed, (gamma, lam) in enumerate([(1.0, 0.95), (0.9, 0.8), (0.5, 1.0), (1.0, 0.0)]):
        mask, draw = ragged(seed)
        rewards, values = draw(), draw()
        advantages, returns = gae(rewards, values, mask, gamma, lam)
        expected = slow_gae(rewards, values, mask, gamma, lam)
        close(advantages, expected, 1e-4)
        # Before any whitening: the critic is to predict returns, not standardised ones.
        close(returns, torch.where(mask, expected + values, 0.0), 1e-4)


def check_gae_ends(gae):
    mask, draw = ragged(seed=7)
    rewards, values = draw(), draw()
    # λ = 1: the return is what is really earned from here on, whatever the critic says.
    _, returns = gae(rewards, values, mask, 0.9, 1.0)
    for b, t in mask.nonzero().tolist():
        n = int(mask[b].sum())
        close(returns[b, t], sum(0.9 ** (s - t) * rewards[b, s] for s in range(t, n)), 1e-4)
    # λ = 0: the one-step TD error.
    advantages, _ = gae(rewards, values, mask, 0.9, 0.0)
    for b, t in mask.nonzero().tolist():
        following = values[b, t + 1] if t + 1 < int(mask[b].sum()) else 0.0
        close(advantages[b, t], rewards[b, t] + 0.9 * following - values[b, t], 1e-4)


def check_gae_mask(gae):
    mask, draw = ragged(seed=3)
    rewards, values = draw(), draw()
    clean = gae(spoilt(rewards, mask, 0.0), spoilt(values, mask, 0.0), mask)
    for rubbish in RUBBISH:
        found = gae(spoilt(rewards, mask, rubbish), spoilt(values, mask, rubbish), mask)
        assert torch.equal(found[0], clean[0])
        assert torch.equal(found[1], clean[1])
    assert not clean[0][~mask].any()
    assert not clean[1][~mask].any()
    # A row's answer does not depend on how far the batch was padded, nor on its neighbours.
    for b in range(len(mask)):
        n = int(mask[b].sum())
        alone = gae(rewards[b : b + 1, :n], values[b : b + 1, :n], mask[b : b + 1, :n])
        close(alone[0][0], clean[0][b, :n])


# Two groups of two answers, of one to four tokens; a token costs something, the last one pays the score.
PAY = tensor([[-0.1, 2.0, 9.0, 9.0], [1.0, 9.0, 9.0, 9.0], [-0.2, -0.3, 0.1, 3.0], [0.5, -1.0, 9.0, 9.0]])
PAID_TOKENS = tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()


def check_groups_by_hand(group_advantages):
    # In all 1.9 and 1.0; 2.6 and -0.5. What is still to come, less what the other was paid.
    expected = [[0.9, 1.0, 0, 0], [-0.9, 0, 0, 0], [3.1, 3.3, 3.6, 3.5], [-3.1, -3.6, 0, 0]]
    close(group_advantages(PAY, PAID_TOKENS, 2), expected)
    # The standard deviations of two are their distances over the root of two.
    spreads = [0.9 / 2**0.5 + 1e-4] * 2 + [3.1 / 2**0.5 + 1e-4] * 2
    close(group_advantages(PAY, PAID_TOKENS, 2, scale=True), tensor(expected) / tensor(spreads).unsqueeze(1))


def check_groups_of_three(group_advantages):
    paid = tensor([[1.0], [2.0], [6.0], [0.3], [0.3], [0.3]])
    found = group_advantages(paid, torch.ones(6, 1, dtype=torch.bool), 3)
    close(found[:3], [[-3.0], [-1.5], [4.5]])
    assert (found[3:] == 0.0).all(), "a group that agrees has exactly 0"


# --- losses -------------------------------------------------------------------------------------

RATIOS = (0.5, 1.0, 1.5)


def check_policy_loss(policy_loss):
    # (advantage, ratio) -> surrogate with clip 0.2: the minimum of both branches, so the cautious one.
    surrogate = {
        (1, 0.5): 0.5,
        (1, 1.0): 1.0,
        (1, 1.5): 1.2,
        (-1, 0.5): -0.8,
        (-1, 1.0): -1.0,
        (-1, 1.5): -1.5,
    }
    for (advantage, ratio), expected in surrogate.items():
        # An old log-prob other than 0, so that the ratio is really a ratio.
        logprobs = tensor([[math.log(ratio) - 0.7]])
        close(policy_loss(logprobs, tensor([[-0.7]]), tensor([[float(advantage)]]), 0.2), [[-expected]])


def check_policy_gradient(policy_loss):
    for advantage, ratio in itertools.product((1.0, -1.0), RATIOS):
        logprobs = tensor([[math.log(ratio)]], requires_grad=True)
        policy_loss(logprobs, torch.zeros(1, 1), tensor([[advantage]]), 0.2).sum().backward()
        # Where the step already went far enough in the wanted direction, nothing pushes further.
        far_enough = (advantage, ratio) in {(1.0, 1.5), (-1.0, 0.5)}
        close(logprobs.grad, [[0.0 if far_enough else -advantage * ratio]])


def check_value_loss(value_loss):
    def one(v, old, target):
        return value_loss(tensor([v]), tensor([old]), tensor([target]), 0.2)

    close(one(1.0, 0.5, 2.0), [0.5 * (0.7 - 2.0) ** 2])  # jumped towards the target: clipped at 0.7
    close(one(1.0, 0.5, 0.0), [0.5 * 1.0**2])  # jumped away from it: pays in full
    close(one(0.6, 0.5, 2.0), [0.5 * 1.4**2])  # a small step is not clipped
    close(one(0.0, 0.5, -1.0), [0.5 * (0.3 + 1.0) ** 2])  # downwards too


def check_value_gradient(value_loss):
    for v, target, expected in ((1.0, 2.0, 0.0), (1.0, 0.0, 1.0), (0.6, 2.0, -1.4), (0.0, -1.0, 0.0)):
        value = tensor([v], requires_grad=True)
        value_loss(value, tensor([0.5]), tensor([target]), 0.2).sum().backward()
        close(value.grad, [expected])


def check_bradley_terry(bradley_terry):
    # Notebook 02, sections 1 and 2: scores 1.2 and 0.3, then with a margin of 1.
    close(bradley_terry(tensor(1.2 - 0.3)), 0.341, 1e-3)
    close(bradley_terry(tensor(0.9)).neg().exp(), 0.711, 1e-3)
    close(bradley_terry(tensor(0.9), tensor(1.0)), 0.744, 1e-3)
    for difference, margin in itertools.product((-2.0, -0.5, 0.0, 0.9, 3.0), (0.0, 1.0, 3.0)):
        close(bradley_terry(tensor(difference), margin), math.log1p(math.exp(margin - difference)))
    # Only differences mean anything: the same constant on both scores changes nothing.
    chosen, rejected = tensor([1.2, -0.4]), tensor([0.3, 2.0])
    close(bradley_terry((chosen + 5) - (rejected + 5)), bradley_terry(chosen - rejected))
    # A hopeless pair costs its distance; a sure one nothing. Neither overflows.
    close(bradley_terry(tensor([-1000.0, 1000.0])), [1000.0, 0.0])


def check_dpo_loss(dpo_loss):
    # Notebook 05, section 1: the policy has moved 0.7 nats towards the chosen and 0.5 away from the other.
    numbers = [tensor([x]) for x in (-4.3, -6.5, -5.0, -6.0)]
    close(dpo_loss(*numbers, beta=0.5), [math.log1p(math.exp(-0.5 * 1.2))])
    # At the start policy and reference are one: log 2, whatever β.
    draw = torch.Generator().manual_seed(0)
    chosen, rejected, other, another = (-20 * torch.rand(6, generator=draw) for _ in range(4))
    for beta in (0.01, 0.1, 1.0):
        close(dpo_loss(chosen, rejected, chosen, rejected, beta=beta), [math.log(2)] * 6)
        # By the definition, without a logarithm of a sigmoid: Bradley and Terry's chance of the chosen one,
        # with the implicit rewards β log π/π_ref.
        rewards = [beta * (chosen - other), beta * (rejected - another)]
        chance = rewards[0].exp() / (rewards[0].exp() + rewards[1].exp())
        close(dpo_loss(chosen, rejected, other, another, beta=beta), -chance.log(), 1e-4)
    # What the prompt's own likelihood adds to both of the policy's log-probs does not matter.
    shifted = dpo_loss(chosen - 3, rejected - 3, other, another, beta=0.1)
    close(shifted, dpo_loss(chosen, rejected, other, another, beta=0.1), 1e-4)
    # The gradient pushes the chosen one up and the rejected one down by the same amount, β σ(−margin).
    chosen, rejected = tensor([-4.0], requires_grad=True), tensor([-5.0], requires_grad=True)
    dpo_loss(chosen, rejected, tensor([-4.5]), tensor([-4.0]), beta=0.2).sum().backward()
    pull = 0.2 / (1 + math.exp(0.2 * (0.5 + 1.0)))
    close(chosen.grad, [-pull])
    close(rejected.grad, [pull])


def check_explained_variance(explained_variance):
    mask, draw = ragged(seed=5)
    returns = draw()
    close(explained_variance(returns, returns, mask), 1.0)
    close(explained_variance(torch.full_like(returns, 4.2), returns, mask), 0.0)
    close(explained_variance(-returns, returns, mask), -3.0)  # Var(2R) = 4 Var(R)
    close(explained_variance(returns / 2, returns, mask), 0.75)
    close(explained_variance(spoilt(returns, mask, math.nan), returns, mask), 1.0)
    # Returns without spread leave nothing to explain.
    close(explained_variance(returns, torch.ones_like(returns), mask), 0.0)


CHECKS = {
    check_token_logprobs: losses.token_logprobs,
    check_entropy: losses.entropy,
    check_log_softmax: losses.log_softmax,
    check_masked_mean: losses.masked_mean,
    check_whiten: losses.whiten,
    check_whiten_degenerate: losses.whiten,
    check_k1: losses.kl_k1,
    check_k1_of_sequences: losses.kl_k1,
    check_k3: losses.kl_k3,
    check_kl_exact: losses.kl_exact,
    check_token_rewards: losses.token_rewards,
    check_token_rewards_sum: losses.token_rewards,
    check_gae_by_hand: losses.gae,
    check_gae_slow: losses.gae,
    check_gae_ends: losses.gae,
    check_gae_mask: losses.gae,
    check_groups_by_hand: losses.group_advantages,
    check_groups_of_three: losses.group_advantages,
    check_policy_loss: losses.policy_loss,
    check_policy_gradient: losses.policy_loss,
    check_value_loss: losses.value_loss,
    check_value_gradient: losses.value_loss,
    check_bradley_terry: losses.bradley_terry,
    check_dpo_loss: losses.dpo_loss,
    check_explained_variance: losses.explained_variance,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_it_is_right(check):
    check(CHECKS[check])


# --- planted mistakes ---------------------------------------------------------------------------


def _gae_with(rewards, values, mask, gamma, lam, next_values, carry=True, backwards=True):
    """GAE with its parts exposed, so that each mistake below is one changed argument."""
    deltas = rewards + gamma * next_values - values
    advantages, following = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    steps = range(deltas.shape[1])
    for t in reversed(steps) if backwards else steps:
        following = deltas[:, t] + (gamma * lam * following if carry else 0.0)
        advantages[:, t] = following
    return torch.where(mask, advantages, 0.0), torch.where(mask, advantages + values, 0.0)


def _masked(x, mask):
    return torch.where(mask, x, 0.0)


def _following(values):
    return F.pad(values[:, 1:], (0, 1))


def gae_without_mask(rewards, values, mask, gamma=1.0, lam=0.95):
    return _gae_with(rewards, values, mask, gamma, lam, _following(values))


def gae_bootstraps_across_the_end(rewards, values, mask, gamma=1.0, lam=0.95):
    # The state after the stop token is given a value, although nothing is left to earn there.
    return _gae_with(_masked(rewards, mask), _masked(values, mask), mask, gamma, lam, _following(values))


def gae_bootstraps_from_the_last_value(rewards, values, mask, gamma=1.0, lam=0.95):
    values = _masked(values, mask)
    last = values.gather(1, mask.sum(1, keepdim=True) - 1)
    return _gae_with(_masked(rewards, mask), values, mask, gamma, lam, torch.cat([values[:, 1:], last], 1))


def gae_shifted_by_one(rewards, values, mask, gamma=1.0, lam=0.95):
    values = _masked(values, mask)
    return _gae_with(_masked(rewards, mask), values, mask, gamma, lam, values)


def gae_forgets_lambda(rewards, values, mask, gamma=1.0, lam=0.95):
    values = _masked(values, mask)
    return _gae_with(_masked(rewards, mask), values, mask, gamma, 1.0, _following(values))


def gae_forwards_in_time(rewards, values, mask, gamma=1.0, lam=0.95):
    values = _masked(values, mask)
    return _gae_with(_masked(rewards, mask), values, mask, gamma, lam, _following(values), backwards=False)


def gae_forgets_gamma_in_the_sum(rewards, values, mask, gamma=1.0, lam=0.95):
    values, rewards = _masked(values, mask), _masked(rewards, mask)
    deltas = rewards + gamma * _following(values) - values
    advantages, following = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + lam * following
        advantages[:, t] = following
    return advantages, advantages + values


def _groups_with(rewards, mask, size, baseline, scale=1.0):
    to_come, _ = losses.gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    paid = to_come[:, 0].view(-1, size)
    return _masked((to_come - baseline(paid).reshape(-1, 1)) / scale, mask)


def group_with_its_own_mean(rewards, mask, size, scale=False):
    return _groups_with(rewards, mask, size, lambda paid: paid.mean(1, keepdim=True).expand_as(paid))


def group_of_the_whole_batch(rewards, mask, size, scale=False):
    return _groups_with(rewards, mask, size, lambda paid: (paid.sum() - paid) / (paid.numel() - 1))


def group_of_every_other_row(rewards, mask, size, scale=False):
    groups = len(rewards) // size
    order = torch.arange(len(rewards)).view(size, groups).T.flatten()
    back = order.argsort()
    return losses.group_advantages(rewards[order], mask[order], size)[back]


def group_pays_the_past(rewards, mask, size, scale=False):
    right = losses.group_advantages(rewards, mask, size)
    return _masked(right[:, :1].expand_as(right), mask)


def group_reads_padding(rewards, mask, size, scale=False):
    return _masked(losses.group_advantages(rewards, torch.ones_like(mask), size), mask)


def gae_whitens_before_the_returns(rewards, values, mask, gamma=1.0, lam=0.95):
    advantages, _ = losses.gae(rewards, values, mask, gamma, lam)
    advantages = losses.whiten(advantages, mask)
    return advantages, advantages + _masked(values, mask)


def gae_returns_from_whitened_advantages(rewards, values, mask, gamma=1.0, lam=0.95):
    advantages, _ = losses.gae(rewards, values, mask, gamma, lam)
    return advantages, losses.whiten(advantages, mask) + _masked(values, mask)


def rewards_with_the_kl_paid(scores, kl, mask, kl_coef):
    return losses.token_rewards(scores, -kl, mask, kl_coef)


def rewards_without_mask(scores, kl, mask, kl_coef):
    return (-kl_coef * kl).scatter_add(1, mask.sum(1, keepdim=True) - 1, scores.unsqueeze(1))


def _score_at(index, scores, kl, mask, kl_coef):
    return torch.where(mask, -kl_coef * kl, 0.0).scatter_add(1, index, scores.unsqueeze(1))


def rewards_score_in_the_last_column(scores, kl, mask, kl_coef):
    return _score_at(torch.full((len(kl), 1), kl.shape[1] - 1), scores, kl, mask, kl_coef)


def rewards_score_one_too_early(scores, kl, mask, kl_coef):
    return _score_at((mask.sum(1, keepdim=True) - 2).clamp(min=0), scores, kl, mask, kl_coef)


def rewards_score_on_every_token(scores, kl, mask, kl_coef):
    return torch.where(mask, scores.unsqueeze(1) - kl_coef * kl, 0.0)


def rewards_score_times_beta(scores, kl, mask, kl_coef):
    return losses.token_rewards(kl_coef * scores, kl, mask, kl_coef)


def _surrogates(logprobs, old_logprobs, advantages, clip):
    ratio = (logprobs - old_logprobs).exp()
    return ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages


def policy_loss_of_the_bolder_branch(logprobs, old_logprobs, advantages, clip=0.2):
    return -torch.maximum(*_surrogates(logprobs, old_logprobs, advantages, clip))


def policy_loss_always_clipped(logprobs, old_logprobs, advantages, clip=0.2):
    return -_surrogates(logprobs, old_logprobs, advantages, clip)[1]


def policy_loss_never_clipped(logprobs, old_logprobs, advantages, clip=0.2):
    return -_surrogates(logprobs, old_logprobs, advantages, clip)[0]


def policy_loss_clipped_above_only(logprobs, old_logprobs, advantages, clip=0.2):
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(max=1 + clip) * advantages)


def policy_loss_not_negated(logprobs, old_logprobs, advantages, clip=0.2):
    return -losses.policy_loss(logprobs, old_logprobs, advantages, clip)


def policy_loss_with_the_ratio_upside_down(logprobs, old_logprobs, advantages, clip=0.2):
    return losses.policy_loss(old_logprobs, logprobs, advantages, clip)


def policy_loss_with_a_detached_ratio(logprobs, old_logprobs, advantages, clip=0.2):
    return losses.policy_loss(logprobs.detach(), old_logprobs, advantages, clip) + 0 * logprobs


def value_loss_of_the_smaller_branch(values, old_values, returns, clip=0.2):
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.minimum((values - returns) ** 2, (clipped - returns) ** 2)


def value_loss_never_clipped(values, old_values, returns, clip=0.2):
    return 0.5 * (values - returns) ** 2


def value_loss_without_the_half(values, old_values, returns, clip=0.2):
    return 2 * losses.value_loss(values, old_values, returns, clip)


def value_loss_clipped_around_the_target(values, old_values, returns, clip=0.2):
    return 0.5 * (values - returns).clamp(-clip, clip) ** 2


def logprobs_of_the_token_before(logits, tokens, temperature=1.0):
    return losses.token_logprobs(logits.roll(1, dims=1), tokens, temperature)


def logprobs_without_temperature(logits, tokens, temperature=1.0):
    return losses.token_logprobs(logits, tokens)


def logprobs_with_temperature_multiplied(logits, tokens, temperature=1.0):
    return losses.token_logprobs(logits, tokens, 1 / temperature)


def logprobs_in_half_precision(logits, tokens, temperature=1.0):
    return (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def whiten_without_mask(x, mask, shift_mean=True, eps=1e-8):
    return losses.whiten(x, torch.ones_like(mask), shift_mean) * mask


def whiten_with_the_unbiased_variance(x, mask, shift_mean=True, eps=1e-8):
    n = int(mask.sum())
    return losses.whiten(x, mask, shift_mean) * math.sqrt((n - 1) / n)


def whiten_divides_by_the_variance(x, mask, shift_mean=True, eps=1e-8):
    return losses.whiten(x, mask, shift_mean) / x[mask].std(unbiased=False)


def whiten_a_single_token_to_nan(x, mask, shift_mean=True, eps=1e-8):
    values = x[mask]
    variance = ((values - values.mean()) ** 2).sum() / (values.numel() - 1)  # 0 / 0
    return torch.where(mask, (x - values.mean()) * torch.rsqrt(variance + eps), 0.0)


MISTAKES = [
    (check_k1, "the wrong sign", lambda lp, ref: ref - lp),
    (check_k1_of_sequences, "the wrong sign", lambda lp, ref: ref - lp),
    (check_k1, "the absolute value, no longer unbiased", lambda lp, ref: (lp - ref).abs()),
    (check_k1, "k2, which is biased", lambda lp, ref: (lp - ref) ** 2 / 2),
    (check_k3, "the ratio upside down", lambda lp, ref: losses.kl_k3(ref, lp)),
    (check_k3, "k1 in its place", losses.kl_k1),
    (check_k3, "the minus one forgotten", lambda lp, ref: (ref - lp).exp() - (ref - lp)),
    (check_k3, "exp minus one", lambda lp, ref: (ref - lp).exp() - 1 - (ref - lp)),
    (check_kl_exact, "the two models swapped", lambda p, q: losses.kl_exact(q, p)),
    (check_kl_exact, "raw logits", lambda p, q: (p.softmax(-1) * (p - q)).sum(-1)),
    (check_entropy, "the wrong sign", lambda x: -losses.entropy(x)),
    (check_entropy, "not weighted", lambda x: -x.mean(-1)),
    (check_log_softmax, "no temperature", lambda x, t=1.0: losses.log_softmax(x)),
    (check_log_softmax, "the temperature multiplied", lambda x, t=1.0: losses.log_softmax(x, 1 / t)),
    (check_log_softmax, "half precision", lambda x, t=1.0: (x / t).log_softmax(-1)),
    (check_token_logprobs, "shifted by one", logprobs_of_the_token_before),
    (check_token_logprobs, "no temperature", logprobs_without_temperature),
    (check_token_logprobs, "the temperature multiplied", logprobs_with_temperature_multiplied),
    (check_token_logprobs, "half precision", logprobs_in_half_precision),
    (check_masked_mean, "no mask", lambda x, mask: x.mean()),
    (check_masked_mean, "the mask multiplied", lambda x, mask: (x * mask).sum() / mask.sum()),
    (check_masked_mean, "divided by everything", lambda x, mask: torch.where(mask, x, 0.0).mean()),
    (
        check_masked_mean,
        "a mean of means",
        lambda x, mask: (torch.where(mask, x, 0.0).sum(1) / mask.sum(1)).mean(),
    ),
    (check_whiten, "no mask", whiten_without_mask),
    (check_whiten, "the unbiased variance", whiten_with_the_unbiased_variance),
    (check_whiten, "the variance, not its root", whiten_divides_by_the_variance),
    (check_whiten, "the mean kept", lambda x, mask, shift_mean=True: losses.whiten(x, mask, False)),
    (check_whiten, "the mean always removed", lambda x, mask, shift_mean=True: losses.whiten(x, mask)),
    (check_whiten_degenerate, "NaN of one token", whiten_a_single_token_to_nan),
    (check_token_rewards, "the KL paid, not charged", rewards_with_the_kl_paid),
    (check_token_rewards_sum, "the KL paid, not charged", rewards_with_the_kl_paid),
    (check_token_rewards, "no mask", rewards_without_mask),
    (check_token_rewards_sum, "no mask", rewards_without_mask),
    (check_token_rewards, "the score in the last column", rewards_score_in_the_last_column),
    (check_token_rewards_sum, "the score in the last column", rewards_score_in_the_last_column),
    (check_token_rewards, "the score one token early", rewards_score_one_too_early),
    (check_token_rewards_sum, "the score on every token", rewards_score_on_every_token),
    (check_token_rewards_sum, "the score times beta", rewards_score_times_beta),
    (check_gae_slow, "no mask", gae_without_mask),
    (check_gae_mask, "no mask", gae_without_mask),
    (check_gae_slow, "bootstrap across the end", gae_bootstraps_across_the_end),
    (check_gae_ends, "bootstrap across the end", gae_bootstraps_across_the_end),
    (check_gae_mask, "bootstrap across the end", gae_bootstraps_across_the_end),
    (check_gae_by_hand, "bootstrap from the last value", gae_bootstraps_from_the_last_value),
    (check_gae_slow, "bootstrap from the last value", gae_bootstraps_from_the_last_value),
    (check_gae_by_hand, "shifted by one", gae_shifted_by_one),
    (check_gae_slow, "shifted by one", gae_shifted_by_one),
    (check_gae_ends, "shifted by one", gae_shifted_by_one),
    (check_gae_by_hand, "lambda forgotten", gae_forgets_lambda),
    (check_gae_slow, "gamma forgotten", gae_forgets_gamma_in_the_sum),
    (check_gae_ends, "gamma forgotten", gae_forgets_gamma_in_the_sum),
    (check_gae_slow, "forwards in time", gae_forwards_in_time),
    (check_gae_slow, "whitened before the returns", gae_whitens_before_the_returns),
    (check_gae_by_hand, "whitened before the returns", gae_whitens_before_the_returns),
    (check_gae_slow, "returns from whitened advantages", gae_returns_from_whitened_advantages),
    (check_groups_by_hand, "its own mean", group_with_its_own_mean),
    (check_groups_of_three, "its own mean", group_with_its_own_mean),
    (check_groups_by_hand, "the whole batch", group_of_the_whole_batch),
    (check_groups_by_hand, "every other row", group_of_every_other_row),
    (check_groups_by_hand, "the past is paid", group_pays_the_past),
    (check_groups_by_hand, "padding is paid", group_reads_padding),
    (check_policy_loss, "the bolder branch", policy_loss_of_the_bolder_branch),
    (check_policy_gradient, "the bolder branch", policy_loss_of_the_bolder_branch),
    (check_policy_loss, "always clipped", policy_loss_always_clipped),
    (check_policy_gradient, "always clipped", policy_loss_always_clipped),
    (check_policy_loss, "never clipped", policy_loss_never_clipped),
    (check_policy_gradient, "never clipped", policy_loss_never_clipped),
    (check_policy_loss, "clipped above only", policy_loss_clipped_above_only),
    (check_policy_loss, "not negated", policy_loss_not_negated),
    (check_policy_loss, "the ratio upside down", policy_loss_with_the_ratio_upside_down),
    (check_policy_gradient, "a detached ratio", policy_loss_with_a_detached_ratio),
    (check_value_loss, "the smaller branch", value_loss_of_the_smaller_branch),
    (check_value_loss, "never clipped", value_loss_never_clipped),
    (check_value_gradient, "never clipped", value_loss_never_clipped),
    (check_value_loss, "no half", value_loss_without_the_half),
    (check_value_loss, "clipped around the target", value_loss_clipped_around_the_target),
    (check_bradley_terry, "chosen and rejected swapped", lambda d, m=0.0: losses.bradley_terry(-d, m)),
    (check_bradley_terry, "the margin given away", lambda d, m=0.0: losses.bradley_terry(d, -m)),
    (check_bradley_terry, "no logarithm", lambda d, m=0.0: 1 - torch.sigmoid(d - m)),
    (check_bradley_terry, "log of a sigmoid, infinite", lambda d, m=0.0: -torch.sigmoid(d - m).log()),
    (
        check_dpo_loss,
        "chosen and rejected swapped",
        lambda c, r, rc, rr, beta: losses.dpo_loss(r, c, rr, rc, beta),
    ),
    (check_dpo_loss, "no reference", lambda c, r, rc, rr, beta: losses.bradley_terry(beta * (c - r))),
    (
        check_dpo_loss,
        "the references swapped",
        lambda c, r, rc, rr, beta: losses.dpo_loss(c, r, rr, rc, beta),
    ),
    (check_dpo_loss, "β divides", lambda c, r, rc, rr, beta: losses.dpo_loss(c, r, rc, rr, 1 / beta)),
    (
        check_dpo_loss,
        "the chosen one alone",
        lambda c, r, rc, rr, beta: losses.bradley_terry(beta * (c - rc)),
    ),
    (
        check_explained_variance,
        "no mask",
        lambda v, r, mask: losses.explained_variance(v, r, torch.ones_like(mask)),
    ),
    (check_explained_variance, "swapped", lambda v, r, mask: losses.explained_variance(r, v, mask)),
]


@pytest.mark.parametrize(
    ("check", "mistake", "wrong"),
    MISTAKES,
    ids=[f"{check.__name__.removeprefix('check_')}-{mistake}" for check, mistake, _ in MISTAKES],
)
def test_a_planted_mistake_is_caught(check, mistake, wrong):
    check(CHECKS[check])  # or a check that is broken itself would seem to catch everything
    with pytest.raises(AssertionError):
        check(wrong)


def test_every_check_catches_a_mistake():
    assert {check for check, _, _ in MISTAKES} == set(CHECKS)


# --- what must be refused, and the same answers for random shapes -------------------------------


def test_an_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="selects nothing"):
        losses.masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))


def test_a_response_without_tokens_has_nowhere_to_put_its_score():
    with pytest.raises((RuntimeError, IndexError)):
        losses.token_rewards(torch.ones(1), torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool), 0.1)


@pytest.mark.parametrize(("rows", "size"), [(6, 4), (4, 1)])
def test_rows_that_are_no_groups_are_refused(rows, size):
    with pytest.raises(ValueError, match=f"no groups of {size}"):
        losses.group_advantages(torch.ones(rows, 2), torch.ones(rows, 2, dtype=torch.bool), size)


def test_sampled_kl_agrees_with_the_exact_sum():
    # The same as the enumeration, seen the way PPO sees it: tokens drawn from the policy.
    draws = random.Random(0).choices(range(3), P, k=20_000)
    own, ref = tensor(P).log()[draws], tensor(Q).log()[draws]
    for estimator in (losses.kl_k1, losses.kl_k3):
        estimates = estimator(own, ref)
        error = float(estimates.std()) / math.sqrt(len(draws))
        assert abs(float(estimates.mean()) - exact_kl(P, Q)) < 4 * error


def test_the_first_step_of_ppo_is_the_plain_policy_gradient():
    # At ratio 1 nothing is clipped: the gradient is that of −A log π (REINFORCE).
    _, draw = ragged(seed=2)
    logprobs = draw().requires_grad_()
    advantages = draw()
    losses.policy_loss(logprobs, logprobs.detach(), advantages).sum().backward()
    close(logprobs.grad, -advantages)
