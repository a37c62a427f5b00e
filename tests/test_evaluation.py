"""The statistics against scipy, closed forms, enumeration, and simulations where the truth is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from sawyer_utils import evaluation as ev
from sawyer_utils.chapters import domain
from sawyer_utils.profiles import PROFILES

# --- bootstrap ----------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.95, 0.9, 0.5])
def test_the_bootstrap_of_three_values_is_the_enumerated_one(confidence):
    # All 27 equally likely resamples of three values, instead of random ones.
    values = [0.0, 1.0, 10.0]
    means = sorted(sum(draw) / 3 for draw in itertools.product(values, repeat=3))
    # Student's t with two degrees of freedom has the closed form t = a √(2 / (1 − a²)), a = confidence.
    tail = stats.norm.sf(confidence * math.sqrt(2 / (1 - confidence**2)) * math.sqrt(3 / 2))
    expected = means[math.floor(27 * tail)], means[math.ceil(27 * (1 - tail)) - 1]
    assert ev.bootstrap_interval(values, confidence=confidence) == pytest.approx(expected)


def test_the_tail_is_further_out_for_few_values():
    assert ev.expanded_tail(10) == pytest.approx(stats.norm.cdf(-2.2621572 * math.sqrt(10 / 9)), rel=1e-6)
    assert ev.expanded_tail(10**7) == pytest.approx(0.025, rel=1e-4)
    assert ev.expanded_tail(1) == pytest.approx(0.025)
    # For normal values the interval is then Student's, up to the draw.
    values = np.random.default_rng(0).normal(size=12)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = ev.bootstrap_interval(values, draws=200_000)
    assert found == pytest.approx((low, high), abs=0.06 * (high - low))


def coverage(draw, truth, tries, groups=None):
    """How often the interval of a fresh data set holds the truth."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(tries):
        low, high = ev.bootstrap_interval(draw(rng), groups, draws=400, seed=seed)
        held += low <= truth <= high
    return held / tries


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng: rng.gamma(4.0, size=20), 4.0),  # skewed
        # Like our rewards: most answers good, some bad.
        (lambda rng: np.where(rng.random(20) < 0.3, -3.0, 1.0) + 0.7 * rng.normal(size=20), -0.2),
    ],
    ids=["skewed", "two humps"],
)
def test_the_interval_of_twenty_values_covers_the_truth_as_often_as_it_says(draw, truth):
    # 1,000 data sets: a standard error of 0.7 points. The plain percentiles cover 92 %.
    assert coverage(draw, truth, 1000) == pytest.approx(0.95, abs=0.02)


def test_the_interval_of_grouped_values_covers_the_truth_as_often_as_it_says():
    # 15 prompts with four samples each, half of the variance between prompts.
    groups = np.repeat(np.arange(15), 4)

    def draw(rng):
        return np.repeat(rng.normal(size=15), 4) + rng.normal(size=60)

    assert coverage(draw, 0.0, 1000, groups) == pytest.approx(0.95, abs=0.02)
    assert coverage(draw, 0.0, 300) < 0.85  # the same values, taken for independent


def test_repeating_rows_within_groups_adds_no_certainty():
    # Six pairs of one prompt are not six prompts: copying every row must change nothing.
    values = np.random.default_rng(1).normal(size=30)
    once = ev.bootstrap_interval(values)
    groups = np.repeat([f"prompt-{i:02}" for i in range(30)], 6)
    assert ev.bootstrap_interval(np.repeat(values, 6), groups) == pytest.approx(once)
    # Taken for independent, the copies would shrink the interval by about the root of six.
    low, high = ev.bootstrap_interval(np.repeat(values, 6))
    assert (once[1] - once[0]) / (high - low) == pytest.approx(math.sqrt(6), rel=0.1)


def test_unequal_groups_are_weighted_by_their_rows():
    # One group of nine zeros, one of a single ten: the mean is 1, and a resample is all zeros,
    # all tens or the data itself, never a mean of group means.
    values, groups = [0.0] * 9 + [10.0], ["a"] * 9 + ["b"]
    assert ev.bootstrap_interval(values, groups) == (0.0, 10.0)
    assert ev.bootstrap_interval(values, groups, confidence=0.1) == pytest.approx((1.0, 1.0))


def test_the_bootstrap_is_repeatable_and_refuses_nothing():
    values = [1.0, 2.0, 4.0]
    assert ev.bootstrap_interval(values) == ev.bootstrap_interval(values)
    assert ev.bootstrap_interval([3.0]) == (3.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        ev.bootstrap_interval([])


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (107, 120), (1, 1)])
def test_wilson_is_the_closed_form(successes, n):
    z, p = stats.norm.ppf(0.975), successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert ev.wilson_interval(successes, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "groups", "as_of"),
    [
        ([1.0] * 3, None, (3, 3, 3)),
        ([0.0] * 5, None, (0, 0, 5)),
        ([1.0] * 4, [*"aabb"], (2, 2, 2)),
        ([0.5] * 3, None, (1, 2, 3)),  # all ties
        ([1, 1, 0, 1, 0], ["a"] * 5, (0, 1, 1)),
        ([1, 0, 1, 0], [*"aabb"], (1, 1, 2)),
    ],
)
def test_a_share_without_any_spread_between_groups_is_not_certain(values, groups, as_of):
    least, most, n = as_of
    low, high = ev.share_interval(values, groups)
    assert (low, high) == (ev.wilson_interval(least, n)[0], ev.wilson_interval(most, n)[1])
    assert low <= np.mean(values) <= high
    assert ev.share_interval([1, 0, 1], [*"abc"]) == ev.bootstrap_interval([1, 0, 1], [*"abc"])


# --- paired comparison --------------------------------------------------------------------------


def test_compare_rewards_agrees_with_scipy():
    rng = np.random.default_rng(2)
    before = rng.normal(5.7, 3.5, size=80)
    after = before + rng.normal(0.8, 2.0, size=80)
    found, change = ev.compare_rewards(before.tolist(), after.tolist()), after - before
    assert found.n == 80
    assert (found.before_mean, found.before_std) == pytest.approx((np.mean(before), stats.tstd(before)))
    assert (found.after_mean, found.after_std) == pytest.approx((np.mean(after), stats.tstd(after)))
    assert found.difference == pytest.approx(np.mean(change))
    assert found.effect_size == pytest.approx(np.mean(change) / stats.tstd(change))
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(after, before).pvalue)
    rose = int((change > 0).sum())
    assert found.sign_p == pytest.approx(min(1.0, 2 * stats.binom.cdf(min(rose, 80 - rose), 80, 0.5)))
    assert found.detectable == pytest.approx(2.8016 * stats.tstd(change) / math.sqrt(80), rel=1e-4)
    distances = [abs(x - np.median(x)) for x in (before, after)]
    assert found.levene_p == pytest.approx(stats.ttest_rel(*distances).pvalue)
    assert found.share_worse == sum(a < b for a, b in zip(after, before, strict=True)) / 80
    # For a mean of 80 nearly normal values the bootstrap is close to the t interval.
    low, high = stats.ttest_1samp(change, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)
    assert found.verdict == "better"
    assert found.as_dict()["n"] == 80
    means = " → ".join(f"{x.mean():.2f} ± {stats.tstd(x):.2f}" for x in (before, after))
    assert f"n = 80: {means}\ndifference {np.mean(change):+.2f}" in str(found)


def test_the_pairs_matter():
    # Prompts differ far more than the two systems do; pairing takes the prompts out.
    rng = np.random.default_rng(3)
    before = rng.normal(0, 10, size=60)
    after = before + rng.normal(0.5, 0.5, size=60)
    assert ev.compare_rewards(before, after).verdict == "better"
    assert ev.compare_rewards(before, rng.permutation(after)).verdict == "no difference shown"


def test_swapping_before_and_after_turns_everything_round():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=50), rng.normal(1.0, size=50)
    there, back = ev.compare_rewards(a, b), ev.compare_rewards(b, a)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.02)
    assert back.wilcoxon_p == pytest.approx(there.wilcoxon_p)
    assert (there.verdict, back.verdict) == ("better", "worse")


def test_no_change_at_all_is_no_difference():
    same = ev.compare_rewards([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.difference, same.low, same.high, same.effect_size) == (0.0, 0.0, 0.0, 0.0)
    assert (same.wilcoxon_p, same.levene_p, same.share_worse) == (1.0, 1.0, 0.0)
    assert same.verdict == "no difference shown"
    # Those that did not move are on no side.
    assert ev.compare_rewards(np.zeros(20), np.r_[np.ones(6), np.zeros(14)]).sign_p == pytest.approx(2 / 2**6)
    constant = ev.compare_rewards([2.0] * 5, [2.0] * 5)  # no spread anywhere: no NaN either
    assert all(math.isfinite(value) for value in constant.as_dict().values())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], "2 and 3 values are no pairs"),
        ([1.0], [2.0], "1 and 1 values are no pairs"),
        ([], [], "0 and 0 values are no pairs"),
        ([1.0, 2.0, 3.0], [1.0, math.nan, math.nan], "not a number at row 1"),
        ([1.0, 2.0, math.inf], [1.0, 2.0, 3.0], "not a number at row 2"),
    ],
)
def test_what_are_no_pairs_is_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        ev.compare_rewards(before, after)


def test_several_samples_of_a_prompt_are_not_several_prompts():
    rng = np.random.default_rng(9)
    before, after = rng.normal(size=30), rng.normal(0.9, 1.5, size=30)
    once = ev.compare_rewards(before, after)
    # The same numbers four times over: every statement about prompts stays as it was.
    groups = np.repeat(np.arange(30), 4)
    four = ev.compare_rewards(np.repeat(before, 4), np.repeat(after, 4), groups)
    assert (once.n, once.samples, four.n, four.samples) == (30, 30, 30, 120)
    spread = {"samples", "before_std", "after_std"}  # of the responses, n − 1 of 120 instead of 30
    for name in once.as_dict().keys() - spread:
        assert four.as_dict()[name] == pytest.approx(once.as_dict()[name]), name
    # Taken for 120 prompts, they would look far surer.
    torn = ev.compare_rewards(np.repeat(before, 4), np.repeat(after, 4))
    assert torn.wilcoxon_p < 0.1 * once.wilcoxon_p
    assert torn.sign_p < 0.5 * once.sign_p
    assert torn.high - torn.low < 0.6 * (once.high - once.low)
    with pytest.raises(ValueError, match="one prompt is no comparison"):
        ev.compare_rewards([1.0, 2.0], [2.0, 3.0], ["a", "a"])


def test_samples_of_a_prompt_need_not_stand_together():
    rng = np.random.default_rng(10)
    before, after, groups = rng.normal(size=24), rng.normal(size=24), np.repeat(list("abcdef"), 4)
    order = rng.permutation(24)
    there = ev.compare_rewards(before, after, groups)
    shuffled = ev.compare_rewards(before[order], after[order], groups[order])
    assert shuffled.as_dict() == pytest.approx(there.as_dict())


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: np.where(rng.random((2, 120)) < 0.3, -3.0, 1.0) + 0.7 * rng.normal(size=(2, 120)),
        lambda rng: rng.gamma(0.3, size=(2, 120)) * (rng.random((2, 120)) < 0.15),  # zero but for a few
    ],
    ids=["two humps", "rare"],
)
def test_the_same_system_twice_is_called_different_at_most_one_time_in_twenty(draw, monkeypatch):
    # 1,000 comparisons of 60 prompts with two samples each; the interval alone cries wolf in 6 to 8 %.
    rng, prompts = np.random.default_rng(5), np.repeat(np.arange(60), 2)
    monkeypatch.setattr(ev, "bootstrap_interval", partial(ev.bootstrap_interval, draws=400))
    alarms = 0
    for _ in range(1000):
        before, after = draw(rng)
        alarms += ev.compare_rewards(before, after, prompts).verdict != "no difference shown"
    assert alarms / 1000 <= 0.05


def test_interval_and_wilcoxon_must_both_say_so():
    # One prompt rose a little on each of 40, one fell by a lot: the ranks see a gain, the mean does not.
    mixed = ev.compare_rewards(np.zeros(41), np.r_[np.linspace(0.5, 1.5, 40), -30.0])
    assert mixed.wilcoxon_p < 0.05
    assert mixed.verdict == "no difference shown"
    # Ten of 120 rose by a lot, the others went half and half: a mean above zero, and no trend.
    few = ev.compare_rewards(np.zeros(120), np.r_[np.full(10, 10.0), np.linspace(-0.5, 0.5, 110)])
    assert few.low > 0
    assert few.wilcoxon_p >= 0.05
    assert few.verdict == "no difference shown"
    # Twenty of 100 rose by a lot, 80 fell a little: each is beyond doubt, and they contradict each other.
    for side in (1, -1):
        change = side * np.r_[np.linspace(10, 11, 20), np.linspace(-0.9, -0.1, 80), np.zeros(200)]
        torn = ev.compare_rewards(np.zeros(300), change)
        assert torn.wilcoxon_p < 0.05
        assert ev.verdict(torn.low, torn.high, None) == "changed"
        assert {torn.verdict_if(good) for good in (True, False, None)} == {"no difference shown"}
    # 35 of 50 fell by a lot, 15 rose a little: the ranks are those of the sizes.
    fell = ev.compare_rewards(np.zeros(50), np.r_[np.linspace(0.1, 0.5, 15), -np.linspace(5, 9, 35)])
    assert (fell.rank_sum, fell.verdict) == (sum(range(16)) - sum(range(16, 51)), "worse")
    clear = ev.compare_rewards(np.zeros(50), np.linspace(0.5, 1.5, 50))
    assert [clear.verdict_if(side) for side in (True, False, None)] == ["better", "worse", "changed"]


def test_the_detectable_mean_is_detected_four_times_in_five():
    rng, spread = np.random.default_rng(11), 1.7
    difference = ev.detectable_mean(60, spread)
    shown = 0
    for seed in range(500):
        change = rng.normal(difference, spread, size=60)
        low, _ = ev.bootstrap_interval(change, draws=400, seed=seed)
        shown += low > 0
    assert shown / 500 == pytest.approx(0.8, abs=0.04)
    assert ev.detectable_mean(240, spread) == pytest.approx(difference / 2)


def test_three_pairs_of_three_are_no_certainty():
    assert ev.share_right([2.0, 1.0, 0.0, -1.0])[0] == 0.625
    assert ev.share_right([1.0] * 3) == (1.0, *ev.wilson_interval(3, 3))
    assert ev.share_right([1.0] * 6, [*"aabbcc"]) == (1.0, *ev.wilson_interval(3, 3))
    with pytest.raises(ValueError, match="NaN"):
        ev.share_right([1.0, math.nan])


def test_the_win_rate_counts_a_tie_as_half():
    share, low, high = ev.win_rate([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 1.0, 0.0])
    assert share == 2.5 / 4
    assert low < share < high
    share, low, high = ev.win_rate([1.0] * 9, [1.0] * 9)
    assert share - low == pytest.approx(high - share)
    # One prompt with many wins is one prompt.
    before, after, groups = np.zeros(40), np.r_[np.ones(20), -np.ones(20)], np.repeat([0, 1], 20)
    assert ev.win_rate(before, after, groups)[1:] == (0.0, 1.0)


# --- best of n ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_best_of_n_is_the_enumerated_one(n):
    rng = np.random.default_rng(12)
    scores, values = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    for row, (score, value) in enumerate(zip(scores, values, strict=True)):
        draws = list(itertools.combinations(range(5), n))
        best = [max(draw, key=lambda i, score=score: score[i]) for draw in draws]
        assert ev.best_of_n(scores, n)[row] == pytest.approx(np.mean([score[i] for i in best]))
        assert ev.best_of_n(scores, n, values)[row] == pytest.approx(np.mean([value[i] for i in best]))


def test_the_best_of_more_than_there_are_is_refused():
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"best of {n} out of 3"):
            ev.best_of_n(np.zeros((2, 3)), n)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_of_best_of_n_is_the_integral(n):
    # The best of n of a continuous score has density n u^(n−1) at quantile u of the score.
    def nats(u):
        density = n * u ** (n - 1)
        return density * math.log(density) if u else 0.0

    found, _ = integrate.quad(nats, 0, 1)
    assert ev.best_of_n_kl(n) == pytest.approx(found, abs=1e-7)


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "said"),
    [
        (0.1, 0.5, True, "better"),
        (-0.5, -0.1, True, "worse"),
        (0.1, 0.5, False, "worse"),
        (-0.5, -0.1, False, "better"),
        (-0.1, 0.5, True, "no difference shown"),
        (-0.1, 0.5, False, "no difference shown"),
        (0.0, 0.5, True, "no difference shown"),  # touching zero is not enough
        (-0.5, 0.0, True, "no difference shown"),
        (math.nan, math.nan, True, "no difference shown"),
        (0.1, 0.5, None, "changed"),  # length is neither good nor bad
        (-0.1, 0.5, None, "no difference shown"),
    ],
)
def test_the_verdict_follows_from_the_interval(low, high, higher_is_better, said):
    assert ev.verdict(low, high, higher_is_better) == said


def flags(both: int, only_a: int, only_b: int, neither: int):
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


def test_mcnemar_is_a_binomial_over_the_discordant_items():
    # 8 against 2: twice the chance of at most 2 heads in 10 throws, 2 (1 + 10 + 45) / 1024.
    assert ev.mcnemar_p(*flags(30, 8, 2, 10)) == pytest.approx(2 * 56 / 1024)
    # The items that both or neither got right say nothing.
    assert ev.mcnemar_p(*flags(0, 8, 2, 0)) == pytest.approx(2 * 56 / 1024)
    assert ev.mcnemar_p(*flags(5, 2, 8, 5)) == pytest.approx(2 * 56 / 1024)
    assert ev.mcnemar_p(*flags(9, 3, 3, 9)) == 1.0
    assert ev.mcnemar_p(*flags(9, 0, 0, 9)) == 1.0
    assert ev.mcnemar_p(*flags(9, 5, 0, 9)) == pytest.approx(2 / 32)


def test_the_interval_of_two_shares_is_bonett_and_prices():
    # 8 and 2 discordant of 50, one added to each: shares 9/52 and 3/52.
    found = ev.paired_shares_interval(*flags(20, 2, 8, 20))
    reach = stats.norm.ppf(0.975) * math.sqrt((9 / 52 + 3 / 52 - (6 / 52) ** 2) / 52)
    assert found == pytest.approx((6 / 50, 6 / 52 - reach, 6 / 52 + reach))
    # Never disagreeing on ten items is not certainty.
    difference, low, high = ev.paired_shares_interval(*flags(5, 0, 0, 5))
    assert difference == 0.0
    assert low == pytest.approx(-high)
    assert high > 0.1
    # Two models of which one is right on all of 30 and the other on none: 1 is the end of the scale.
    assert ev.paired_shares_interval(*flags(0, 0, 30, 0))[2] == 1.0
    assert ev.paired_shares_interval(*flags(0, 30, 0, 0))[1] == -1.0


@pytest.mark.parametrize(("up", "down"), [(0.1, 0.1), (0.25, 0.1), (0.05, 0.0)])
def test_the_interval_of_two_shares_covers_the_truth(up, down):
    n = 30
    # Every outcome of 30 items with its exact multinomial probability.
    covered = 0.0
    for only_b in range(n + 1):
        for only_a in range(n + 1 - only_b):
            chance = stats.binom.pmf(only_b, n, up) * stats.binom.pmf(only_a, n - only_b, down / (1 - up))
            if chance > 1e-9:
                _, low, high = ev.paired_shares_interval(*flags(n - only_a - only_b, only_a, only_b, 0))
                covered += chance * (low <= up - down <= high)
    assert covered >= 0.94


def test_the_detectable_difference_is_detected_four_times_in_five():
    n, discordant = 110, 0.3
    difference = ev.detectable_difference(n, discordant)
    up = (discordant + difference) / 2
    # Enumerated: m discordant items, k of them for b, and McNemar's z beyond 1.96.
    power = 0.0
    for m in range(1, n + 1):
        k = np.arange(m + 1)
        shown = np.abs(2 * k - m) / math.sqrt(m) > stats.norm.ppf(0.975)
        power += stats.binom.pmf(m, n, discordant) * stats.binom.pmf(k, m, up / discordant)[shown].sum()
    assert power == pytest.approx(0.8, abs=0.03)


def test_more_items_show_smaller_differences():
    found = [ev.detectable_difference(n, 0.3) for n in (50, 110, 440, 10_000)]
    assert found == sorted(found, reverse=True)
    assert found[1] / found[2] == pytest.approx(2, rel=0.05)  # four times the items, half the difference
    # Where the two hardly disagree, the difference itself sets how much they must.
    assert ev.detectable_difference(110, 0.0) > 0


@pytest.mark.parametrize("n", range(2, 9))
def test_nothing_is_called_detectable_that_no_test_can_show(n):
    found = ev.compare_rewards(np.zeros(n), 5 + 0.1 * np.arange(n))  # by far more than their spread
    for row in (found.row(), domain.compare_shares([False] * n, [True] * n)):
        assert (row["verdict"] == "better") == (row["detectable"] is not None) == (n >= 6)
    assert ("would have shown" in str(found)) == (n >= 6)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(6)
    before, after = rng.normal(size=40).tolist(), rng.normal(1.0, 2.0, size=40).tolist()
    difference, low, high, scale = ev.jackknife_difference(before, after, np.mean)
    change = np.subtract(after, before)
    reach = stats.norm.ppf(0.975) * stats.sem(change)
    assert (difference, low, high) == pytest.approx(
        (change.mean(), change.mean() - reach, change.mean() + reach)
    )
    assert scale == pytest.approx(np.std(before, ddof=1))
    # Of texts: parroting is seen, and the same texts twice are no difference.
    texts = [f"answer number {i} is about topic {i * i}" for i in range(12)]
    _, _, high, _ = ev.jackknife_difference(texts, ["the same words every time"] * 12, ev.distinct_n)
    assert high < 0
    assert ev.jackknife_difference(texts, texts, ev.distinct_n)[:3] == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="12 and 11 texts are no pairs"):
        ev.jackknife_difference(texts, texts[1:], ev.distinct_n)


# --- length -------------------------------------------------------------------------------------


def planted(gain: float, slope: float, noise: float, n: int = 200, seed: int = 0):
    """Rewards that are ``gain`` and ``slope`` per extra token, on answers about ten tokens longer."""
    rng = np.random.default_rng(seed)
    before, lengths = rng.normal(size=n), rng.integers(15, 40, size=n)
    longer = rng.integers(-5, 26, size=n)
    after = before + gain + slope * longer + rng.normal(0, noise, size=n)
    return before, after, lengths, lengths + longer


def test_a_planted_slope_and_gain_are_recovered_exactly_without_noise():
    found = ev.length_matched(*planted(gain=1.5, slope=0.2, noise=0.0))
    assert found.slope == pytest.approx(0.2)
    assert found.adjusted == pytest.approx(1.5)
    assert (found.adjusted_low, found.adjusted_high) == pytest.approx((1.5, 1.5))


def test_a_gain_is_inside_its_interval_and_one_that_is_only_length_disappears():
    found = ev.length_matched(*planted(gain=1.5, slope=0.2, noise=1.0))
    assert found.slope == pytest.approx(0.2, abs=0.04)
    assert 0 < found.adjusted_low < 1.5 < found.adjusted_high
    before, after, lengths, after_lengths = planted(gain=0.0, slope=0.2, noise=1.0)
    assert ev.compare_rewards(before, after).verdict == "better"  # 10 tokens longer pay 2
    found = ev.length_matched(before, after, lengths, after_lengths)
    assert found.adjusted_low < 0 < found.adjusted_high


def test_the_matched_subset_by_hand():
    # Lengths within a quarter of the longer one: 20 to 25 (0.2), 20 to 20, 40 to 30 (0.25, the edge).
    lengths, after_lengths = [20, 20, 20, 40, 40], [25, 27, 20, 30, 29]
    found = ev.length_matched([0.0] * 5, [1.0, 100.0, 2.0, 6.0, 100.0], lengths, after_lengths)
    assert (found.matched_n, found.matched) == (3, 3.0)


def test_without_similar_or_different_lengths_nothing_is_invented():
    never = ev.length_matched([0.0, 0.0], [1.0, 2.0], [10, 10], [40, 50])
    assert never.matched_n == 0
    assert math.isnan(never.matched)
    always = ev.length_matched([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [9, 9, 9], [9, 9, 9])
    assert (always.slope, always.adjusted, always.matched) == (0.0, 2.0, 2.0)
    # Two draws of one interval, then.
    values = np.random.default_rng(1).normal(size=10)
    ten = ev.length_matched(np.zeros(10), values, [9] * 10, [9] * 10)
    low, high = ev.bootstrap_interval(values)
    assert ten.adjusted_high - ten.adjusted_low == pytest.approx(high - low, rel=0.1)


# --- texts --------------------------------------------------------------------------------------


def test_distinct_n_by_hand():
    # the-cat, cat-sat | the-cat, cat-ran: three of four are unique; case and full stops do not count.
    assert ev.distinct_n(["The cat sat.", "the cat ran"]) == 3 / 4
    assert ev.distinct_n(["a a a a"], n=1) == 1 / 4
    assert ev.distinct_n(["one", "", "two"]) == 0.0  # no pairs of words at all
    # No pair of words spans two texts.
    assert ev.distinct_n(["a b", "b a", "a b"]) == 2 / 3


def test_repetition_by_hand():
    assert ev.repetition("one two three four five") == 0.0
    assert ev.repetition("a b c a b c") == 1 - 3 / 4  # abc bca cab abc
    assert ev.repetition("The, the. THE the! the") == 1 - 1 / 3
    assert ev.repetition("too short") == 0.0
    assert ev.repetition("我喜欢树。我喜欢树。") == 1 - 4 / 6  # three letters in a row of eight
    assert ev.distinct_n(["树很高", "树很绿"]) == 3 / 4
    assert ev.repetition("yes yes", n=1) == 0.5


def test_similarity_knows_what_is_alike():
    similarity = ev.Similarity()
    a = ["How do I greet someone?", "How do I greet someone?", "How do I greet someone?"]
    b = ["How do I greet someone?", "What is a polite way to say hello?", "The engine needs more oil."]
    same, alike, unlike = similarity(a, b)
    assert same == pytest.approx(1.0, abs=1e-5)
    assert same > alike > unlike + 0.2
    # What a text spells is text, and of a long one the beginning is read.
    read = next(ev.encoded(similarity.tokenizer, ["What is [SEP]? " + "word " * 600], 1))["input_ids"]
    assert read.shape == (1, 256)
    assert int((read == similarity.tokenizer.sep_token_id).sum()) == 1
    # Padding to the longest text of a batch must not matter.
    alone, together = similarity.embed(a[:1]), similarity.embed([a[0], "much longer " * 30])
    assert torch.allclose(alone[0], together[0], atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("before", "after", "p"),
    [
        ([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], 1.0),  # equal spreads, each at its median's distance
        ([2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0], 1.0),
        ([0.5, 0.5], [0.5, 0.5], 1.0),
        ([0.0, 1.0, 0.0, 1.0], [0.0, 4.0, 0.0, 4.0], 0.0),
        ([0.0, 1.0, 2.0, 5.0], [0.0, 1.0, 2.0, 5.0], 1.0),  # distances that differ, and never from each other
        ([0.1, 0.4, 0.9, 2.3], [1000.4, 1000.7, 1001.2, 1002.6], 1.0),  # but for rounding
    ],
)
def test_spreads_without_any_spread_of_their_own_are_a_number(before, after, p):
    found = ev.compare_rewards(before, after)
    assert found.levene_p == p
    assert all(math.isfinite(value) for value in found.as_dict().values())


def levene_alarms(after_spread: float, tries: int = 1000) -> float:
    """How often the spreads of 30 prompts' rewards, much alike before and after, are called unequal."""
    rng, groups, alarms = np.random.default_rng(0), np.arange(30), 0
    for _ in range(tries):
        before, after = 3 * rng.normal(size=30) + rng.normal(size=(2, 30))
        alarms += ev._levene_p(before, after_spread * after, groups) < 0.05
    return alarms / tries


def test_levene_uses_the_pairs():
    # 1,000 comparisons: a standard error of 0.7 points where nothing differs.
    assert 0.02 < levene_alarms(1.0) < 0.065
    assert levene_alarms(1.3, tries=200) > 0.5  # the test for independent samples: 0.09


# --- held-out answers ---------------------------------------------------------------------------

SMALL = replace(PROFILES["local"], response_tokens=6, eval_batch=2)
PROMPTS = ["a b", "c d e f g", "h"]


def test_answers_come_in_the_order_of_the_prompts_and_repeat(letters, letter_actor):
    model = letter_actor()
    found = ev.answer(model, letters, PROMPTS, SMALL, seed=3)
    assert found.prompts == PROMPTS
    assert [len(batch) for batch in found.batches] == [2, 1]
    assert all(1 <= n <= 6 for n in found.lengths)
    assert ev.answer(model, letters, PROMPTS, SMALL, seed=3).responses == found.responses
    assert ev.answer(model, letters, PROMPTS, SMALL, seed=4).responses != found.responses
    several = ev.answer(model, letters, PROMPTS, SMALL, samples=2)
    assert several.prompts == [prompt for prompt in PROMPTS for _ in "12"]  # they stand together
    greedy = ev.answer(model, letters, PROMPTS, SMALL, temperature=0.0, seed=0)
    assert greedy.responses == ev.answer(model, letters, PROMPTS, SMALL, 0.0, seed=1).responses


def test_a_model_that_was_just_trained_answers_without_dropout(letters, letter_actor):
    model = letter_actor(attention_dropout=0.5)
    calm = ev.answer(model.eval(), letters, PROMPTS, SMALL, temperature=0.0)
    found = ev.answer(model.train(), letters, PROMPTS, SMALL, temperature=0.0)
    assert found.responses == calm.responses
    assert ev.kl_to_reference(model.train(), found, "ref") == pytest.approx([0.0] * 3, abs=1e-5)


def test_batches_keep_to_a_budget_of_tokens_and_take_similar_lengths(letters, letter_actor):
    # As they come, where that fits.
    assert ev.batch_rows([3, 9, 4, 8, 2], 1, largest=2, budget=20) == [[0, 1], [2, 3], [4]]
    # The longest row of a batch counts for all of them.
    assert ev.batch_rows([3, 9, 4, 8, 2], 1, largest=2, budget=19) == [[4, 0], [2, 3], [1]]
    assert ev.batch_rows([3, 9, 4, 8, 2], 1, largest=3, budget=20) == [[4, 0, 2], [3, 1]]
    assert ev.batch_rows([50, 1], 1, largest=2, budget=20) == [[1], [0]]  # a single row is never refused
    assert ev.batch_rows([], 1, largest=2, budget=20) == []
    model, prompts = letter_actor(), ["a b c d e f", "g", "h i j k l m n", "o", "p q"]
    greedy = ev.answer(model, letters, prompts, SMALL, temperature=0.0)
    small = replace(SMALL, eval_batch=3, eval_tokens=24)
    found = ev.answer(model, letters, prompts, small, temperature=0.0)
    assert found.rows == [[1, 3], [4], [0], [2]]
    assert max(b.input_ids.numel() for b in found.batches) <= 24
    for field in ("prompts", "responses", "lengths", "finished"):
        assert getattr(found, field) == getattr(greedy, field)
    nats = ev.kl_to_reference(model, found, "base")
    assert nats == pytest.approx(ev.kl_to_reference(model, greedy, "base"), abs=1e-4)
    assert len({round(n, 3) for n in nats}) == 5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_to_the_reference_is_the_sum_of_log_ratios(letters, letter_actor, temperature):
    model = letter_actor()
    answers = ev.answer(model, letters, PROMPTS, SMALL, temperature)
    # Policy and reference start the same: any KL at all would be a mistake.
    assert ev.kl_to_reference(model, answers, "ref") == pytest.approx([0.0] * 3, abs=1e-5)
    found = ev.kl_to_reference(model, answers, "base")
    expected = []
    for batch in answers.batches:
        for i in range(len(batch)):
            # Each answer alone and without padding.
            ids = batch.input_ids[i][batch.attention_mask[i]].unsqueeze(0)
            n = int(batch.lengths[i])
            with torch.no_grad():
                own = (model(ids).logits[0] / temperature).log_softmax(-1)
                with model.disable_adapter():
                    base = (model(ids).logits[0] / temperature).log_softmax(-1)
            log_ratio = (own - base)[-n - 1 : -1].gather(1, ids[0, -n:].unsqueeze(1))
            expected.append(float(log_ratio.sum()))
    assert found == pytest.approx(expected, abs=1e-3)
    assert max(map(abs, found)) > 0.01


def test_values_that_differ_by_rounding_give_numbers():
    """Two values 2e-16 apart, or a median of several equal ones: the answers of a broken policy."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        base, n = rng.normal(), 2 * int(rng.integers(2, 5))
        before = rng.choice([base, base * (1 + 2e-16)], n)
        after = rng.choice([base, 3 * base], n)
        for groups in (None, np.arange(n) // 2):
            found = ev.compare_rewards(before, after, groups).as_dict()
            assert all(map(math.isfinite, found.values())), (before, after, groups, found)
    spread = np.array([0.0, 1.0, 2.0, 5.0]) * 1e-9  # small, but no rounding
    tight = ev.compare_rewards(spread / 1e3, spread).levene_p
    assert tight == pytest.approx(ev.compare_rewards(spread * 1e9 / 1e3, spread * 1e9).levene_p)
    assert tight < 1


def test_the_bootstrap_draws_the_same_in_blocks(monkeypatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = ev.bootstrap_interval(values)
    monkeypatch.setattr(ev, "BLOCK", 50 * 7)
    sizes = []
    make = np.random.default_rng

    class Counted:
        def __init__(self, seed):
            self.rng = make(seed)

        def multinomial(self, n, p, size):
            sizes.append(size * len(p))
            return self.rng.multinomial(n, p, size=size)

    monkeypatch.setattr(np.random, "default_rng", Counted)
    assert ev.bootstrap_interval(values) == pytest.approx(whole, abs=1e-12)
    assert max(sizes) <= 50 * 7
    assert sum(sizes) == 50 * 10_000


# --- over seeds ---------------------------------------------------------------------------------


def test_over_seeds_takes_prompts_and_seeds_together():
    rng = np.random.default_rng(1)
    prompts, seeds = rng.normal(0.5, 1, 120), np.array([0.1, 0.3, -0.2, 0.4, -0.1])
    same = np.tile(prompts, (5, 1))
    mean, low, high = ev.over_seeds(same)
    assert mean == pytest.approx(prompts.mean())
    # Prompts alone: Student's t over them, with the wider tails of five seeds.
    wanted = stats.norm.ppf(ev.expanded_tail(5)) * prompts.std() / math.sqrt(120)
    assert low - mean == pytest.approx(wanted, rel=0.08)
    assert high - mean == pytest.approx(-wanted, rel=0.08)
    # Seeds alone: as if there were five numbers.
    _, low, high = ev.over_seeds(np.tile(seeds[:, None], (1, 120)))
    assert (low, high) == pytest.approx(ev.bootstrap_interval(seeds), abs=0.03)
    both = ev.over_seeds(same + seeds[:, None])
    assert both[2] - both[1] > high - low


def test_over_seeds_holds_the_truth():
    """Of trainings whose seeds differ, 95 % of the intervals hold the mean of all trainings."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        gains = rng.normal(0, 0.2, (5, 1)) + rng.normal(0, 1, (1, 60)) + rng.normal(0, 1, (5, 60))
        _, low, high = ev.over_seeds(gains, draws=1000)
        inside += low <= 0 <= high
    assert inside >= 0.93 * 200
