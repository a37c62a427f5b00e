"""The mathematics against exact answers.

The mistakes that these tests have to see are in ``benchmarks/planted_mistakes.jsonl``.
"""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
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


def test_a_log_prob_is_the_sampled_tokens_own_in_float32():
    # By hand: the sampled symbol's own probability.
    logits = tensor([[P, Q]]).log()  # (1, 2, 3)
    close(losses.token_logprobs(logits, tensor([[0, 2]])), [[math.log(P[0]), math.log(Q[2])]])
    # Unnormalised logits, with and without a temperature, against log_softmax.
    logits = 3 * torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    tokens = tensor([[0, 6, 3, 2], [5, 1, 1, 4]])
    for temperature in (1.0, 0.7, 2.0):
        expected = [
            [(logits[b, t] / temperature).log_softmax(-1)[tokens[b, t]] for t in range(4)] for b in range(2)
        ]
        close(losses.token_logprobs(logits, tokens, temperature), expected)
    # Half-precision logits are computed in float32: in bf16 a log-prob is off by up to 4e-3 of itself.
    half = logits.bfloat16()
    exact = half.double().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    close(losses.token_logprobs(half, tokens), exact.float())


def test_entropy_by_hand():
    uniform = torch.full((1, 1, 3), -math.log(3))
    close(losses.entropy(uniform), [[math.log(3)]])
    close(losses.entropy(tensor([[P]]).log()), [[-sum(p * math.log(p) for p in P)]])


def test_log_softmax_takes_a_temperature_and_is_float32():
    close(
        losses.log_softmax(tensor([[P]]).log() + 5.0).exp(), [[P]]
    )  # a constant in the logits means nothing
    softer = [p**0.5 / sum(q**0.5 for q in P) for p in P]  # temperature 2 takes square roots
    close(losses.log_softmax(tensor([[P]]).log(), 2.0).exp(), [[softer]])
    assert losses.log_softmax(tensor([[P]]).log().bfloat16()).dtype == torch.float32


# --- masks --------------------------------------------------------------------------------------


def test_a_masked_mean_is_over_tokens_whatever_stands_outside():
    x = tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]])
    mask = tensor([[True, True, True], [True, False, False]])
    # A mean over tokens, 16 / 4, not a mean of the rows' means, (2 + 10) / 2.
    close(losses.masked_mean(x, mask), 4.0)
    for rubbish in RUBBISH:
        inside = spoilt(x, mask, rubbish).requires_grad_()
        found = losses.masked_mean(inside, mask)
        close(found, 4.0)
        found.backward()
        close(inside.grad, mask / 4)


def test_whitening_gives_mean_0_and_variance_1_inside_the_mask():
    mask, draw = ragged(seed=1)
    x = 5 + 3 * draw()
    found = losses.whiten(x, mask)
    close(found[mask].mean(), 0.0)
    close(found[mask].var(unbiased=False), 1.0)
    close(found, torch.where(mask, (x - x[mask].mean()) / x[mask].std(unbiased=False), 0.0))
    # Without the shift the mean stays: the sign of a reward means something.
    kept = losses.whiten(x, mask, shift_mean=False)
    close(kept[mask].mean(), x[mask].mean(), 1e-4)
    close(kept[mask].var(unbiased=False), 1.0)
    assert not kept[~mask].any()
    for rubbish in RUBBISH:
        assert torch.equal(losses.whiten(spoilt(x, mask, rubbish), mask), found)


def test_what_has_no_spread_is_whitened_to_a_number():
    # One token has no spread; equal tokens have none either. Neither may become NaN or a huge number.
    single = tensor([[True, False]])
    close(losses.whiten(tensor([[3.0, math.nan]]), single), [[3.0, 0.0]])
    assert torch.isfinite(losses.whiten(torch.full((2, 3), 7.0), torch.ones(2, 3, dtype=torch.bool))).all()


# --- KL -----------------------------------------------------------------------------------------


def exact_kl(p, q) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def expectation(estimator, p, q) -> float:
    """Σ_a p(a) · estimator(log p(a), log q(a)): no sampling, so no tolerance for luck."""
    return float(sum(a * estimator(tensor(math.log(a)), tensor(math.log(b))) for a, b in zip(p, q)))


def check_unbiased(estimator):
    for p, q in ((P, Q), (Q, P), (P, P)):
        close(expectation(estimator, p, q), exact_kl(p, q))


def test_k1_is_the_log_ratio_and_unbiased():
    close(losses.kl_k1(LOGPROBS, REF_LOGPROBS), [[0.2, -0.2, 0.6, 0.0]])
    check_unbiased(losses.kl_k1)


def test_k1_summed_over_tokens_is_unbiased_for_whole_answers():
    # Two tokens, the second's distribution hanging on the first: the sum over the tokens is
    # unbiased for the KL of whole answers. All nine answers are enumerated.
    second = (P, Q, (1 / 3, 1 / 3, 1 / 3)), (Q, (0.6, 0.3, 0.1), P)
    whole = {(a, b): (P[a] * second[0][a][b], Q[a] * second[1][a][b]) for a in range(3) for b in range(3)}
    exact = sum(p * math.log(p / q) for p, q in whole.values())
    mean = 0.0
    for (a, b), (probability, _) in whole.items():
        own = tensor([P[a], second[0][a][b]]).log()
        ref = tensor([Q[a], second[1][a][b]]).log()
        mean += probability * float(losses.kl_k1(own, ref).sum())
    close(mean, exact)


def test_k3_is_unbiased_and_never_negative():
    by_hand = [math.exp(-d) - 1 + d for d in (0.2, -0.2, 0.6, 0.0)]
    close(losses.kl_k3(LOGPROBS, REF_LOGPROBS), [by_hand])
    check_unbiased(losses.kl_k3)
    grid = torch.linspace(-4, 4, 81)
    assert (losses.kl_k3(grid, torch.zeros(81)) >= 0).all()
    # exp(x) − 1 loses everything for tiny differences; the answer is x²/2.
    close(losses.kl_k3(tensor([1e-4]), tensor([0.0])) * 1e8, [0.5], 1e-3)


# --- rewards and advantages ---------------------------------------------------------------------


def test_each_token_pays_its_kl_and_the_last_one_earns_the_score():
    kl = LOGPROBS - REF_LOGPROBS
    close(losses.token_rewards(tensor([1.0]), kl, WHOLE, 0.1), [[-0.02, 0.02, -0.06, 1.0]])
    # The last real token is paid the score, wherever the row ends.
    mask = tensor([[True, True, False, False], [True] * 4, [True, False, False, False]])
    kl = tensor([[0.5, 0.25, 9.0, 9.0], [0.1, 0.2, 0.3, 0.4], [1.0, 9.0, 9.0, 9.0]])
    scores = tensor([2.0, -1.0, 3.0])
    expected = [[-0.05, 1.975, 0, 0], [-0.01, -0.02, -0.03, -1.04], [2.9, 0, 0, 0]]
    close(losses.token_rewards(scores, kl, mask, 0.1), expected)
    for rubbish in RUBBISH:
        close(losses.token_rewards(scores, spoilt(kl, mask, rubbish), mask, 0.1), expected)


def test_a_response_earns_its_score_minus_its_kl():
    # Nothing is lost or invented: a response earns its score minus β times its whole KL.
    for seed in range(3):
        mask, draw = ragged(seed)
        kl, scores = draw(), draw()[:, 0]
        found = losses.token_rewards(scores, kl, mask, 0.3)
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


def test_gae_by_hand():
    rewards = tensor([[-0.02, 0.02, -0.06, 1.0]])
    advantages, returns = losses.gae(rewards, VALUES, WHOLE, 1.0, 0.95)
    close(advantages, [[0.3943, 0.3835, 0.3300, 0.2000]], 1e-4)
    close(returns, [[0.8943, 0.9335, 0.9300, 1.0000]], 1e-4)
    close(losses.gae(rewards, VALUES, WHOLE, 1.0, 0.0)[0], [[0.03, 0.07, 0.14, 0.2]])


def test_gae_is_the_slow_loop():
    for seed, (gamma, lam) in enumerate([(1.0, 0.95), (0.9, 0.8), (0.5, 1.0), (1.0, 0.0)]):
        mask, draw = ragged(seed)
        rewards, values = draw(), draw()
        advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
        expected = slow_gae(rewards, values, mask, gamma, lam)
        close(advantages, expected, 1e-4)
        # Before any whitening: the critic is to predict returns, not standardised ones.
        close(returns, torch.where(mask, expected + values, 0.0), 1e-4)


def test_gae_at_lambda_1_is_what_is_earned_and_at_0_the_td_error():
    mask, draw = ragged(seed=7)
    rewards, values = draw(), draw()
    # λ = 1: the return is what is really earned from here on, whatever the critic says.
    _, returns = losses.gae(rewards, values, mask, 0.9, 1.0)
    for b, t in mask.nonzero().tolist():
        n = int(mask[b].sum())
        close(returns[b, t], sum(0.9 ** (s - t) * rewards[b, s] for s in range(t, n)), 1e-4)
    # λ = 0: the one-step TD error.
    advantages, _ = losses.gae(rewards, values, mask, 0.9, 0.0)
    for b, t in mask.nonzero().tolist():
        following = values[b, t + 1] if t + 1 < int(mask[b].sum()) else 0.0
        close(advantages[b, t], rewards[b, t] + 0.9 * following - values[b, t], 1e-4)


def test_gae_depends_on_nothing_outside_the_mask():
    mask, draw = ragged(seed=3)
    rewards, values = draw(), draw()
    clean = losses.gae(spoilt(rewards, mask, 0.0), spoilt(values, mask, 0.0), mask)
    for rubbish in RUBBISH:
        found = losses.gae(spoilt(rewards, mask, rubbish), spoilt(values, mask, rubbish), mask)
        assert torch.equal(found[0], clean[0])
        assert torch.equal(found[1], clean[1])
    assert not clean[0][~mask].any()
    assert not clean[1][~mask].any()
    # A row's answer does not depend on how far the batch was padded, nor on its neighbours.
    for b in range(len(mask)):
        n = int(mask[b].sum())
        alone = losses.gae(rewards[b : b + 1, :n], values[b : b + 1, :n], mask[b : b + 1, :n])
        close(alone[0][0], clean[0][b, :n])


# Two groups of two answers, of one to four tokens; a token costs something, the last one pays the score.
PAY = tensor([[-0.1, 2.0, 9.0, 9.0], [1.0, 9.0, 9.0, 9.0], [-0.2, -0.3, 0.1, 3.0], [0.5, -1.0, 9.0, 9.0]])
PAID_TOKENS = tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()


def test_groups_by_hand():
    # In all 1.9 and 1.0; 2.6 and -0.5. What is still to come, less what the other was paid.
    expected = [[0.9, 1.0, 0, 0], [-0.9, 0, 0, 0], [3.1, 3.3, 3.6, 3.5], [-3.1, -3.6, 0, 0]]
    close(losses.group_advantages(PAY, PAID_TOKENS, 2), expected)
    # The standard deviations of two are their distances over the root of two.
    spreads = tensor([0.9 / 2**0.5 + 1e-4] * 2 + [3.1 / 2**0.5 + 1e-4] * 2).unsqueeze(1)
    close(losses.group_advantages(PAY, PAID_TOKENS, 2, scale=True), tensor(expected) / spreads)


def test_a_group_that_agrees_has_exactly_zero():
    paid = tensor([[1.0], [2.0], [6.0], [0.3], [0.3], [0.3]])
    found = losses.group_advantages(paid, torch.ones(6, 1, dtype=torch.bool), 3)
    close(found[:3], [[-3.0], [-1.5], [4.5]])
    assert (found[3:] == 0.0).all()


@pytest.mark.parametrize(("rows", "size"), [(6, 4), (4, 1)])
def test_rows_that_are_no_groups_are_refused(rows, size):
    with pytest.raises(ValueError, match=f"no groups of {size}"):
        losses.group_advantages(torch.ones(rows, 2), torch.ones(rows, 2, dtype=torch.bool), size)


# --- losses -------------------------------------------------------------------------------------

RATIOS = (0.5, 1.0, 1.5)


def test_the_policy_loss_takes_the_cautious_branch():
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
        close(
            losses.policy_loss(logprobs, tensor([[-0.7]]), tensor([[float(advantage)]]), 0.2), [[-expected]]
        )


def test_nothing_pushes_a_policy_that_went_far_enough():
    for advantage, ratio in itertools.product((1.0, -1.0), RATIOS):
        logprobs = tensor([[math.log(ratio)]], requires_grad=True)
        losses.policy_loss(logprobs, torch.zeros(1, 1), tensor([[advantage]]), 0.2).sum().backward()
        # Where the step already went far enough in the wanted direction, nothing pushes further.
        far_enough = (advantage, ratio) in {(1.0, 1.5), (-1.0, 0.5)}
        close(logprobs.grad, [[0.0 if far_enough else -advantage * ratio]])


def test_the_value_loss_is_clipped_around_the_old_value():
    def one(v, old, target):
        return losses.value_loss(tensor([v]), tensor([old]), tensor([target]), 0.2)

    close(one(1.0, 0.5, 2.0), [0.5 * (0.7 - 2.0) ** 2])  # jumped towards the target: clipped at 0.7
    close(one(1.0, 0.5, 0.0), [0.5 * 1.0**2])  # jumped away from it: pays in full
    close(one(0.6, 0.5, 2.0), [0.5 * 1.4**2])  # a small step is not clipped
    close(one(0.0, 0.5, -1.0), [0.5 * (0.3 + 1.0) ** 2])  # downwards too


def test_nothing_pushes_a_value_that_is_clipped():
    for v, target, expected in ((1.0, 2.0, 0.0), (1.0, 0.0, 1.0), (0.6, 2.0, -1.4), (0.0, -1.0, 0.0)):
        value = tensor([v], requires_grad=True)
        losses.value_loss(value, tensor([0.5]), tensor([target]), 0.2).sum().backward()
        close(value.grad, [expected])


def test_bradley_terry_by_its_definition():
    # Notebook 02, sections 1 and 2: scores 1.2 and 0.3, then with a margin of 1.
    close(losses.bradley_terry(tensor(1.2 - 0.3)), 0.341, 1e-3)
    close(losses.bradley_terry(tensor(0.9)).neg().exp(), 0.711, 1e-3)
    close(losses.bradley_terry(tensor(0.9), tensor(1.0)), 0.744, 1e-3)
    for difference, margin in itertools.product((-2.0, -0.5, 0.0, 0.9, 3.0), (0.0, 1.0, 3.0)):
        close(losses.bradley_terry(tensor(difference), margin), math.log1p(math.exp(margin - difference)))
    # Only differences mean anything: the same constant on both scores changes nothing.
    chosen, rejected = tensor([1.2, -0.4]), tensor([0.3, 2.0])
    close(losses.bradley_terry((chosen + 5) - (rejected + 5)), losses.bradley_terry(chosen - rejected))
    # A hopeless pair costs its distance; a sure one nothing. Neither overflows.
    close(losses.bradley_terry(tensor([-1000.0, 1000.0])), [1000.0, 0.0])


def test_the_dpo_loss_by_its_definition():
    # Notebook 05, section 1: the policy has moved 0.7 nats towards the chosen and 0.5 away from the other.
    numbers = [tensor([x]) for x in (-4.3, -6.5, -5.0, -6.0)]
    close(losses.dpo_loss(*numbers, beta=0.5), [math.log1p(math.exp(-0.5 * 1.2))])
    # At the start policy and reference are one: log 2, whatever β.
    draw = torch.Generator().manual_seed(0)
    chosen, rejected, other, another = (-20 * torch.rand(6, generator=draw) for _ in range(4))
    for beta in (0.01, 0.1, 1.0):
        close(losses.dpo_loss(chosen, rejected, chosen, rejected, beta=beta), [math.log(2)] * 6)
        # By the definition, without a logarithm of a sigmoid: Bradley and Terry's chance of the chosen one,
        # with the implicit rewards β log π/π_ref.
        rewards = [beta * (chosen - other), beta * (rejected - another)]
        chance = rewards[0].exp() / (rewards[0].exp() + rewards[1].exp())
        close(losses.dpo_loss(chosen, rejected, other, another, beta=beta), -chance.log(), 1e-4)
    # What the prompt's own likelihood adds to both of the policy's log-probs does not matter.
    shifted = losses.dpo_loss(chosen - 3, rejected - 3, other, another, beta=0.1)
    close(shifted, losses.dpo_loss(chosen, rejected, other, another, beta=0.1), 1e-4)
    # The gradient pushes the chosen one up and the rejected one down by the same amount, β σ(−margin).
    chosen, rejected = tensor([-4.0], requires_grad=True), tensor([-5.0], requires_grad=True)
    losses.dpo_loss(chosen, rejected, tensor([-4.5]), tensor([-4.0]), beta=0.2).sum().backward()
    pull = 0.2 / (1 + math.exp(0.2 * (0.5 + 1.0)))
    close(chosen.grad, [-pull])
    close(rejected.grad, [pull])


def test_explained_variance_by_hand():
    mask, draw = ragged(seed=5)
    returns = draw()
    close(losses.explained_variance(returns, returns, mask), 1.0)
    close(losses.explained_variance(torch.full_like(returns, 4.2), returns, mask), 0.0)
    close(losses.explained_variance(-returns, returns, mask), -3.0)  # Var(2R) = 4 Var(R)
    close(losses.explained_variance(returns / 2, returns, mask), 0.75)
    close(losses.explained_variance(spoilt(returns, mask, math.nan), returns, mask), 1.0)
    # Returns without spread leave nothing to explain.
    close(losses.explained_variance(returns, torch.ones_like(returns), mask), 0.0)
    close(losses.explained_variance(returns, 1 + 1e-5 * returns, mask), 0.0)  # nor those of rounding alone


# --- what must be refused, and the same answers for random shapes -------------------------------


def test_an_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="selects nothing"):
        losses.masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool))


def test_a_response_without_tokens_has_nowhere_to_put_its_score():
    with pytest.raises((RuntimeError, IndexError)):
        losses.token_rewards(torch.ones(1), torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool), 0.1)


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
