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
# # 10 · AI feedback: a model votes by a constitution
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/10_ai_feedback.ipynb)
#
# **You will let a small language model write the preferences, and follow them into a judge and a policy.**
#
# You will be able to
# - turn a few sentences into votes, by a model's probabilities of "yes" and "no",
# - measure such a writer against chance, length and the order of two answers,
# - say what a judge and a policy learn from a weak one.
#
# Needs 01 to 04 (or their shipped checkpoints). About 4 minutes on two CPU cores.
#
# In our run the writer is right on 0.54 of the held-out pairs; guessing gives one half. A judge learned from its votes,
# and PPO was paid by that judge, which finds the policy better than the SFT model (+0.57). 04's second judge shows no
# difference (−0.02).

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

# %%
import statistics
import time

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from sawyer_utils import chat, data, evaluation, models, plots, ppo, reward, show
from sawyer_utils.chapters import ai_feedback, drawings
from sawyer_utils.classroom.checks import check

folder = runtime.run_dir(profile, "ai_feedback")
figures = folder / "figures"
started = time.perf_counter()
plots.save(plots.four_stages(here="reward"), figures, "stages")

# %% [markdown]
# *Four boxes: SFT, reward model, PPO, evaluation. Here a model writes the votes for the second.*
#
# Votes of people are expensive. Bai et al. (2022, arXiv 2212.08073) let a language model vote, by written rules:
# **[AI feedback](../docs/glossary.md#ai-feedback)**. Their writer was large; that of our run has 135 million parameters. So we ask: **what does a weak
# writer do to a policy?** Everything behind it is as in 02 and 03.
#
# ## 1. What is the writer told?
#
# The rules are called a **[constitution](../docs/glossary.md#constitution)**: edit it, and run the notebook again. The six examples show the form of
# a reply. A larger language model wrote them.

# %% tags=["slide", "show-code"]
CONSTITUTION = [
    "A good answer is about what was asked.",
    "It is true.",
    "It is clear and useful.",
    "It is kind to the person who asks.",
]
EXAMPLES = [
    ("How do I boil an egg?", "Put it into boiling water for eight minutes.", "yes"),
    ("Is a whale a fish?", "Yes, it lives in the sea and lays its eggs there.", "no"),
    ("Why do cats purr?", "The moon has no air, so its sky is black.", "no"),
    ("What is a haiku?", "A short poem of three lines, first made in Japan.", "yes"),
    ("Can you help with my letter?", "Nobody would read a letter of yours.", "no"),
    ("How tall is Mount Everest?", "About 8,849 metres, the highest on Earth.", "yes"),
]
rules = " ".join(CONSTITUTION)
FORM = "Question: {}\nAnswer: {}\nGood answer?"
solved = [FORM.format(q, a) + f" {word}" for q, a, word in EXAMPLES]


def asked(question, answer):
    """The rules, then the question about an answer."""
    return f"{rules}\n\n{FORM.format(question, answer)}"


def shown(question, answer):
    """The same with the examples in between."""
    return "\n\n".join([rules, *solved, FORM.format(question, answer)])


print(shown("Why is the sky blue?", "It mirrors the sea."))

# %% [markdown]
# ## 2. How does a model vote?
#
# It writes nothing. Its **opinion** is how much likelier " yes" is than " no" as the next token: log-odds, in nats.
# Above 0 it says yes. Of two answers to a prompt it votes for the one with the higher opinion.
#
# We call the model that votes the **writer**, and the reward model that learns from its votes its **judge**.

# %% tags=["slide", "show-code"]
needed = "adapter/adapter_model.safetensors"
sft = runtime.find_stage(profile, "sft", needed) / "adapter"
tokenizer, model = models.load_actor(profile, sft)
precision = runtime.choose_precision(profile.precision)
compute = precision.compute if precision.autocast else None
writer = ai_feedback.Writer(model, tokenizer, profile.policy_base, folder, compute)

text = shown("Why is the sky blue?", "It mirrors the sea.")
ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)  # (1, T)
with torch.no_grad(), models.using(model, "base"):
    logprobs = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)  # (V,)
words = [tokenizer.encode(w, add_special_tokens=False)[-1] for w in (" yes", " no")]
yes, no = logprobs[words].tolist()
print(f"log π(yes) {yes:.2f}, log π(no) {no:.2f}: opinion {yes - no:+.2f} nats")
opinion, mass = writer.ask([text], "base")
print(f"by the helper, which does not round logits to 16 bits: {opinion[0]:+.2f}")
assert abs(opinion[0] - (yes - no)) < 0.3

# %% [markdown]
# The wording is a setting: we choose it **on training prompts**, among the rules alone, the rules with examples, and
# the same read by the SFT model. The writer is right on a pair if its opinions order the two answers as the course's
# scores do. No person gave these scores: a larger language model wrote each answer to be good or bad in a given way,
# and the score says which.
#
# "Mass" is the probability of both words together, on the first two prompts. The 95 % intervals are over prompts.
# **Predict first:** how often is the best of three right?

# %% [markdown] tags=["teaching"]
# - **What it is for.** To see a model of our size asked for a judgement, before anybody trusts one.
# - **Ask.** Does an SFT model that answers better also judge better?
# - **The usual wrong answer.** "Yes, it is the better model." It learned to answer, and nobody asked it for yes or no.

# %% tags=["slide"]
rows = data.load_preferences(profile.preferences, profile.limit)
rows = data.untested(rows, data.load_prompts("test", profile.prompts))
rows = reward.pairs_that_fit(profile, rows)
train, held = data.split_rows(rows, 0.2)
sizes = [max(2, profile.eval_prompts * share // 120) for share in (15, 100, 80)]
few = data.spread(train, min(sizes[0], max(1, len(train) // 4)))
train = data.spread([row for row in train if row not in few], sizes[1])
held = data.spread(held, sizes[2])
ways = {
    "asked, base": (asked, "base"),
    "with examples, base": (shown, "base"),
    "with examples, SFT": (shown, models.REF),
}


def tell(name, found, more=""):
    """One line: share of pairs that are right, with its interval."""
    span = "{right:.2f} [{low:.2f}, {high:.2f}] of {n} pairs".format(**found)
    print(f"{name:32s} {span}{more}")


tried = {}
for name, (ask, adapter) in ways.items():
    scored = writer.opinions(few, ask, adapter)
    pairs = data.pairs(few)
    tried[name] = ai_feedback.agreement(ai_feedback.gaps(scored, pairs), pairs)
    texts = [ask(r["prompt"], one["text"]) for r in few[:2] for one in r["responses"]]
    mass = float(writer.ask(texts, adapter)[1].mean())
    says = np.mean([one["score"] > 0 for r in scored for one in r["responses"]])
    tell(name, tried[name], f"; says yes {says:.0%}, mass {mass:.2f}")
chosen = max(tried, key=lambda name: tried[name]["right"])
ask, adapter = ways[chosen]
print("chosen:", chosen)

# %% [markdown]
# In our run the best of three is right on 0.50. The rules alone have a mass near 0: the model was not going to say yes
# or no, so its 0.44 is hardly an opinion.
#
# The best of three is also the luckiest, so we measure it again below, on other prompts. A "no" to nearly every answer
# does no harm: what is added to *every* opinion cancels in a difference.
#
# ## 3. Does the order matter?
#
# Most AI feedback shows **two** answers in one text. Then the place can count: a *position bias* (Zheng et al. 2023,
# arXiv 2306.05685). We ask in both orders; in the first, the better answer always stands first. If the log-odds for the
# first place are s + b in one order and −s + b in the other, half their difference is s, and the bias b is gone.

# %% tags=["slide", "show-code"]
def first_better(question, one, two):
    """Two answers in one text."""
    both = f"Question: {question}\nFirst answer: {one}\nSecond answer: {two}"
    return f"{rules}\n\n{both}\nIs the first answer better, yes or no?"


one_each = list({p.id: p for p in data.pairs(train)}.values())
one_each = data.spread(one_each, 2 * sizes[0])
texts = [first_better(p.prompt, p.chosen, p.rejected) for p in one_each]
texts += [first_better(p.prompt, p.rejected, p.chosen) for p in one_each]
opinion, mass = writer.ask(texts, adapter)
first, swapped = np.split(opinion, 2)  # (n,) each
order = ai_feedback.in_both_orders(first, swapped)
print(f"says that the first is better {order['says_first']:.0%}")
print(f"prefers the same place in both orders {order['contradicts']:.0%}")
print(f"bias b {order['bias']:+.2f} nats; mass {mass.mean():.2f}")
tell("first order alone", ai_feedback.agreement(first, one_each))
averaged = (first - swapped) / 2
tell("both orders", ai_feedback.agreement(averaged, one_each))

# %% [markdown]
# In our run the bias is −2.86 nats, and in 1.00 of the pairs the same place wins in both orders. Averaged, the writer is
# right on 0.47.
#
# With b far from 0 the order decides the vote. b holds all that a swap leaves as it is: a taste for the second place,
# but also a habit of saying "no", which this writer has for single answers too. These numbers do not tell the two
# apart. This text has no examples, and its mass is near 0: the model was not going to say either word.
#
# One answer at a time has no places: we go on with that.
#
# ## 4. What does it prefer?
#
# It reads training and held-out answers, without their scores. The figure groups the training answers by their kind,
# from "engaging" (score 8 to 10) and "plain" (6 or 7) over "slip" (3 or 4: good but for one wrong detail) to "off
# topic" and "false" (1). "Longer wins" is a rule that votes for the answer with more words.

# %% tags=["slide"]
ai_train = writer.opinions(train, ask, adapter)
ai_held = writer.opinions(held, ask, adapter)
held_pairs = data.pairs(held)
longer = [len(p.chosen.split()) - len(p.rejected.split()) for p in held_pairs]
right = {
    "longer wins": ai_feedback.agreement(longer, held_pairs),
    "the writer": ai_feedback.agreement(
        ai_feedback.gaps(ai_held, held_pairs), held_pairs
    ),
}
for name, found in right.items():
    tell(name, found)
kinds = {}
for row in ai_train:
    for one in row["responses"]:
        kind = one.get("kind", "").replace("_", " ") or "all"
        kinds.setdefault(kind, []).append(one["score"])
kinds = dict(sorted(kinds.items(), key=lambda item: -statistics.mean(item[1])))
numbers = [{"kind": kind, "opinion": x} for kind, of in kinds.items() for x in of]
likes = drawings.score_groups(kinds, xlabel="opinion, nats (above 0: yes)")
plots.save(likes, figures, "likes", numbers)

# %% [markdown]
# *A row for each kind of answer, highest mean on top. Each answer is a dot; the box holds the middle half of them, the
# black line is their median. A writer that votes as the scores do has "engaging" and "plain" on top.*
#
# In our run the writer is right on 0.54 of the held-out pairs, "longer wins" on 0.47: neither is shown to be above
# chance.
#
# In our run "plain" comes first, with a mean opinion of −0.68, but "engaging", the best kind, seventh: −0.96, after
# "false" (−0.95). Only "rude" stands clearly apart, with −1.45.

# %% [markdown] tags=["slide"]
# ## 5. What does a judge learn from it?
#
# Two judges, made as in 02 from the same answers: one of the votes, one of the scores. 02's judge, of all prompts,
# stands beside them. **Predict first:** will a judge be right more often than its writer, or less?

# %% [markdown] tags=["teaching"]
# - **What it is for.** Two questions that are often taken for one: does the judge say what its writer says, and is that true?
# - **Ask.** Can a pupil be better than its teacher?
# - **The usual wrong answer.** "Never." Errors like noise are averaged out; what is left is the taste.

# %% tags=["slide", "show-code"]
def trained(pairs, name):
    """A judge of these pairs, loaded where it is there already."""
    untrained = reward.RewardModel.untrained(profile)
    reward.train_reward(untrained, profile, pairs, folder / name)
    return reward.RewardModel.load(folder / name / "model")


ai_judge = trained(data.pairs(ai_train), "ai_judge")
same_size = trained(data.pairs(train), "score_judge")
stage = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors")
judges = {
    "judge of its votes": ai_judge,
    "judge of the scores": same_size,
    "02's judge": reward.RewardModel.load(stage / "model"),
}
for name, judge in judges.items():
    differences = reward.differences(judge, held_pairs)
    right[name] = ai_feedback.agreement(differences, held_pairs)
    tell(name, right[name])
ai_pairs = data.pairs(ai_held)  # the same answers, ordered by the writer
follows = ai_feedback.agreement(reward.differences(ai_judge, ai_pairs), ai_pairs)
tell("its judge agrees with the writer", follows)
shares = [[found[key] for found in right.values()] for key in ("right", "low", "high")]
names = [name.replace(" ", "\n", 1) for name in right]
label = "share of held-out pairs right"
counts = [found["n"] for found in right.values()]
bars = plots.bars_with_intervals(names, *shares, counts, label, 0.5, (0, 1))
plots.save(bars, figures, "right", right)

# %% [markdown]
# *Five bars with 95 % intervals, a dashed line at one half.*
#
# In our run the judge agrees with its writer on 0.68 of the pairs, and with the scores on 0.51, about as often as its
# writer (0.54). The judge of the scores learned from the same answers and is right on 0.68.
#
# **That a judge agrees with its writer does not show that it knows what is good.**
#
# ## 6. What does PPO make of it?
#
# 03's trainer and settings, a quarter of its steps, paid by the judge of the votes. We measure with that judge and with
# 04's second judge, [gold](../docs/glossary.md#gold-reward-model). Both are put on one scale: 0 is the mean of the SFT model's answers to 64 training
# prompts, 1 is their standard deviation. **Predict first:** up, down or flat, for each of the two?

# %% tags=["slide", "show-code"]
def prompts_of(split, limit):
    """Prompts of a split that fit."""
    found = data.load_prompts(split, profile.prompts)
    found = chat.that_fit(tokenizer, found, profile.prompt_tokens)
    return [row["prompt"] for row in data.spread(found, limit)]


train_prompts = prompts_of("train", profile.limit)
test_prompts = prompts_of("test", profile.eval_prompts // 2)
calibration = data.spread(train_prompts, 64)
with models.using(model, models.REF):
    known = evaluation.answer(model, tokenizer, calibration, profile, seed=1)
stage = runtime.find_stage(profile, "gold", "model/adapter_model.safetensors")
gold_judge = reward.RewardModel.load(stage / "model")
paid, gold = (
    reward.standardised(judge.score, calibration, known.responses)[0]
    for judge in (ai_judge, gold_judge)
)
steps = max(2, profile.ppo_steps // 4)
config = ppo.PPOConfig.from_profile(profile, steps=steps)
trainer = ppo.PPOTrainer(model, tokenizer, paid, config, folder / "ppo")
live = plots.LivePlot(plots.ppo_dashboard, steps, 3)
log = trainer.train(train_prompts, live)
print(f"{len(log)} steps, KL to SFT {log[-1]['kl']:.1f} nats")

# %% [markdown]
# *PPO's six panels, as in 03.*
#
# In our run the reward rises, nearly all of it by the first update, and the KL to the SFT model reaches 4.96 nats a
# response after 6 steps.
#
# Now held-out prompts, for the SFT model, this policy, and that of 03, which took four times as many steps: compare
# signs, not sizes.
#
# "By AI feedback, by gold": the policy trained by AI feedback, measured by gold.

# %% tags=["slide"]
stage = runtime.find_stage(profile, "ppo", needed)
models.load_adapter(model, stage / "adapter", "of03")
adapters = {"SFT": models.REF, "by AI feedback": models.POLICY, "03's policy": "of03"}
said, changes = {}, []
for name, policy in adapters.items():
    with models.using(model, policy):
        said[name] = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
for name in list(adapters)[1:]:
    for who, judge in (("its votes' judge", paid), ("gold", gold)):
        pair = [judge(test_prompts, said[of].responses) for of in ("SFT", name)]
        found = evaluation.compare_rewards(*pair)
        row = {"measure": f"{name}, by {who}", "difference": found.difference}
        row |= {"low": found.low, "high": found.high, "verdict": found.verdict}
        changes.append(row | {"n": found.n})
table = pd.DataFrame(changes)
display(table.round(2))
shape = {
    name: {
        "tokens": statistics.mean(of.lengths),
        "finished": statistics.mean(of.finished),
    }
    for name, of in said.items()
}
display(pd.DataFrame(shape).T.round(2))
title = f"policy minus SFT, {len(test_prompts)} held-out prompts"
figure = drawings.differences(table.assign(scale=1.0), title)
figure.axes[0].margins(y=0.15)
plots.save(figure, figures, "changes", changes)

# %% [markdown]
# *A row for each policy and judge: the change since SFT, its 95 % interval, and its verdict as colour and marker.*
#
# In our run the policy's mean changed by 0.57 by the judge that paid (better) and by −0.02 by gold (no difference
# shown). 03's policy changed by 0.66 by gold: better.
#
# So this policy learned to please a judge of votes that are hardly better than guesses. Its answers grew from 21.4 to 30.7
# tokens, and gold saw no gain. That is one training of six steps: the interval of gold, −0.27 to 0.24, leaves room for a
# small change either way.
#
# **Nothing in a training's log says how good the votes were.**
#
# Three of the prompts follow: those where the votes' judge pays this policy most above SFT, the median, and least.

# %% [markdown] tags=["teaching"]
# - **What it is for.** A reward that rises is no sign of good votes; only somebody outside can tell.
# - **Ask.** Whom would you ask, if there were no gold judge?
# - **The usual wrong answer.** "How often the judge agrees with the votes." The same writer wrote them.

# %% tags=["slide"]
both = [paid(test_prompts, said[name].responses) for name in ("by AI feedback", "SFT")]
gains = np.subtract(*both)
picked = [int(i) for i in np.argsort(-gains)[[0, len(gains) // 2, -1]]]
show.side_by_side(
    [test_prompts[i] for i in picked],
    {name: [of.responses[i] for i in picked] for name, of in said.items()},
    {"by AI feedback": [f"paid {gains[i]:+.2f} more" for i in picked]},
)

# %% tags=["slide"]
runtime.record(
    profile,
    "ai_feedback",
    tried=tried,
    chosen=chosen,
    order=order | {"right": ai_feedback.agreement(averaged, one_each)},
    right=right,
    follows=follows,
    opinions={kind: statistics.mean(of) for kind, of in kinds.items()},
    changes=changes,
    shape=shape,
    kl=log[-1]["kl"],
    steps=len(log),
    seconds_train=sum(
        line[f"seconds_{phase}"]
        for line in log
        for phase in ("rollout", "score", "update")
    ),
    seconds=time.perf_counter() - started,
)
peak = runtime.record_peak(profile, "ai_feedback")
for row in changes:
    print(f"{row['measure']:36s} {row['difference']:+.2f}: {row['verdict']}")
print(f"peak memory {peak:.1f} GiB")

# %% [markdown] tags=["slide"]
# **Doubt.** We could measure the writer only because we had scores. Whoever uses AI feedback to save votes has none. How
# many votes of people would you still collect, to measure the writer?
#
# ## Exercises
#
# Write your answer where it says `None`: `check` gives one hint at a time. Solutions stand at the end.
#
# ### 10.1 Predict the number: a pupil of a weak teacher
#
# A writer is right on 0.6 of the pairs. A judge agrees with it on 0.8 of those on which it is right, and on 0.8 of the
# others. On what share is the judge right?

# %% tags=["exercise"]
### BEGIN SOLUTION
judge_right = None
### END SOLUTION

check("10.1", judge_right)

# %% [markdown]
# ### 10.2 Write this function: both orders, one probability
#
# `a_first`: log-odds that the first answer is better where that is `a`; `b_first`: where it is `b`. Give the probability
# that `a` is better, without the position bias.


# %% tags=["exercise"]
def a_is_better(a_first, b_first):
    """Two log-odds, in nats -> a probability."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("10.2", a_is_better)

# %% [markdown]
# ### An open question
#
# Write a constitution that this writer *can* judge ("A good answer is short."). What becomes of sections 4 and 6?
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | mass near 0 | the model was not going to say yes or no | section 2 |
# | the same place always wins | position bias, or the same word to every question | section 3 |
# | the judge agrees with its writer, but not with the scores | a weak writer | section 5 |
#
# ## What we simplified
#
# 1. **Hard votes.** Bai et al. learn from the probabilities.
# 2. **No critique and revision**, the other half of their method.
# 3. **A small writer.** Larger ones agree more with people (Lee et al. 2023, arXiv 2309.00267).
# 4. **One seed,** no votes of people.
# 5. **Six steps of PPO**, which may be too few for a change by gold.

# %% [markdown]
# ## Five questions
#
# **1. Look at the output of section 2. A writer says "no" to nearly every answer. Can it still be the best?**
#
# - A: No: without a yes it prefers nothing.
# - B: Yes: the weaker no is preferred.
# - C: Yes: most of the scores are low.
#
# <details><summary>Answer</summary>
#
# **B** is right. A bias in both opinions cancels in their difference.
#
# Not A. It prefers the less certain no.
#
# Not C. Only differences of opinions are compared with the scores.
#
# It stands in “2. How does a model vote?”.
#
# </details>
#
# **2. Look at "first order alone" in section 3: the better answer always stands first. What does its share tell?**
#
# - A: How often the writer names the first place.
# - B: How often the writer finds the better one.
# - C: How often two readers of a pair agree.
#
# <details><summary>Answer</summary>
#
# **A** is right. One that always names it is right on all, one that never does on none.
#
# Not B. For that, the better answer would have to stand in either place.
#
# Not C. One model was asked, in one order.
#
# It stands in “3. Does the order matter?”.
#
# </details>
#
# **3. Why is the wording chosen on some prompts and judged on others?**
#
# - A: The held-out prompts are longer than these.
# - B: No judge may see the prompts it learns from.
# - C: The best of several is also the luckiest.
#
# <details><summary>Answer</summary>
#
# **C** is right. Where it was chosen it looks too good.
#
# Not A. They are as long as the others.
#
# Not B. A judge always sees the prompts that it learns from.
#
# It stands in “2. How does a model vote?”.
#
# </details>
#
# **4. Look at the output of section 5. Which of its facts needs no votes but the writer's?**
#
# - A: That the judge follows its writer.
# - B: That the writer follows the scores.
# - C: That the judge beats "longer wins".
#
# <details><summary>Answer</summary>
#
# **A** is right. The votes of both on held-out answers suffice.
#
# Not B. The scores are somebody else's votes.
#
# Not C. That takes somebody who says who should win.
#
# It stands in “5. What does a judge learn from it?”.
#
# </details>
#
# **5. Suppose PPO's reward rises, the KL is small, the answers end. What does that say of the votes?**
#
# - A: They were good enough to learn from.
# - B: The writer and gold agree on most.
# - C: Nothing: any judge pays who pleases it.
#
# <details><summary>Answer</summary>
#
# **C** is right. Only a judge that did not pay can say more.
#
# Not A. Any taste can be learned, a bad one too.
#
# Not B. Gold took no part in the training.
#
# It stands in “6. What does PPO make of it?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("10")

# %% [markdown]
# ## Next
#
# Back to [06 · Reward hacking](06_reward_hacking.ipynb): which of its remedies would help here?

# %% [markdown]
# ## Solutions
#
# Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
judge_right = 0.6 * 0.8 + 0.4 * 0.2
### END SOLUTION

assert check("10.1", judge_right).right


# %% tags=["solution"]
def a_is_better(a_first, b_first):
    ### BEGIN SOLUTION
    import math

    return 1 / (1 + math.exp(-(a_first - b_first) / 2))
    ### END SOLUTION


assert check("10.2", a_is_better).right
