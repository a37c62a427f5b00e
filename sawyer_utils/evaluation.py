"""Answers on held-out prompts, paired statistics, measures PPO never saw. Multiple choice: choices.py."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import optimize, stats
from transformers import AutoModel, AutoTokenizer

from sawyer_utils.actor import ActorCritic
from sawyer_utils.chat import encode_prompt
from sawyer_utils.data import normalise
from sawyer_utils.models import merged, using
from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.progress import each
from sawyer_utils.rollout import Rollout, sample

CONFIDENCE = 0.95
Z = stats.norm.ppf((1 + CONFIDENCE) / 2)  # standard errors on either side of a normal interval
POWER = stats.norm.ppf(0.8)  # and those more that show a difference four times in five
FEWEST = 6  # pairs of which an exact test (ranks, McNemar) can have p < 0.05: all on one side, 2 / 2**6


# --- answers ------------------------------------------------------------------------------------


@dataclass
class Answers:
    """Responses in the order of their prompts."""

    prompts: list[str]
    responses: list[str]
    lengths: list[int]  # tokens, stop included
    finished: list[bool]
    batches: list[Rollout]  # as sampled, for log-probs
    rows: list[list[int]]  # of each batch: the places of its rows in the lists above
    temperature: float  # they were sampled at; 0 is greedy

    def in_order(self, per_batch: list[list]) -> list:
        """One list a batch, each in its batch's order, as one list in the order of the prompts."""
        places = [place for rows in self.rows for place in rows]
        values = [value for batch in per_batch for value in batch]
        return [value for _, value in sorted(zip(places, values, strict=True), key=lambda pair: pair[0])]


def answer(
    model,
    tokenizer,
    prompts: list[str],
    profile,
    temperature: float | None = None,
    seed: int = 0,
    samples: int = 1,
) -> Answers:
    """Answer every prompt, in fixed batches from a fixed seed: the same call on two models gives a
    fair pair of samples. The temperature is the profile's (the one PPO trains at) unless given; 0 is
    greedy. With several ``samples`` each prompt stands that many times in a row in the result, whose
    ``prompts`` are then the groups of every statistic below.

    Nothing is left out here, so that every list of a comparison has the same prompts: that is for
    :func:`chat.that_fit` beforehand.
    """
    torch.manual_seed(seed)
    temperature = profile.temperature if temperature is None else temperature
    prompts = [prompt for prompt in prompts for _ in range(samples)]
    lengths = [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    rows = batch_rows(lengths, profile.response_tokens, profile.eval_batch, profile.eval_tokens)
    settings = profile.response_tokens, temperature
    with merged(model):
        asked = ([prompts[i] for i in part] for part in each("batches of answers", rows))
        batches = [sample(model.eval(), tokenizer, part, *settings) for part in asked]
    found = Answers(prompts, [], [], [], batches, rows, temperature)
    found.responses = found.in_order([b.responses for b in batches])
    found.lengths = found.in_order([b.lengths.tolist() for b in batches])
    found.finished = found.in_order([b.finished.tolist() for b in batches])
    return found


def batch_rows(lengths: list[int], response_tokens: int, largest: int, budget: int) -> list[list[int]]:
    """The rows of each batch of prompts of so many tokens: at most ``largest``, and padded to the longest at
    most ``budget`` tokens.

    Where batches in the given order keep to that, they are taken, and the random numbers that a prompt
    meets do not hang on how long the others are. Where they do not, prompts of similar length go
    together. A single row is never too long.
    """

    def size(rows: list[int]) -> int:
        return len(rows) * (max(lengths[i] for i in rows) + response_tokens)

    plain = [list(range(i, min(i + largest, len(lengths)))) for i in range(0, len(lengths), largest)]
    if all(size(rows) <= budget for rows in plain):
        return plain
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if found and len(found[-1]) < largest and size([*found[-1], i]) <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found


@torch.no_grad()
def kl_to_reference(model, answers: Answers, reference: str, compute=torch.float32) -> list[float]:
    """Σ_t log π(a_t) − log π_ref(a_t) of each response, in nats: its mean estimates KL(π ‖ π_ref),
    both at the temperature of the sampling (1 for greedy answers).

    Args:
        model: with the adapter active that sampled the answers.
        reference: the adapter to compare with, or "base".
    """
    actor, found = ActorCritic(model).eval(), []
    device = next(model.parameters()).device.type
    with torch.autocast(device, compute, enabled=compute != torch.float32):
        for batch in each("batches compared", answers.batches):
            logprobs, _, _ = actor(batch, answers.temperature or 1.0)
            with using(model, reference):
                ref_logprobs, _, _ = actor(batch, answers.temperature or 1.0)
            found.append((logprobs - ref_logprobs).sum(1).tolist())
    return answers.in_order(found)


# --- paired statistics --------------------------------------------------------------------------


BLOCK = 2**23  # counts drawn at once by the bootstrap: 64 MiB


def bootstrap_interval(
    values, groups=None, confidence: float = CONFIDENCE, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of the mean (Hesterberg 2015, arXiv 1411.5279).

    The plain percentiles are too narrow for few values, for a resample of n varies too little, by
    √((n − 1)/n), and knows nothing of Student's t. Taking quantiles a little further out mends both:
    of twenty values, the plain interval holds the true mean in 92 % of all cases, this one in 95 %.
    ``scipy.stats.bootstrap`` draws no whole groups, and its BCa holds it in 91 % of all cases.

    Args:
        values: (n,) numbers.
        groups: (n,) labels; whole groups are drawn, for values that are not independent
            (several pairs or several samples of one prompt).

    Raises:
        ValueError: with no values.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("bootstrap_interval: no values.")
    _, codes = np.unique(np.arange(values.size) if groups is None else groups, return_inverse=True)
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    rng = np.random.default_rng(seed)
    means, block = [], max(1, BLOCK // sums.size)
    for done in range(0, draws, block):
        # How often each group is drawn: multinomial counts are the bootstrap without the indices.
        size = min(block, draws - done)
        drawn = rng.multinomial(sums.size, np.full(sums.size, 1 / sums.size), size=size)
        means.append((drawn @ sums) / (drawn @ counts))
    tail = expanded_tail(sums.size, confidence)
    return tuple(float(q) for q in np.quantile(np.concatenate(means), [tail, 1 - tail]))


def over_seeds(gains, draws: int = 10_000) -> list[float]:
    """[mean, low, high] of gains that were measured on the same prompts after trainings with several seeds.

    Seeds and prompts are drawn, each from its own (the pigeonhole bootstrap: Owen 2007, arXiv 0712.1111),
    with the tails of :func:`expanded_tail` for the number of seeds: few seeds make it wide. Of gains that are
    all the same (a task never right before and after) no draw differs: [0, 0, 0] is then no certainty.

    Args:
        gains: (seeds, prompts).
    """
    gains = np.asarray(gains, dtype=float)
    rng = np.random.default_rng(0)
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), size=draws) / n for n in gains.shape)
    means = np.einsum("ds,sp,dp->d", rows, gains, columns, optimize=True)
    tail = expanded_tail(len(gains))
    return [float(gains.mean()), *map(float, np.quantile(means, [tail, 1 - tail]))]


def expanded_tail(n: int, confidence: float = CONFIDENCE) -> float:
    """The quantile of the means of n drawn values at which an interval begins: 0.013 for ten values
    at 95 %, 0.025 for very many."""
    if n < 2:
        return (1 - confidence) / 2
    return float(stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, n - 1) * math.sqrt(n / (n - 1))))


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion (scipy's)."""
    return tuple(map(float, stats.binomtest(int(successes), int(n)).proportion_ci(CONFIDENCE, "wilson")))


def share_interval(values, groups=None) -> tuple[float, float]:
    """:func:`bootstrap_interval` of a share. Where all groups are alike, so that no draw differs, Wilson's of
    so many groups: three right of three are no certainty."""
    low, high = bootstrap_interval(values, groups)
    if high - low > 1e-9:
        return low, high
    n = len(values if groups is None else set(groups))
    return wilson_interval(math.floor(low * n), n)[0], wilson_interval(math.ceil(low * n), n)[1]


def share_right(gaps, groups=None) -> tuple[float, float, float]:
    """(share, low, high) of pairs whose gap is above zero; a tie counts half. The interval is
    :func:`share_interval`'s.

    Args:
        gaps: (n,) what the better of two has more than the other.
        groups: (n,) such as the prompt of each pair.

    Raises:
        ValueError: for a gap that is NaN, or without any.
    """
    right = (np.sign(gaps) + 1) / 2
    return float(right.mean()), *share_interval(right, groups)


@dataclass(frozen=True)
class PairedComparison:
    """The same prompts before and after; differences are after − before."""

    n: int  # prompts
    samples: int  # responses, of all prompts together
    before_mean: float
    before_std: float
    after_mean: float
    after_std: float
    difference: float
    low: float  # 95 % paired bootstrap interval of the difference
    high: float
    wilcoxon_p: float  # the differences are symmetric around zero
    rank_sum: float  # of Wilcoxon's ranks: above zero if those that rose have more of them
    sign_p: float  # as many prompts rose as fell
    levene_p: float  # the two spreads are equal (paired, distances from the median)
    effect_size: float  # difference / standard deviation of the differences
    share_worse: float  # prompts whose value fell
    detectable: float  # the smallest true difference that this n shows four times in five

    @property
    def verdict(self) -> str:
        """better, worse or no difference shown: interval and Wilcoxon must both say so, of the same side.

        Where nothing changed, the interval alone raises 6 to 8 false alarms in 100, the more the
        rarer and larger the changes; the two together fewer than 5 (tests/test_evaluation.py).
        """
        return self.verdict_if(higher_is_better=True)

    def verdict_if(self, higher_is_better: bool | None) -> str:
        """The verdict on a measure of which less is better (False) or that has no good side (None)."""
        if self.wilcoxon_p >= 1 - CONFIDENCE or self.rank_sum * self.difference <= 0:
            return "no difference shown"
        return verdict(self.low, self.high, higher_is_better)

    def as_dict(self) -> dict:
        """What is recorded: all but ``rank_sum``."""
        return {name: value for name, value in asdict(self).items() if name != "rank_sum"}

    def row(self, higher_is_better: bool | None = True) -> dict:
        """The numbers of a table that also holds two shares (``domain.compare_shares``); p is Wilcoxon's."""
        return {
            "n": self.n,
            "before": self.before_mean,
            "after": self.after_mean,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p": self.wilcoxon_p,
            "detectable": self.detectable if self.n >= FEWEST else None,
            "verdict": self.verdict_if(higher_is_better),
        }

    def __str__(self) -> str:
        seen = f"this n would have shown a difference of {self.detectable:.2f} or more"
        if self.n < FEWEST:
            seen = f"{self.n} prompts cannot show a difference: the rank test needs {FEWEST}"
        return (
            f"n = {self.n}: {self.before_mean:.2f} ± {self.before_std:.2f} → "
            f"{self.after_mean:.2f} ± {self.after_std:.2f}\n"
            f"difference {self.difference:+.2f} [{self.low:+.2f}, {self.high:+.2f}], "
            f"effect size {self.effect_size:.2f}, worse on {self.share_worse:.0%} of the prompts\n"
            f"Wilcoxon p = {self.wilcoxon_p:.2g}, sign test p = {self.sign_p:.2g}, "
            f"Levene p = {self.levene_p:.2g}\n{seen}"
        )


def compare_rewards(before, after, groups=None) -> PairedComparison:
    """Compare two lists of values of the same prompts, in the same order.

    Args:
        groups: the prompt of each value, where a prompt has several samples. The tests then see one
            mean a prompt, and the bootstrap draws whole prompts.

    Raises:
        ValueError: if the lists differ in length, hold fewer than 2 prompts, or hold NaN.
    """
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if before.shape != after.shape or before.size < 2:
        raise ValueError(f"compare_rewards: {before.size} and {after.size} values are no pairs.")
    change = after - before
    if not np.isfinite(change).all():
        raise ValueError(f"compare_rewards: not a number at row {int(np.argmin(np.isfinite(change)))}.")
    groups = np.arange(change.size) if groups is None else np.asarray(groups)
    per_prompt = group_means(change, groups)
    if per_prompt.size < 2:
        raise ValueError("compare_rewards: one prompt is no comparison.")
    low, high = bootstrap_interval(change, groups)
    spread = float(per_prompt.std(ddof=1))
    moved, rose = per_prompt[per_prompt != 0], int((per_prompt > 0).sum())
    return PairedComparison(
        n=per_prompt.size,
        samples=change.size,
        before_mean=float(before.mean()),
        before_std=float(before.std(ddof=1)),
        after_mean=float(after.mean()),
        after_std=float(after.std(ddof=1)),
        difference=float(change.mean()),
        low=low,
        high=high,
        wilcoxon_p=float(stats.wilcoxon(per_prompt).pvalue) if moved.size else 1.0,
        rank_sum=float(np.sign(moved) @ stats.rankdata(np.abs(moved))),
        sign_p=float(stats.binomtest(rose, moved.size).pvalue) if moved.size else 1.0,
        levene_p=_levene_p(before, after, groups),
        effect_size=float(per_prompt.mean() / spread) if spread > 0 else 0.0,
        share_worse=float((per_prompt < 0).mean()),
        detectable=detectable_mean(per_prompt.size, spread),
    )


def group_means(values, groups) -> np.ndarray:
    """(G,) mean of each group's values, in the groups' sorted order."""
    _, codes = np.unique(groups, return_inverse=True)
    return np.bincount(codes, np.asarray(values, dtype=float)) / np.bincount(codes)


def _levene_p(before, after, groups) -> float:
    """Levene's test in Brown and Forsythe's form, for pairs: Student's paired t test of the distances from
    each side's median. One mean distance a prompt, so that several samples do not count as several
    prompts."""
    distances = [group_means(np.abs(x - np.median(x)), groups) for x in (before, after)]
    further = np.subtract(*distances)
    rounding = 1e-12 * max(np.abs(before).max(), np.abs(after).max())
    if np.ptp(further) <= rounding:  # nothing to divide by, or noise of the last digit
        return float(abs(further.mean()) <= rounding)
    return float(stats.ttest_rel(*distances).pvalue)


def detectable_mean(n: int, spread: float) -> float:
    """Smallest true mean difference that n pairs show in four of five repetitions, given the standard
    deviation of the differences (normal approximation: 2.8 · spread / √n)."""
    return float((Z + POWER) * spread / math.sqrt(n))


def win_rate(before, after, groups=None) -> tuple[float, float, float]:
    """(share, low, high) of pairs that ``after`` wins; a tie is half a win. ½ is no difference."""
    return share_right(np.subtract(after, before), groups)


def verdict(low: float, high: float, higher_is_better: bool | None = True) -> str:
    """What an interval of a difference allows to say: better, worse, or no difference shown.

    With ``higher_is_better=None`` (length, KL) a difference is neither good nor bad: "changed".
    """
    if low > 0 or high < 0:
        if higher_is_better is None:
            return "changed"
        return "better" if (low > 0) == higher_is_better else "worse"
    return "no difference shown"


def mcnemar_p(correct_a, correct_b) -> float:
    """Exact McNemar test: of the items that only one of the two got right, is it one of them more?"""
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_shares_interval(correct_a, correct_b) -> tuple[float, float, float]:
    """(difference b − a, low, high) of two shares of the same items.

    Bonett and Price's adjusted Wald interval (2012, doi 10.3102/1076998611411915): one item is
    added to each discordant cell, so that "the two never disagreed" does not look like certainty.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    up, down = ((~a & b).sum() + 1) / (a.size + 2), ((a & ~b).sum() + 1) / (a.size + 2)
    middle = up - down
    reach = Z * math.sqrt((up + down - middle**2) / (a.size + 2))
    difference = float(b.mean() - a.mean())
    # A difference of two shares cannot be beyond ±1, wherever a normal interval may reach.
    return difference, max(-1.0, float(middle - reach)), min(1.0, float(middle + reach))


def detectable_difference(n: int, discordant: float) -> float | None:
    """Smallest difference of two paired shares that a McNemar test of n items shows in four of five
    repetitions (normal approximation, Connor 1987, doi 10.2307/2531961); None below ``FEWEST`` items.

    Args:
        discordant: share of the items that only one of the two gets right. A difference cannot
            be larger than that; where it must be, more disagreement is assumed.
    """

    def shortfall(difference: float) -> float:
        share = max(discordant, difference)
        needed = Z * math.sqrt(share) + POWER * math.sqrt(share - difference**2)
        return difference * math.sqrt(n) - needed

    return float(optimize.brentq(shortfall, 1e-9, 1.0)) if n >= FEWEST else None


def jackknife_difference(before: list, after: list, statistic) -> tuple[float, float, float, float]:
    """(difference, low, high, scale) of a statistic of a whole set, such as :func:`distinct_n`.

    A bootstrap would draw the same text twice and so look like repetition; leaving one prompt out
    at a time does not. ``scale`` is one prompt's standard deviation in ``before``.
    """
    n = len(before)
    if n < 2 or len(after) != n:
        raise ValueError(f"jackknife_difference: {n} and {len(after)} texts are no pairs.")
    without = [[statistic(texts[:i] + texts[i + 1 :]) for i in range(n)] for texts in (before, after)]
    spread = (n - 1) / math.sqrt(n) * np.std(np.subtract(without[1], without[0]), ddof=1)
    difference = float(statistic(after) - statistic(before))
    reach = float(Z * spread)
    scale = float((n - 1) * np.std(without[0], ddof=1))
    return difference, difference - reach, difference + reach, scale


@dataclass(frozen=True)
class LengthMatched:
    """Is the gain only length? Two answers to that."""

    slope: float  # reward per token of length, over both sets
    adjusted: float  # mean gain once that slope is taken out
    adjusted_low: float
    adjusted_high: float
    matched_n: int  # prompts whose two answers are about equally long
    matched: float  # mean gain on those; NaN without any


TOLERANCE = 0.25  # the largest relative difference of two lengths that count as equal


def length_matched(before, after, before_lengths, after_lengths) -> LengthMatched:
    """Compare rewards at equal length: by regression, and on prompts with similar lengths.

    The paired regression is change of reward on change of length; its intercept is the gain at
    no change of length. Bootstrap over prompts, with :func:`bootstrap_interval`'s tails, which scipy's
    has not.
    """
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    lengths = np.asarray(before_lengths, dtype=float), np.asarray(after_lengths, dtype=float)
    longer = lengths[1] - lengths[0]

    def fit(rows):
        x, y = longer[rows], change[rows]
        return stats.linregress(x, y)[:2] if np.ptp(x) else (0.0, y.mean())

    rng = np.random.default_rng(0)
    slope, adjusted = fit(np.arange(change.size))
    drawn = [fit(rng.integers(0, change.size, change.size))[1] for _ in range(2000)]
    tail = expanded_tail(change.size)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    similar = change[np.abs(longer) <= TOLERANCE * np.maximum(*lengths)]
    matched = float(similar.mean()) if similar.size else math.nan
    return LengthMatched(*map(float, (slope, adjusted, low, high)), similar.size, matched)


# --- sampling more instead of training ----------------------------------------------------------


def best_of_n(scores, n: int, values=None) -> np.ndarray:
    """What the best of n responses is worth, for each prompt, averaged over every choice of n of its N
    samples (exactly, by counting: no draw).

    Args:
        scores: (P, N) by which the best is chosen.
        values: (P, N) what it is then worth, such as another judge's scores; the scores themselves
            unless given.

    Returns:
        (P,)

    Raises:
        ValueError: for an n below 1 or above N.
    """
    scores = np.asarray(scores, dtype=float)
    values = scores if values is None else np.asarray(values, dtype=float)
    size = scores.shape[1]
    if not 1 <= n <= size:
        raise ValueError(f"best_of_n: the best of {n} out of {size} samples.")
    # The i-th smallest is the best of the n if the other n − 1 are among the i − 1 below it.
    weights = np.array([math.comb(i, n - 1) for i in range(size)]) / math.comb(size, n)
    return np.take_along_axis(values, scores.argsort(1, kind="stable"), 1) @ weights


def best_of_n_kl(n: int) -> float:
    """log n − (n − 1)/n nats: the KL of the best of n from the sampled model (Stiennon et al. 2020,
    arXiv 2009.01325, appendix G.3). Where samples can be equal it is an upper bound (Beirami et al.
    2024, arXiv 2401.01879)."""
    return math.log(n) - (n - 1) / n


# --- measures that PPO never saw ----------------------------------------------------------------


# Letters of languages that put no space between words, or none before an ending: Thai, Lao, Burmese, Khmer,
# Japanese, Chinese, Korean. Each is compared by itself.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Words as :func:`data.normalise` has them, and each letter of a language without spaces."""
    return WORD.findall(" ".join(normalise(text)))


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    """Every ``n`` words in a row."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_n(texts: list[str], n: int = 2) -> float:
    """Share of n-grams that are unique over all texts: 1 is never repeating, near 0 is parroting."""
    grams = [gram for text in texts for gram in ngrams(words_of(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, n: int = 3) -> float:
    """Share of a text's n-grams that it said before: 0 is never, near 1 is a loop."""
    grams = ngrams(words_of(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def encoded(tokenizer, texts: list[str], batch: int) -> Iterator[dict]:
    """Texts as an encoder reads them, ``batch`` at a time; what a text spells is text."""
    for start in range(0, len(texts), batch):
        yield tokenizer(
            texts[start : start + batch],
            padding=True,
            truncation=True,
            max_length=256,
            split_special_tokens=True,
            return_tensors="pt",
        )


class Similarity:
    """Cosine similarity of two texts by an untouched sentence encoder (mean pooling)."""

    def __init__(self, source: str = "embedded:minilm-l6"):
        self.source, path = source, assets.resolve(source)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()

    @torch.no_grad()
    def embed(self, texts: list[str], batch: int = 64) -> torch.Tensor:
        """(n, D) unit vectors."""
        found = []
        for inputs in encoded(self.tokenizer, texts, batch):
            hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            found.append((hidden * mask).sum(1) / mask.sum(1))
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    def __call__(self, a: list[str], b: list[str]) -> list[float]:
        """Cosine of a[i] and b[i]."""
        return (self.embed(a) * self.embed(b)).sum(-1).tolist()
