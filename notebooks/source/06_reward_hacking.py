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
# - read a curve of over-optimisation, and say at which step a run should have ended,
# - test a remedy on the answers that fooled the judge, before you pay for another run.
#
# Needs 01, the reward model of 02 and the second judge of 04 (or their shipped checkpoints). About
# 7 minutes on two CPU cores.
#
# In our run the reward that PPO was trained on rose by 1.06 standard deviations of SFT's answers; the second judge shows no
# difference (+0.22), and in the end only two in five answers stop by themselves.

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

# %% [markdown]
# ## The whole thing in one picture

# %% tags=["slide"]
import math
import statistics
import time

import pandas as pd
from IPython.display import display

from sawyer_utils import chat, data, evaluation, health, models, plots, reward, show
from sawyer_utils.chapters import drawings, hacking
from sawyer_utils.classroom.checks import check

folder = runtime.run_dir(profile, "hacking")
figures = folder / "figures"
profile = hacking.settings(profile)  # 03's settings, smaller batches, and no leash
started = time.perf_counter()
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation.*
#
# A report says: *the reward rose; no loss exploded, nothing stopped.* Would you ship the model?
#
# The reward that PPO is paid by is a [proxy](../docs/glossary.md#proxy-reward): it stands for what we want. To see whether
# the two differ, we need a second judge that no run is paid by. We call it *gold*: here the one of 04, trained on other
# questions. It is a model too, not the truth, but nothing has been trained against it.

# %% [markdown] tags=["slide"]
# ## 1. What does a one-sided judge like?
#
# No label is falsified. We take few pairs, by a rule that could be an accident of collecting them: in each, **the
# longer answer is the better one**. A policy that exploits such a fault of the judge does
# [reward hacking](../docs/glossary.md#reward-hacking).

# %% [markdown] tags=["teaching"]
# - **What it is for.** A judge can be wrong although each of its lessons is true.
# - **Ask.** Which accident of collecting votes would do this in your field?
# - **The usual wrong answer.** "The labels must be noisy." None is; a rule chose which of them we see.

# %%
rows = data.load_preferences(profile.preferences, profile.limit)
rows = data.untested(rows, data.load_prompts("test", profile.prompts))
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
# The judge is 02's small encoder, fine-tuned with LoRA on these pairs: it is easy to mislead. Beside it stands the judge
# that 02 ended with, trained on all pairs.
#
# **Predict first:** how often will a judge of these pairs be right on held-out pairs where the longer answer wins, and
# how often where the shorter one does?

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
        gaps = reward.differences(judge, some)
        share, low, high = evaluation.share_right(gaps, [p.id for p in some])
        right[f"{name}, {group}"] = share
        shown = f"{share:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name:14s} {group:13s} {shown}  ({len(some)} pairs)")

# %% [markdown]
# In our run the one-sided judge is right on 0.89 of the pairs where the longer answer wins, and on 0.31 of the others.
# A test set collected by the same rule holds only pairs of the first kind, and would not show the fault.

# %%
sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
gold = runtime.find_stage(profile, "gold", "model/adapter_model.safetensors")
gold = reward.RewardModel.load(gold / "model")
tokenizer, model = models.load_actor(profile, sft / "adapter")
limits = {"train": profile.limit, "test": profile.eval_prompts}
prompts = {}
for split, limit in limits.items():
    fitting = data.load_prompts(split, profile.prompts)
    fitting = chat.that_fit(tokenizer, fitting, profile.prompt_tokens)
    prompts[split] = [row["prompt"] for row in data.spread(fitting, limit)]
test = prompts["test"]
judges = one_sided.score, gold.score
lab = hacking.Lab(profile, tokenizer, model, prompts["train"], test, *judges, seed_0)

known = lab.known  # answers of SFT to training prompts
words = pd.Series([len(text.split()) for text in known.responses])
with_words = {}
for name, judge in (("one-sided", lab.proxy), ("gold", lab.gold)):
    scores = pd.Series(judge(known.prompts, known.responses))
    with_words[name] = scores.corr(words)
    print(f"{name:10s} correlation with words {with_words[name]:+.2f}")
assert abs(statistics.mean(lab.proxy(known.prompts, known.responses))) < 1e-4

# %% [markdown]
# In our run the one-sided judge's scores go with the number of words (0.57), gold's do not (−0.06). Both judges' scores
# are now in standard deviations of the SFT model's answers to training prompts; 0 is their mean.

# %% [markdown] tags=["slide"]
# ## 2. What does PPO make of it?
#
# The settings are 03's, but for half the batch, one pass over it, fewer steps, shorter answers, and **no leash**: β is 0,
# and nothing is taken off for an answer that never stops. At five steps both judges read the answers to held-out prompts.
#
# **Predict first**, on paper: one line for the proxy over the steps, one for gold. Where do they separate?

# %% [markdown] tags=["teaching"]
# - **What it is for.** To let a run go wrong in front of the class, with a prediction on paper.
# - **Ask.** Draw two lines, proxy and gold. Where do they part? Collect the drawings before the reveal.
# - **The usual wrong answer.** "Gold falls as the proxy rises." It depends on what the first steps change besides the length.


# %%
def curves(log):
    """The run's four curves, redrawn as it goes."""
    return drawings.ppo_overlay({"no remedy": log})


live = plots.LivePlot(curves, profile.ppo_steps, folder=folder)
bad = lab.run("bad", lab.proxy, looks=hacking.LOOKS, on_step=live)
assert bad.looks[0].kl == 0.0

# %% [markdown]
# *Four panels over the steps: reward, KL, length, share of finished answers.* Each point is one batch of training prompts.
# Now both judges on the held-out prompts, with an interval of gold's change since SFT:

# %% tags=["subslide"]
table = []
for one in bad.looks:
    change = evaluation.compare_rewards(lab.start.gold, one.gold)
    table.append(
        {
            "step": one.step,
            "kl": one.kl,
            "proxy": statistics.mean(one.proxy),
            "gold": statistics.mean(one.gold),
            "gold_low": statistics.mean(lab.start.gold) + change.low,
            "gold_high": statistics.mean(lab.start.gold) + change.high,
            "length": one.length,
            "finished": one.finished,
        }
    )
display(pd.DataFrame(table).set_index("step").round(2))
plots.save(drawings.overoptimisation(table), figures, "overoptimisation", table)

# %% [markdown]
# *Proxy and gold over √KL, gold with its interval.*
#
# In our run the proxy went from 0.16 to 1.23 and gold from 0.07 to 0.28, at a KL of 12 nats. Answers that end fell
# from 0.89 to 0.40.
#
# Gao et al. (2022, arXiv 2210.10760) trained hundreds of runs and found one shape of
# [over-optimisation](../docs/glossary.md#over-optimisation): with d = √KL, gold follows **R(d) = d (α − β log d)**. It rises, turns and falls, while the
# proxy keeps rising (this β is not the KL's). A larger judge and more pairs moved the turn to the right; nothing removed it.

# %% [markdown] tags=["slide"]
# ## 3. When did it turn?
#
# The step with the highest gold is the one to stop at. But **the highest of several looks is also the luckiest**, even
# if the model never changed (the [winner's curse](../docs/glossary.md#winners-curse)). So every other prompt *chooses* the
# step, and the rest say how gold changed before and after it.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Why a maximum cannot be read off the numbers that chose it.
# - **Ask.** Five dice, none loaded: how high is the highest?
# - **The usual wrong answer.** "The peak is where the line is highest." That is where luck and gain together are highest.

# %%
top, last = hacking.peak(bad.looks), bad.looks[-1]
rise = hacking.on_the_rest(lab.start, top)
fall = hacking.on_the_rest(top, last)
whole = evaluation.compare_rewards(lab.start.gold, last.gold)
proxy_up = evaluation.compare_rewards(lab.start.proxy, last.proxy)
print(f"chosen: step {top.step} of {last.step}, at a KL of {top.kl:.1f} nats an answer")
changes = {
    f"gold from the start to step {top.step}": rise,
    f"gold from step {top.step} to the end": fall,
    "gold from the start to the end": whole,
    "proxy from the start to the end": proxy_up,
}
for name, c in changes.items():
    shown = f"{c.difference:+.2f} [{c.low:+.2f}, {c.high:+.2f}]"
    print(f"{name:33s} {shown} (n = {c.n}): {c.verdict}")
assert fall.n == len(test) // 2

# %% [markdown]
# In our run gold is highest at the last step: there is no turn to stop at. On the prompts that did not choose it, gold
# changed by +0.12 since the start (no difference shown), while the proxy rose by 1.06. The proxy's gain is not gold's;
# that gold falls is not shown.

# %% [markdown] tags=["slide"]
# ## 4. What do the texts say?
#
# One prompt, fixed beforehand, at every look. Read from left to right and mark the first answer that you would not send.

# %% tags=["subslide"]
first = 0  # the first of the held-out prompts
show.side_by_side(
    [test[first]],
    {f"step {one.step}": [one.responses[first]] for one in bad.looks},
    {
        f"step {one.step}": [
            f"proxy {one.proxy[first]:+.1f}, gold {one.gold[first]:+.1f}"
        ]
        for one in bad.looks
    },
)

# %% [markdown]
# In our run this answer was long from the start, and the proxy hardly moves. Now the two on which the judges disagree most
# at the end.

# %%
gap = [a - b for a, b in zip(last.proxy, last.gold, strict=True)]
worst = sorted(range(len(test)), key=lambda i: -gap[i])[:2]
ends = {"SFT": lab.start, "at the end": last}
show.side_by_side(
    [test[i] for i in worst],
    {name: [one.responses[i] for i in worst] for name, one in ends.items()},
    {
        name: [f"proxy {one.proxy[i]:+.1f}, gold {one.gold[i]:+.1f}" for i in worst]
        for name, one in ends.items()
    },
)

# %% [markdown] tags=["slide"]
# ## 5. Could the log have told?
#
# What could somebody have seen who has only the log? **Predict first:** which of these would have warned you: reward, KL,
# length, finished answers?

# %% [markdown] tags=["teaching"]
# - **What it is for.** What can be seen without a second judge.
# - **Ask.** Which line of the log would you put an alarm on?
# - **The usual wrong answer.** "The reward." It is the one number that is sure to look well.

# %% tags=["subslide"]
found = health.diagnose(bad.log) if len(bad.log) >= 4 else []
for finding in found or ["Nothing stands out."]:
    print("-", finding)
begin, end = bad.log[0], bad.log[-1]
for key in ("reward", "kl", "length", "length_correlation", "finished", "distinct_2"):
    print(f"{key:19s} {begin[key]:6.2f} → {end[key]:6.2f}")

# %% [markdown]
# The reward never warns: it is what is being hacked. What warns is what the reward does *not* pay for: how far the policy
# went, and what the winning answers have in common. `diagnose` looks at those, averaged over the last quarter of the
# steps; the lines below are the first and the last step's. (`distinct_2`: share of word pairs not repeated.)

# %% [markdown] tags=["slide"]
# ## 6. What helps?
#
# Five remedies, sorted by what each of them has to know:
#
# 1. **A leash and a fee**, as in 03: β = 0.05, and 2 taken off an answer that does not stop. It knows nothing of the hack.
# 2. **Stopping early**: the step of section 3. It needs a second judge.
# 3. **Two judges, the stricter counts** (an [ensemble](../docs/glossary.md#ensemble); Coste et al. 2023, arXiv 2310.02743). The second one learned
#    other pairs of the same kind. It helps only where the two *disagree*.
# 4. **Paying at equal length**: the proxy minus its straight-line fit to the number of words. It knows one fault.
# 5. **Asking again**: new votes on SFT's answers against the hacked ones, and a new judge. It learns something new. (02's
#    judge stands for the voters.)
#
# The last three change the judge. Before anything is trained we can ask: **does it still prefer the answers that fooled
# the first one?** Predict it for each.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Each remedy knows something; what it does not know it cannot mend.
# - **Ask.** Sort the five by what they need to be told.
# - **The usual wrong answer.** "More judges are safer." Not against what all of them believe.

# %%
pairs = hacking.one_sided(train_pairs, profile.hack_pairs, seed=1)
second = hacking.train_judge(profile, pairs, folder / "seed-1" / "judge", seed=1)
two = [lab.proxy, lab.scaled(second.score)]

hacked = lab.answers("bad", known.prompts).responses  # to training prompts
asked = known.prompts, known.responses
voted = hacking.judged_again(*asked, hacked, full.score)
old_wins = sum(pair.chosen in known.responses for pair in voted)
print(f"{len(voted)} new pairs; SFT's answer wins {old_wins} of them.")
mended = hacking.train_judge(profile, few + voted, seed_0 / "mended")
mended = lab.scaled(mended.score)
changed = {
    "the proxy": lab.proxy,
    "two, the stricter": lab.scaled(hacking.ensemble(two, min)),
    "at equal length": lab.scaled(hacking.length_adjusted(lab.proxy, *asked)),
    "asked again": mended,
    "the voter: 02's judge": lab.scaled(full.score),
    "gold": lab.gold,
}

# %% tags=["subslide"]
prefers = []
for name, judge in changed.items():
    before, after = (judge(test, one.responses) for one in (lab.start, last))
    c = evaluation.compare_rewards(before, after)
    prefers.append(
        {
            "measure": name,
            "difference": c.difference,
            "low": c.low,
            "high": c.high,
            "verdict": c.verdict,
            "scale": 1.0,
        }
    )
title = f"hacked answers minus SFT's, by each judge (n = {len(test)})"
means = {"better": "pays for the hack", "worse": "does not pay for it"}
shown = pd.DataFrame(prefers).replace({"verdict": means})
drawn = drawings.differences(shown, title)
plots.save(drawn, figures, "prefers", prefers)

# %% [markdown]
# *A row a judge: how much higher it scores the hacked answers to held-out prompts than SFT's, in its own standard
# deviations of SFT's answers. Orange: it would pay for the hack.*
#
# In our run the stricter of two scores the hacked answers +1.18 and the judge that was asked again +0.77: both would still
# pay for the hack. The proxy at equal length (+0.08) would not, and shows no difference, as gold does. The votes preferred
# the hacked answer in 34 of 64 pairs, so there was little to learn from them.
#
# A judge that passes has mended *this* hack; a run may find another. Two remedies get a run, whatever this test says: the
# leash with its fee, paid by the unmended proxy, and the judge that was asked again, without a leash.

# %%
fenced = {"kl_coef": 0.05, "missing_stop_penalty": 2.0}
runs = {
    "no remedy": bad,
    "leash and fee": lab.run("fenced", lab.proxy, **fenced),
    "asked again": lab.run("again", mended),
}
logs = {name: run.log for name, run in runs.items()}
plots.save(drawings.ppo_overlay(logs), figures, "remedies_log")

# %% [markdown]
# *Four panels as in section 2, a line a run. Each run's reward is by the judge that paid it.*
#
# A remedy should not cost what SFT could do. "No difference shown" is no proof of that, so we fixed a **margin** before
# the run: a remedy *holds* if the whole interval of gold's change since SFT lies above −0.25, and at least 80 % of its
# answers are finished.

# %% tags=["subslide"]
MARGIN, FINISHED = -0.25, 0.8
remedies = []
ended = {name: run.looks[-1] for name, run in runs.items()}
for name, one in {**ended, "stopped early": top}.items():
    since = evaluation.compare_rewards(lab.start.gold, one.gold)
    if name == "stopped early":  # on the prompts that did not choose its step
        since = hacking.on_the_rest(lab.start, one)
    remedies.append(
        {
            "remedy": name,
            "gold": since.difference,
            "low": since.low,
            "high": since.high,
            "verdict": since.verdict,
            "n": since.n,
            "proxy": statistics.mean(one.proxy),
            "KL": one.kl,
            "tokens": one.length,
            "finished": one.finished,
            "holds": since.low > MARGIN and one.finished >= FINISHED,
        }
    )
remedy_table = pd.DataFrame(remedies).set_index("remedy")
display(remedy_table.round(2))
changes = remedy_table.rename_axis("measure").reset_index()
changes = changes.rename(columns={"gold": "difference"}).assign(scale=1.0)
title = "gold at the end of each run, minus SFT"
plots.save(drawings.differences(changes, title), figures, "remedies", remedies)

# %% [markdown]
# *A row a run: gold's change since SFT with its 95 % interval, coloured by its verdict.*
#
# In our run gold changed by −0.32 with the leash and its fee (worse), and by −0.17 with the judge that was asked again:
# neither holds. "No remedy" passes by gold and fails by its unfinished answers; "stopped early", here the last step on half
# of the prompts, fails by both.
#
# Each row is **one training with one seed**. For 03's run, with 02's judge, five seeds were measured:

# %%
seeds = runtime.read_json(runtime.project_root() / "results" / "ppo_seeds.json")
for judge, key in (("the judge that is paid for", "reward"), ("gold", "gold")):
    gains = [row[key][0] for row in seeds["rows"]]
    low, high, spread = min(gains), max(gains), statistics.stdev(gains)
    print(f"03, {len(gains)} seeds, gain by {judge}:", end=" ")
    print(f"{low:+.2f} to {high:+.2f}, standard deviation {spread:.2f}")

# %% [markdown]
# A difference of about this size between two rows may be the seed's: the intervals are about other prompts, not about
# another training.
#
# The leash keeps the policy near in every direction, so it also costs good gains.

# %% [markdown] tags=["slide"]
# ## 7. Why did GPT-2 say “The”?
#
# An early run of the workshop, with GPT-2, ended in answers like "The". The reward model had learned that a raw model's
# rambling is bad, so a shorter text scored higher. Here is a small run like it: the reward pays for brevity alone, no
# leash.
#
# **Predict first:** which *single* decision of the policy is reinforced in every answer of the batch, whatever the
# question?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A collapse is no mystery: it is the cheapest way to be paid.
# - **Ask.** Which decision do all answers of a batch share?
# - **The usual wrong answer.** "The learning rate was too large." It only decides how soon.


# %%
def brief(prompts, responses):
    """Pays for each word that is not said."""
    return [1.0 - 0.1 * len(r.split()) for r in responses]


short = {"steps": max(2, 2 * profile.hack_steps // 3), "response_tokens": 24}
collapse = lab.run("brief", brief, **short, learning_rate=2 * profile.ppo_lr)
for line in collapse.log[:: max(1, len(collapse.log) // 4)]:
    said = ", ".join(repr(s["response"][:28]) for s in line["samples"][:3])
    print(f"step {line['step']:2d}  {line['length']:4.1f} tokens  {said}")
one_word = {
    name: statistics.mean(len(text.split()) <= 2 for text in look.responses)
    for name, look in (("SFT", lab.start), ("at the end", collapse.looks[-1]))
}
print({name: f"{share:.0%} of at most two words" for name, share in one_word.items()})

# %% [markdown]
# The decision to stop: every answer of the batch reinforces the stop token, while a word is reinforced only by the few
# answers that hold it. In our run 41 % of the answers end with at most two words (SFT: 12 %).

# %% tags=["slide"]
runtime.record(
    profile,
    "hacking",
    judge=right,
    with_words=with_words,
    looks=table,
    from_start_to_peak={"verdict": rise.verdict, **rise.as_dict()},
    from_peak_to_end={"peak": top.step, "verdict": fall.verdict, **fall.as_dict()},
    from_start_to_end={
        "proxy": {"verdict": proxy_up.verdict, **proxy_up.as_dict()},
        "gold": {"verdict": whole.verdict, **whole.as_dict()},
    },
    votes={"pairs": len(voted), "for SFT": old_wins},
    prefers=prefers,
    remedies=remedies,
    collapse=one_word,
    findings=[finding.name for finding in found],
    seconds_train=sum(
        line[f"seconds_{phase}"]
        for run in [*runs.values(), collapse]
        for line in run.log
        for phase in ("rollout", "score", "update")
    ),
    seconds=time.perf_counter() - started,
)
peak_gib = runtime.record_peak(profile, "hacking")
held = [row["remedy"] for row in remedies if row["holds"]]
print(f"proxy {proxy_up.difference:+.2f}: {proxy_up.verdict}")
print(f"gold {whole.difference:+.2f}: {whole.verdict}")
print("held what SFT had:", ", ".join(held) or "none")
print(f"peak memory {peak_gib:.1f} GiB")

# %% [markdown] tags=["slide"]
# **Doubt.** We called one model "gold" and another "proxy". Both learned from pairs that a language model wrote. Had
# PPO been paid by gold, gold would have been the proxy.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`: `check` gives one hint at a time. Solutions stand at the end. (`SOLUTION` is
# for teachers who use nbgrader.)
#
# ### 06.1 Predict the number: how high is a peak of nothing?
#
# A run does not change the policy at all: at each of five looks the true gain in gold is 0. What you see at a look is a
# mean with a standard error of 0.2, independent of the others. How high is the *highest* of the five, on average?

# %% tags=["exercise"]
### BEGIN SOLUTION
peak_of_nothing = None
### END SOLUTION

check("06.1", peak_of_nothing)

# %% [markdown]
# ### 06.2 Write this function: where does it turn?
#
# Section 2 quotes a shape of gold: R(d) = d (α − β log d), with d = √KL. At which d is R highest? (Both numbers
# are positive.)


# %% tags=["exercise"]
def turning_point(alpha, beta):
    """Two numbers -> the d at which d (alpha - beta * log d) is highest."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("06.2", turning_point)

# %% [markdown]
# ### 06.3 Write this function: scores at equal length
#
# The fourth remedy of section 6, by hand: the scores less their least-squares line in the number of words. What is left
# has mean 0 and does not go with the words. Mind answers that are all equally long.


# %% tags=["exercise"]
def at_equal_length(scores, words):
    """Two lists of numbers, one entry an answer -> a list of what is left."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("06.3", at_equal_length)

# %% [markdown]
# ### 06.4 Break it and diagnose: three runs without a leash
#
# The table shows how the logs of three runs begin and end; between the two the curves are straight. What would `diagnose`
# say of each? Choose: "length hacking", "never finishing", "collapse", "KL running away" or "nothing stands out".

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
# ### An open question: a fault of a judge of your own
#
# Write a reward that sounds reasonable and says nothing of length, such as "answers that name the question's words
# again". Train with `lab.run("mine", lab.scaled(mine), looks=5)`. What did the policy find, and at which look could you
# see it? <details><summary>What to expect</summary>Nearly always something cheaper than what you meant: here, an answer
# that repeats the question. Read the texts of the second look first.</details>
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | gold rises to the end | too few steps, or gold shares the fault | section 2: take more steps |
# | gold falls from the first look on | learning rate too large: the answers get worse before the hack | finished, distinct-2 |
# | the mended judge has learned nothing | few votes, or the hacked answers win them | section 6 |
#
# ## What we simplified
#
# 1. **Gold is a small model**, and reads with the same frozen base as 02's judge. Gao et al. make their proxies from
#    gold's own labels, so that gold is the truth by construction.
# 2. **Twelve steps.** Theirs are thousands. At our learning rate an answer may get worse without earning
#    more, and gold cannot tell this from a hack.
# 3. **Votes by a model**, where people would read again. **No tuned remedy**: of each number (β, votes) we took the first.

# %% [markdown]
# ## Five questions
#
# **1. Look at the output of section 1. None of the sixty labels is wrong. Why does the judge fail where the shorter answer wins?**
#
# - A: Sixty pairs are too few to learn anything at all.
# - B: The rule that chose them also says who wins.
# - C: The shorter answers were marked as the better ones.
#
# <details><summary>Answer</summary>
#
# **B** is right. "Longer" explains all sixty of them.
#
# Not A. It learned a good deal: see its other line.
#
# Not C. Nothing was turned round; some pairs were left out.
#
# It stands in “1. What does a one-sided judge like?”.
#
# </details>
#
# **2. Look at the table of section 2. At step 0 the KL is exactly 0, and the proxy is not. Why?**
#
# - A: The first look is taken after the first update.
# - B: The judge gives another score at every reading.
# - C: Its zero is the mean on other prompts' answers.
#
# <details><summary>Answer</summary>
#
# **C** is right. The scale was set on answers to training prompts; the looks are at held-out ones.
#
# Not A. Then the KL would not be 0.
#
# Not B. The same text earns the same score.
#
# It stands in “2. What does PPO make of it?”.
#
# </details>
#
# **3. Look at the log in section 5. Which of its lines cannot warn you of a hack?**
#
# - A: The reward that the run was paid.
# - B: The length, and how it goes with reward.
# - C: The share of answers that are finished.
#
# <details><summary>Answer</summary>
#
# **A** is right. It is what is hacked: it rises in good and in bad runs.
#
# Not B. What the winning answers have in common is where to look first.
#
# Not C. Answers that grow until they are cut off show there.
#
# It stands in “5. Could the log have told?”.
#
# </details>
#
# **4. Two judges learned other pairs by the same rule: the longer answer wins. The stricter of the two pays. What becomes of the bias?**
#
# - A: It is gone, for a minimum is never fooled.
# - B: It is half as strong as in one of them.
# - C: It stays, for in this the two agree.
#
# <details><summary>Answer</summary>
#
# **C** is right. An ensemble only knows where its members disagree.
#
# Not A. A long empty answer that both like has a high minimum, too.
#
# Not B. Combining shrinks what the two do not share.
#
# It stands in “6. What helps?”.
#
# </details>
#
# **5. Look at the table of section 6. The row "stopped early" has half as many prompts as the others. Why?**
#
# - A: The other half chose the step it stopped at.
# - B: A run that stops early has answered fewer of them.
# - C: The other half was used for the training itself.
#
# <details><summary>Answer</summary>
#
# **A** is right. On the prompts that chose it, the highest look is also the luckiest.
#
# Not B. Every look answers all held-out prompts.
#
# Not C. None of the held-out prompts was trained on.
#
# It stands in “6. What helps?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("06")

# %% [markdown]
# ## Next
# [07 · Neutral summaries](07_neutral_summaries.ipynb): a reward of several parts, and what happens when one is
# missing.

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
