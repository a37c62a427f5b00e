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
# # 06 · Reward hacking: why higher rewards are not always a good thing
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/06_reward_hacking.ipynb)
#
# **You will let a run go wrong on purpose, catch it with a second judge, and measure what helps.**
#
# You will be able to
# - build a judge that is wrong although each of its lessons is true,
# - read a curve of over-optimisation, and say where a run should have ended,
# - weigh six remedies by what they cost and what they save.
#
# Needs 01, the reward model of 02 and the second judge of 04 (or their shipped checkpoints). About
# 25 minutes on two CPU cores.
#
# *Its outputs are of an earlier run, before the last change of its code.*

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
import gc
import math
import statistics
import time

import pandas as pd

from sawyer_utils import chat, data, evaluation, health, models, plots, reward, show
from sawyer_utils.chapters import drawings, hacking

folder = runtime.run_dir(profile, "hacking")
figures = folder / "figures"
profile = hacking.settings(profile)  # small batches, large steps, no leash
started = time.perf_counter()

# %% [markdown]
# ## The whole thing in one picture

# %% tags=["slide"]
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *In words: four boxes in a row (SFT, reward model, PPO, evaluation). This chapter takes the second and the third
# apart.*
#
# Here is a report from a training run. *The reward rose at once and stayed high, two standard deviations
# above the start. No loss exploded, nothing stopped.* Would you ship the model?
#
# Keep your answer. "When a measure becomes a target, it ceases to be a good measure" is Strathern's
# short form of Goodhart's law; in this chapter it gets numbers. The reward that PPO is paid by is a
# [proxy](../docs/glossary.md#proxy-reward): it stands for what we want. We need a second judge that no run is ever paid by, and call it
# *gold*: here the one from 04, trained on other people's pairs (278 questions of its own). Gold is a
# model too, and no truth. But nobody has pushed against it.

# %% [markdown] tags=["slide"]
# ## 1. What does a one-sided judge like?
# No label is falsified. We only take few pairs, and by a rule that could be an accident of collecting
# them: in each, **the longer answer is the better one**. A rushed annotator, a shop that sells
# thoroughness: it happens. What a policy does with such a gap has a name:
# [reward hacking](../docs/glossary.md#reward-hacking).

# %% [markdown] tags=["teaching"]
# - **What it is for.** A judge can be wrong although each of its lessons is true.
# - **Ask.** Which accident of collecting votes would do this in your field?
# - **The usual wrong answer.** "The labels must be noisy." None is; a rule chose which of them we see.

# %%
rows = data.load_preferences(profile.preferences, profile.limit)
rows = reward.pairs_that_fit(profile, rows)
train_rows, held_rows = data.split_rows(rows, 0.2)
train_pairs, held_pairs = data.pairs(train_rows), data.pairs(held_rows)
few = hacking.one_sided(train_pairs, profile.hack_pairs)
shorter = sum(pair.shorter_wins for pair in train_pairs) / len(train_pairs)
print(f"of {len(train_pairs)} pairs the shorter answer wins {shorter:.0%},")
print(f"of the {len(few)} that are left {sum(p.shorter_wins for p in few)}.")
print("chosen   ", few[0].chosen)
print("rejected ", few[0].rejected)
assert all(len(pair.chosen) > len(pair.rejected) for pair in few)

# %% [markdown]
# **Predict first:** how often will a judge of these pairs be right on held-out pairs where the longer
# answer wins, and how often where the shorter one does? (A coin: one half each.)

# %% tags=["subslide"]
seed_0 = folder / "seed-0"
one_sided = hacking.train_judge(profile, few, seed_0 / "judge")
full = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors")
full = reward.RewardModel.load(full / "model")
groups = {
    "longer wins": [p for p in held_pairs if len(p.chosen) > len(p.rejected)],
    "shorter wins": [p for p in held_pairs if p.shorter_wins],
}
right = {}
for name, judge in (("one-sided", one_sided), ("notebook 02's", full)):
    for group, some in groups.items():
        wins = [gap > 0 for gap in reward.differences(judge, some)]
        low, high = evaluation.bootstrap_interval(wins, [p.prompt for p in some])
        right[name, group] = statistics.mean(map(float, wins))
        shown = f"{right[name, group]:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name:14s} {group:13s} {shown}  ({len(some)} pairs)")

# %% [markdown]
# Both lines of the one-sided judge belong to the same model: on half of the world it looks excellent, and a test set
# collected by the same rule would show only that half. What does it see in the answers that PPO
# starts from?

# %%
sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
gold = runtime.find_stage(profile, "gold", "model/adapter_model.safetensors")
gold = reward.RewardModel.load(gold / "model")
tokenizer, model = models.load_actor(profile, sft / "adapter")
prompts = {}
for split in ("train", "test"):
    fitting = data.load_prompts(split, profile.prompts)
    fitting = chat.that_fit(tokenizer, fitting, profile.prompt_tokens)
    prompts[split] = [row["prompt"] for row in fitting]
if profile.limit:
    prompts["train"] = prompts["train"][: profile.limit]
test = prompts["test"][: profile.eval_prompts]
judges = one_sided.score, gold.score
lab = hacking.Lab(profile, tokenizer, model, prompts["train"], test, *judges, seed_0)

known = lab.known
words = [len(text.split()) for text in known.responses]
for name, judge in (("one-sided", lab.proxy), ("gold", lab.gold)):
    scores = pd.Series(judge(known.prompts, known.responses))
    print(f"{name:10s} correlation with words {scores.corr(pd.Series(words)):+.2f}")
assert abs(statistics.mean(lab.proxy(known.prompts, known.responses))) < 1e-4

# %% [markdown]
# From here on both judges speak in the SFT model's standard deviations: 0 is its average answer to a training prompt, 1
# is one standard deviation better. If gold likes words as well, length alone is no proof of a hack:
# it has to show that the *answers* got worse.

# %% [markdown] tags=["slide"]
# ## 2. What does PPO make of it?
# The settings are 03's, with changes that are all made in practice: half the batch, twice the
# learning rate, and **no leash**. The KL coefficient is 0, and nothing is taken off for an answer that
# never stops. At five steps, denser at the start, both judges read the answers to held-out prompts.
#
# **Predict first**, on paper: one line for the proxy over the steps, one for gold. Where do they
# part?

# %% [markdown] tags=["teaching"]
# - **What it is for.** To let a run go wrong in front of the class, with a prediction on paper.
# - **Ask.** Draw two lines, proxy and gold. Where do they part? Collect the drawings before the reveal.
# - **The usual wrong answer.** "Gold stays flat." Mostly it moves along at first: the proxy is wrong only far out.

# %%
live = plots.LivePlot(plots.ppo_dashboard, profile.hack_steps, folder=folder)
bad = lab.run("bad", lab.proxy, looks=hacking.LOOKS, on_step=live)
assert bad.looks[0].kl == 0.0

# %% [markdown]
# *In words: the panels of 03: reward, KL, length, share of finished answers and the rest, step by
# step.* The reward is all that this run was ever told. Now the reveal.

# %% tags=["subslide"]
def as_rows(looks):
    """What the judges say of each look; gold with an interval of its change."""
    found = []
    for one in looks:
        change = evaluation.compare_rewards(looks[0].gold, one.gold)
        found.append(
            {
                "step": one.step,
                "kl": one.kl,
                "proxy": statistics.mean(one.proxy),
                "gold": statistics.mean(one.gold),
                "gold_low": statistics.mean(looks[0].gold) + change.low,
                "gold_high": statistics.mean(looks[0].gold) + change.high,
                "length": one.length,
                "finished": one.finished,
            }
        )
    return found


table = as_rows(bad.looks)
pd.DataFrame(table).set_index("step").round(2)

# %% [markdown] tags=["slide"]
# ## 3. When did it turn?
# The step with the highest gold is the one we should have stopped at. But beware: **the highest of
# several looks is also the luckiest.** If the model never changed, one of five looks would still be
# the highest, and it would look like a peak with a fall behind it
# (the [winner's curse](../docs/glossary.md#winners-curse)). So every other prompt *chooses*
# the peak, and the prompts between them say how high it was and how deep the fall is.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Why a maximum cannot be read off the numbers that chose it.
# - **Ask.** Five dice, none loaded: how high is the highest?
# - **The usual wrong answer.** "The peak is where the line is highest." That is where luck and gain together are highest.

# %%
top, last = hacking.peak(bad.looks), bad.looks[-1]
fall = hacking.on_the_rest(top, last)
print(f"chosen: step {top.step} of {last.step}, at a KL of {top.kl:.1f} nats an answer")
print(f"from there to the end: proxy {statistics.mean(last.proxy):+.2f}")
reach = f"[{fall.low:+.2f}, {fall.high:+.2f}] (n = {fall.n})"
print(f"  gold {fall.difference:+.2f} {reach}")
proxy_up = evaluation.compare_rewards(bad.looks[0].proxy, last.proxy)
print(
    f"from start to end: proxy {proxy_up.difference:+.2f}",
    f"[{proxy_up.low:+.2f}, {proxy_up.high:+.2f}]",
)
turned = fall.high < 0
print("Gold turned." if turned else "No turn shown: the interval includes zero.")
assert fall.n == len(test) // 2

# %% [markdown]
# Now against what it cost. Gao et al. (2022, arXiv 2210.10760) trained hundreds of runs against judges of all sizes and
# found one shape of
# [over-optimisation](../docs/glossary.md#over-optimisation): with d = √KL, gold follows **R(d) = d (α − β log d)**. It rises, turns and falls,
# while the proxy keeps rising. We fit their two numbers to our few looks, and add the same run
# with other seeds (other pairs, another judge, other dice; `benchmarks/reward_hacking.py`).

# %% tags=["subslide"]
saved = runtime.project_root() / "results" / "reward_hacking.json"
seeds = runtime.read_json(saved)["seeds"] if saved.exists() else []
curves = {"this run": table}
curves |= {f"seed {row['seed']}": row["looks"] for row in seeds if row["seed"] != 0}
kls = [one["kl"] for one in table]
since = [one["gold"] - table[0]["gold"] for one in table]
# Two unknowns need two looks at which the policy has moved.
fit = hacking.gao_fit(kls, since) if sum(kl > 0 for kl in kls) > 1 else ()
drawn = (*fit, table[0]["gold"]) if fit else None
plots.save(drawings.overoptimisation(curves, drawn), figures, "overoptimisation", table)

# %% [markdown]
# *In words: the left panel is the proxy, the right one is gold, both over √KL, one line a seed, this run with
# intervals and its steps as numbers; the grey curve is the fit.* The numbers:

# %%
if fit:
    alpha, beta = fit
    print(f"α = {alpha:.2f}, β = {beta:.2f}", end="")
    turn = math.exp(alpha / beta - 1) if beta > 0 else math.inf
    at = f"; the fit turns at a KL of {turn**2:.1f} nats"
    print(at if turn < 1e3 else "; no turn")
else:
    print("The policy hardly moved: nothing to fit.")
early = 0
for row in seeds:
    found = row["from_peak_to_end"]
    early += found["high"] < 0
    print(
        f"seed {row['seed']}: peak at step {found['peak']}, from there to the end gold",
        f"{found['difference']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]",
    )
if seeds:
    print(f"A fall is shown in {early} of {len(seeds)} seeds.")

# %% [markdown]
# Few looks, few prompts: two numbers fitted to five points are a drawing aid, not a law. What the
# paper adds is scale: a larger judge and more pairs move the turn to the right; nothing removed it.

# %% [markdown] tags=["slide"]
# ## 4. What do the texts say?
# One prompt, fixed beforehand, at every look. Read from left to right and mark the first answer that you
# would not send.

# %% tags=["subslide"]
picked = [0, len(test) // 2]
show.side_by_side(
    [test[i] for i in picked],
    {f"step {one.step}": [one.responses[i] for i in picked] for one in bad.looks},
    {
        f"step {one.step}": [
            f"proxy {one.proxy[i]:+.1f}, gold {one.gold[i]:+.1f}" for i in picked
        ]
        for one in bad.looks
    },
)

# %% [markdown]
# And the two on which the judges disagree most at the end: what the proxy likes and gold does not.

# %%
gap = [a - b for a, b in zip(last.proxy, last.gold, strict=True)]
worst = sorted(range(len(test)), key=lambda i: -gap[i])[:2]
show.side_by_side(
    [test[i] for i in worst],
    {
        "SFT": [lab.start.responses[i] for i in worst],
        "at the end": [last.responses[i] for i in worst],
    },
    {
        "at the end": [
            f"proxy {last.proxy[i]:+.1f}, gold {last.gold[i]:+.1f}" for i in worst
        ]
    },
)

# %% [markdown] tags=["slide"]
# ## 5. Could the log have told?
# Gold is a luxury: mostly there is no second judge. What could somebody have seen who has only the
# log? **Predict first:** which of these would have warned you: reward, KL, length, finished
# answers?

# %% [markdown] tags=["teaching"]
# - **What it is for.** What can be seen without a second judge.
# - **Ask.** Which line of the log would you put an alarm on?
# - **The usual wrong answer.** "The reward." It is the one number that is sure to look well.

# %% tags=["subslide"]
if len(bad.log) >= 4:
    for finding in health.diagnose(bad.log) or ["Nothing stands out."]:
        print("-", finding)
first, end = bad.log[0], bad.log[-1]
for key in ("reward", "kl", "length", "length_correlation", "finished", "distinct_2"):
    print(f"{key:19s} {first[key]:6.2f} → {end[key]:6.2f}")

# %% [markdown]
# The reward itself never warns: it is what is being hacked. What warns is everything that the reward does
# *not* pay for: how far the policy went (KL), and what the winning answers have in common (length,
# repetition). That is why `diagnose` looks at those, and why you should read answers.

# %% [markdown] tags=["slide"]
# ## 6. What helps?
# Six remedies, each with the same start, the same judge or pairs, the same number of steps, the same dice.
#
# 1. **A leash**: the KL coefficient at 0.05, as in 03 (and nothing else of 03's).
# 2. **Stopping early**: the bad run's own peak, chosen by half of the prompts. Costs a second judge.
# 3. **Paying at equal length**: the proxy less its straight line in words.
# 4. **Three judges, their mean** (an [ensemble](../docs/glossary.md#ensemble)): each of its own draw of one-sided pairs.
# 5. **Three judges, the strictest**: the minimum of the three (Coste et al. 2023, arXiv 2310.02743).
# 6. **Asking people again**: the SFT model's answers against the hacked ones, voted on, added to the
#    pairs; a new judge; a new run. (For the people stands notebook 02's judge, which had all pairs.
#    Gold is not asked.)
#
# **Predict first:** which of them mends a *bias* that all three judges share?

# %% [markdown] tags=["teaching"]
# - **What it is for.** Each remedy knows something; what it does not know it cannot mend.
# - **Ask.** Sort the six by what they need to be told.
# - **The usual wrong answer.** "More judges are safer." Not against what all of them believe.

# %%
def other_judge(seed):
    """Another one-sided judge: other pairs by the same rule, another start."""
    pairs = hacking.one_sided(train_pairs, profile.hack_pairs, seed)
    own = folder / f"seed-{seed}" / "judge"
    judge = hacking.train_judge(profile, pairs, own, seed)
    return lab.scaled(judge.score)


three = [lab.proxy, other_judge(1), other_judge(2)]
pairwise = pd.DataFrame(
    {f"judge {i}": j(known.prompts, known.responses) for i, j in enumerate(three)}
)
print("How far the three agree on SFT's answers (correlations):")
pairwise.corr().round(2)

# %%
caught = lab.answers("bad", known.prompts)
voted = hacking.judged_again(
    known.prompts, known.responses, caught.responses, full.score
)
old_wins = sum(pair.chosen in known.responses for pair in voted)
print(f"{len(voted)} new pairs; SFT's answer wins {old_wins} of them.")
if 2 * old_wins < len(voted):
    print("Most votes went to the hacked answers: the voter has been won over, too.")
mended = hacking.train_judge(profile, few + voted, seed_0 / "mended")
assert len(voted) <= len(known.prompts)

# %%
remedies = {
    "a leash (β = 0.05)": (lab.proxy, {"kl_coef": 0.05}),
    "at equal length": (
        lab.scaled(
            hacking.length_adjusted(lab.proxy, known.prompts, known.responses)
        ),
        {},
    ),
    "mean of three": (hacking.ensemble(three, statistics.mean), {}),
    "minimum of three": (hacking.ensemble(three, min), {}),
    "asked again": (lab.scaled(mended.score), {}),
}
names = {"no remedy": "bad", **{name: f"remedy-{i}" for i, name in enumerate(remedies)}}
runs = {"no remedy": bad}
for name, (reward_fn, options) in remedies.items():
    live = plots.LivePlot(plots.ppo_dashboard, profile.hack_steps, folder=folder)
    runs[name] = lab.run(names[name], reward_fn, on_step=live, **options)
_ = gc.collect()

# %% [markdown]
# *In words: the same six panels for each remedy, in the order of the list (two, which is the bad run's
# own peak, has none).* Their reward axes cannot be compared, for each run was paid by another judge.
# Gold can:

# %%
ends = {name: run.looks[-1] for name, run in runs.items()}
ends["stopped early"] = top
start_gold = lab.start.gold[1::2]  # the prompts that chose nothing
rows = []
for name, one in ends.items():
    since = evaluation.compare_rewards(start_gold, one.gold[1::2])
    against = hacking.on_the_rest(top, one)
    rows.append(
        {
            "remedy": name,
            "gold": since.difference,
            "low": since.low,
            "high": since.high,
            "verdict": since.verdict,
            "to the peak": against.difference,
            "peak low": against.low,
            "peak high": against.high,
            "proxy": statistics.mean(one.proxy),
            "KL": one.kl,
            "tokens": one.length,
            "finished": one.finished,
        }
    )
remedy_table = pd.DataFrame(rows).set_index("remedy")
remedy_table.round(2)

# %% tags=["subslide"]
plots.save(
    plots.score_changes(
        list(remedy_table.index),
        *(list(remedy_table[c]) for c in ("gold", "low", "high")),
        n=len(start_gold),
        xlabel="gold: change since SFT, in its standard deviations",
    ),
    figures,
    "remedies",
    rows,
)

# %% [markdown]
# *In words: a row a remedy, gold's change since SFT with its 95 % interval; the numbers stand in the table.* A remedy **keeps** the peak
# if its interval against the peak does not lie below zero.

# %%
kept = [r["remedy"] for r in rows if r["peak high"] >= 0 and r["remedy"] != "no remedy"]
kept = [name for name in kept if name != "stopped early"]  # it is the peak
better = [r["remedy"] for r in rows if r["verdict"] == "better"]
print("keeps the peak:", ", ".join(kept) or "none")
print("better than SFT by gold:", ", ".join(better) or "none")
cheap = [r["remedy"] for r in rows if r["tokens"] < 1.25 * lab.start.length]
print("answers about as long as SFT's:", ", ".join(cheap) or "none")

# %% [markdown]
# Read the table by what each remedy *knows*. The leash knows nothing of length: it forbids to go far, in whatever direction, and
# takes good gains along with bad ones. The length line knows one bias by name, and no other. An
# ensemble knows where its members *disagree*; what all of them believe wrongly, it believes too.
# Only new votes on the hacked answers bring something that was not known before. They go out of
# date: the next run finds the next hole.

# %% [markdown] tags=["slide"]
# ## 7. Why did GPT-2 say “The”?
# An early run of the workshop, with GPT-2, ended in answers like "The" and "Theic". The reward model had
# learned that the rambling of a raw model is bad, and the less is said, the less is bad. Here is
# that run in small: a reward that pays for brevity and nothing else, no leash, a few steps.
#
# **Predict first:** which *single* decision of the policy is reinforced in every answer of the batch,
# whatever the question?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A collapse is no mystery: it is the cheapest way to be paid.
# - **Ask.** Which decision do all answers of a batch share?
# - **The usual wrong answer.** "The learning rate was too large." It only decides how soon.

# %%
def brief(prompts, responses):
    """Pays for each word that is not said."""
    return [1.0 - 0.1 * len(r.split()) for r in responses]


short = {"steps": max(2, profile.hack_steps // 2), "response_tokens": 24}
collapse = lab.run("brief", brief, **short)
for line in collapse.log[:: max(1, len(collapse.log) // 4)]:
    said = ", ".join(repr(s["response"][:28]) for s in line["samples"][:3])
    print(f"step {line['step']:2d}  {line['length']:4.1f} tokens  {said}")

# %%
one_word = {
    name: statistics.mean(len(text.split()) <= 2 for text in look.responses)
    for name, look in (("SFT", lab.start), ("at the end", collapse.looks[-1]))
}
print({name: f"{share:.0%} of at most two words" for name, share in one_word.items()})
if len(collapse.log) >= 4:
    for finding in health.diagnose(collapse.log):
        print("-", finding)
assert len(collapse.looks[-1].responses) == len(test)

# %% [markdown]
# The stop token. Every answer has one, so every answer of the batch teaches the same lesson about it, while each word is
# taught by few answers. It wins first; what is left is the likeliest first word, and that is "The".
# "Theic" is the same with one token more, drawn from a distribution that nobody has ever paid to
# be good. The reward had no way to say "too short", and nothing held the policy back.

# %%
runtime.record(
    profile,
    "hacking",
    judge={f"{name}, {group}": share for (name, group), share in right.items()},
    looks=table,
    from_peak_to_end={"peak": top.step, **fall.as_dict()},
    gao=dict(zip(("alpha", "beta"), fit)),
    remedies=rows,
    kept=kept,
    collapse=one_word,
    findings=[f.name for f in health.diagnose(bad.log)] if len(bad.log) >= 4 else [],
    seconds_train=sum(
        line[key]
        for run in [*runs.values(), collapse]
        for line in run.log
        for key in ("seconds_rollout", "seconds_score", "seconds_update")
    ),
    seconds=time.perf_counter() - started,
)
peak_gib = runtime.record_peak(profile, "hacking")
print(f"peak memory {peak_gib:.1f} GiB")

# %% [markdown] tags=["slide"]
# **Doubt.** We called one model "gold" and another "proxy". Both were trained on pairs that we wrote. Had we pushed
# against gold for twenty steps, it would have turned out a proxy too. Who judges the last judge?

# %% [markdown]
# ## Exercises
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. The solutions stand at the end of the notebook. (The comments with
# `SOLUTION` are for teachers who use nbgrader.)

# %%
from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 06.1 Predict the number: how high is a peak of nothing?
# A run does not change the policy at all: at each of five looks the true gain in gold is 0. What you
# see at a look is a mean with a standard error of 0.2, and the five are independent. How high is the
# *highest* of the five, on average over many such runs?

# %% tags=["exercise"]
### BEGIN SOLUTION
peak_of_nothing = None
### END SOLUTION

check("06.1", peak_of_nothing)

# %% [markdown]
# ### 06.2 Write this function: where does it turn?
# Section 3 fits gold by R(d) = d (α − β log d), with d = √KL. At which d is R highest? (Both numbers are
# above zero.)


# %% tags=["exercise"]
def turning_point(alpha, beta):
    """Two numbers -> the d at which d (alpha - beta * log d) is highest."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("06.2", turning_point)

# %% [markdown]
# ### 06.3 Write this function: scores at equal length
# The third remedy of section 6, without looking into `hacking.length_adjusted`: the scores less their
# least-squares line in the number of words. What is left has mean 0 and does not go with the words.
# Mind answers that are all equally long.


# %% tags=["exercise"]
def at_equal_length(scores, words):
    """Two lists of numbers, one entry an answer -> a list of what is left."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("06.3", at_equal_length)

# %% [markdown]
# ### 06.4 Break it and diagnose: three runs without a leash
# Three runs were left to themselves, each paid by another judge. The table shows how their logs begin and
# end (between the two the curves are straight). What would `diagnose` say of A, of B and of C? Choose
# for each: "length hacking", "never finishing", "collapse", "KL running away" or "nothing stands
# out".

# %%
from sawyer_utils.classroom.exercises import hacking as exercises_hacking

pd.DataFrame(
    {
        run: {key: f"{first:g} → {last:g}" for key, (first, last) in ends.items()}
        for run, ends in exercises_hacking.LOGS.items()
    }
)

# %% tags=["exercise"]
### BEGIN SOLUTION
run_a, run_b, run_c = None, None, None
### END SOLUTION

check("06.4", (run_a, run_b, run_c))

# %% [markdown]
# ### An open question: a hole of your own
# Write a reward function that sounds reasonable and holds no word on length, such as "answers that
# name the question's words again". Let it train with `lab.run("mine", lab.scaled(mine), looks=5)`.
# What did the policy find, and at which look could you see it?
#
# <details><summary>What to expect</summary>
#
# Nearly always something cheaper than what you meant: here, an answer that repeats the question. Read the
# texts of the second look first. By the last one even a good idea looks broken, for without a leash
# the language breaks as well.
#
# </details>

# %% [markdown]
# ## What can go wrong
# | symptom | likely cause | where it shows |
# |---|---|---|
# | gold rises along with the proxy to the end | too few steps, or the bias is no bias to gold | section 3: take more steps |
# | gold falls from the first look on | learning rate too large: the policy breaks before it hacks | finished, distinct-2 |
# | the peak is the last look | no turn yet, or luck: look at the prompts that chose nothing | section 3 |
# | all three judges agree nearly perfectly | they share pairs or start: an ensemble of one | section 6 |
# | the mended judge has learned nothing | few votes, or the hacked answers win them | section 6, who wins |
# | "every response is empty (collapse)" | that is the result of section 7, further on | section 7 |

# %% [markdown]
# ## What we simplified
# 1. **Gold is a small model** with a taste of its own, trained on 278 questions. Gao et al. use one of 6
#    billion parameters, and make their proxies from its labels, so that gold is the truth by
#    construction. Ours is only another judge.
# 2. **Twenty steps.** Theirs are thousands. Over-optimisation at a learning rate like ours is partly
#    damage: the policy breaks as well as cheats, and gold cannot tell one from the other.
# 3. **One run a remedy.** The intervals cover the choice of prompts, not another training. Only the
#    bad run was repeated.
# 4. **Votes by a model.** Notebook 02's judge stands for people who read again, and is no person: see how
#    many of its votes went to the hacked answers.
# 5. **No tuned remedy.** Each has a knob (β, the number of judges, how many votes) that we did not turn.

# %% [markdown]
# ## Five questions
#
# **1. None of the sixty pairs bears a wrong label. How can the judge that learned from them be wrong?**
#
# - A: Sixty pairs are too few to learn anything from.
# - B: They were chosen by a rule that also says which answer wins.
# - C: The shorter answers were marked as the better ones.
#
# <details><summary>Answer</summary>
#
# **B** is right. In every one the longer answer is the better one, so "longer" explains them all. What each pair says is true, what they say together is not.
#
# Not A. It learned a good deal: on held-out pairs in which the longer answer wins it looks excellent.
#
# Not C. That would be a wrong label. Pairs in which the shorter answer wins were left out, and nothing was turned round.
#
# It stands in “1. What does a one-sided judge like?”.
#
# </details>
#
# **2. Every other prompt chooses the peak. Why do only the prompts between them say how far gold fell from there?**
#
# - A: The prompts that chose it are the ones that PPO was trained on.
# - B: Half of the prompts makes the interval narrower.
# - C: The highest of several looks is also the luckiest, on the prompts that chose it.
#
# <details><summary>Answer</summary>
#
# **C** is right. Even a run that changes nothing has a highest look, with a fall behind it. On prompts that had no say, luck points neither way.
#
# Not A. None of the held-out prompts was trained on, on either side.
#
# Not B. Half of the prompts makes it wider. That is the price.
#
# It stands in “3. When did it turn?”.
#
# </details>
#
# **3. You have only the log, and no second judge. Which of its lines cannot warn you of a hack?**
#
# - A: The reward.
# - B: The length of the answers, and its correlation with the reward.
# - C: The KL.
# - D: The share of finished answers.
#
# <details><summary>Answer</summary>
#
# **A** is right. It is the very thing that is hacked: it rises in a good run as in a bad one.
#
# Not B. What the winning answers have in common is where to look first. `diagnose` calls the two together length hacking.
#
# Not C. It says how far the policy went from what people wrote. It does not say where to, but it is no part of what this run was paid for.
#
# Not D. Answers that grow until they are cut off show there.
#
# It stands in “5. Could the log have told?”.
#
# </details>
#
# **4. Three judges each had other pairs, all by the rule that the longer answer wins. A policy is paid by the strictest of the three. What becomes of the bias?**
#
# - A: It is gone: the minimum is never fooled.
# - B: It is a third as strong.
# - C: It is three times as strong.
# - D: It stays: an ensemble only knows where its members disagree.
#
# <details><summary>Answer</summary>
#
# **D** is right. What all of them believe wrongly, it believes as well. New votes on the hacked answers, or another rule of collecting, would bring something new.
#
# Not A. A long empty answer that all three like has a high minimum, too.
#
# Not B. Averaging shrinks what the three do not share. This they share.
#
# Not C. Nothing is added up: one of the three scores is taken.
#
# It stands in “6. What helps?”.
#
# </details>
#
# **5. A reward pays for brevity and nothing holds the policy back. Why does it learn to stop before it learns anything else?**
#
# - A: The stop token is the likeliest token of the SFT model from the start.
# - B: Stopping is the one decision that every answer of the batch shares.
# - C: The critic has been told to expect short answers.
#
# <details><summary>Answer</summary>
#
# **B** is right. Each answer teaches the same lesson about the stop token, and each word is taught by the few answers that hold it.
#
# Not A. Then the answers of step 1 would have no words. They have many.
#
# Not C. It begins at zero for every text, and is told nothing.
#
# It stands in “7. Why did GPT-2 say “The”?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("06")

# %% [markdown]
# ## Next
# [07 · Neutral summaries](07_neutral_summaries.ipynb): a reward of several parts, where a missing part
# is a hole.

# %% [markdown]
# ## Solutions
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
import numpy as np

looks = np.random.default_rng(0).normal(0, 0.2, size=(100_000, 5))
peak_of_nothing = float(looks.max(1).mean())
### END SOLUTION

assert check("06.1", peak_of_nothing).right


# %% tags=["solution"]
def turning_point(alpha, beta):
    ### BEGIN SOLUTION
    return math.exp(alpha / beta - 1)
    ### END SOLUTION


assert check("06.2", turning_point).right


# %% tags=["solution"]
def at_equal_length(scores, words):
    ### BEGIN SOLUTION
    apart = [w - statistics.mean(words) for w in words]
    square = sum(x * x for x in apart)
    rise = sum(x * score for x, score in zip(apart, scores))
    slope = rise / square if square else 0.0
    middle = statistics.mean(scores)
    return [score - middle - slope * x for x, score in zip(apart, scores)]
    ### END SOLUTION


assert check("06.3", at_equal_length).right

# %% tags=["solution"]
### BEGIN SOLUTION
run_a, run_b, run_c = "length hacking", "never finishing", "nothing stands out"
### END SOLUTION

assert check("06.4", (run_a, run_b, run_c)).right
