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
# # 02 · The reward model: teaching a machine what you like
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/02_reward.ipynb)
#
# **You will train a small model that gives any answer a grade, and find out what it really grades.**
#
# You will be able to
# - turn a vote between two answers into a loss, by hand and in code,
# - train a reward model and report its accuracy with an honest interval,
# - catch it liking the wrong thing, and name the data that taught it so.
#
# Needs 01 (or its shipped checkpoint) for section 8. About 5 minutes on two CPU cores.

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
import json, math, os, tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sawyer_utils import chat, data, evaluation, models, plots, show
from sawyer_utils.chapters import drawings, surface
from sawyer_utils.evaluation import bootstrap_interval
from sawyer_utils.losses import bradley_terry
from sawyer_utils.reward import (
    MARGIN_SCALE,
    RewardModel,
    differences,
    pairs_that_fit,
    reward_trainer,
    total_steps,
    train_reward,
)

folder = runtime.run_dir(profile, "reward")
figures = folder / "figures"

# %% [markdown]
# ## The whole thing in one picture
#
# Notebook 01 taught the model to answer by showing it answers. Nothing there said that one right
# answer can be better than another. This notebook builds the judge that says so; notebook 03
# lets the model learn from that judge.

# %%
plots.save(plots.four_stages(here="reward"), figures, "four_stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation. You are in the second, "learn what
# is liked".*
#
# ## Two answers, one vote
#
# Somebody asks SAWYER how to greet a person. Read both answers, and decide before you go on:
# which one would you rather get?

# %% tags=["slide"]
question = "How do I greet someone?"
answers = {
    "A": "Tell them Hello!",
    "B": "A smile and a warm 'Hello!' work almost anywhere. In a formal setting, offer "
    "your hand; among friends, a wave is plenty. Who are you going to meet?",
}
show.side_by_side([question], {name: [text] for name, text in answers.items()})

# %% [markdown] tags=["teaching"]
# - **What it is for.** A preference is cheap: everybody has voted within ten seconds. Take the vote
#   by a show of hands.
# - **Ask.** What did you vote for: that it is true, that it is warm, or that it is longer?
# - **The usual wrong answer.** "B, because it is correct." So is A. Keep the word *longer* on the
#   board until section 6.

# %% [markdown]
# Your vote goes into the next cell. Nobody asks you for a grade out of ten, or for the perfect
# answer: picking one of two is easy, quick, and something two people can agree on.

# %%
vote = "B"  # change it to "A" if you liked that one better

other = "A" if vote == "B" else "B"
preference = {"prompt": question, "chosen": answers[vote], "rejected": answers[other]}
print(json.dumps(preference, indent=1))
assert preference["chosen"] != preference["rejected"]

# %% [markdown]
# That row is the simplest data format: a **prompt**, a **chosen** answer, a **rejected** answer.
# Everything in this notebook is learned from rows like yours.
#
# Our file goes one step further. For each prompt it holds several answers, each with a score
# from 1 to 10. Two answers with different scores make one [pair](../docs/glossary.md#preference-pair), so four answers give up to six.

# %%
preferences = data.load_preferences(profile.preferences, profile.limit)
preferences = pairs_that_fit(profile, preferences)
train, held = data.split_rows(preferences, 0.2)
train_pairs, held_pairs = data.pairs(train), data.pairs(held)

print(f"{len(train)} prompts to train on: {len(train_pairs)} pairs")
print(f"{len(held)} prompts held out:     {len(held_pairs)} pairs")
assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}

# %% [markdown]
# The split is by prompt, and the assert checks it. Splitting by pair would put the same good
# answer on both sides: the model could recognise it instead of judging it.
#
# Here is one prompt that the model will never train on, with everything written for it.

# %%
row = max(held, key=lambda r: len(r["responses"]))
ranked = sorted(row["responses"], key=lambda r: -r["score"])
labels = [f"{r['score']:g}  ({r['kind'].replace('_', ' ')})" for r in ranked]
print(row["prompt"])
show.side_by_side(
    labels, {"answer": [r["text"] for r in ranked]}, first="score and kind"
)

# %% [markdown]
# The `kind` says what the writer was asked to write; the reward model never sees it. We keep it
# to find out later *which* bad habits the model has learned to notice.
#
# One property of the data deserves a look now, for it comes back in sections 6 and 7: how often
# is the better answer also the longer one?

# %% tags=["slide"]
short_share = np.mean([pair.shorter_wins for pair in train_pairs])
by_kind = pd.DataFrame(r for row in preferences for r in row["responses"])
by_kind["characters"] = by_kind.text.str.len()
print(f"The better answer is the shorter one in {short_share:.0%} of the pairs.\n")
table = by_kind.groupby("kind")[["score", "characters"]].mean().round(1)
table.assign(answers=by_kind.kind.value_counts()).sort_values("score", ascending=False)

# %% [markdown] tags=["slide"]
# Read the two middle columns against each other: length alone must not give the score away. If
# it did, a ruler would make a fine reward model, and you would have no way to notice. The share above sounds
# as if it did not. **Do not believe it yet.**
#
# ## How far does one get without reading?
#
# Before anything is trained, two judges that **cannot read a word** try the task. The first knows
# only in which of nine bands of length an answer is. The second counts marks, capitals, sentences,
# repetition, words that the question has too, and looks at the first word; its weights are trained with the
# loss of section 1. Both learn from the training prompts and are asked about the held-out ones.

# %%
blind = {
    "bands of length alone": surface.words_alone(train, held_pairs),
    "the surface": surface.surface(train, held_pairs),
}
unread = {name: surface.share_right(gaps) for name, gaps in blind.items()}
for name, share in unread.items():
    print(f"right on held-out pairs, {name:<21} {share:.3f}")
runtime.record(profile, "reward", without_reading=unread)
figure = drawings.score_by_length({"these preferences": preferences})
plots.save(figure, figures, "score_by_length", [unread])

# %% [markdown]
# *One line over nine bands of length: the mean score of the answers in each.*
#
# "The shorter one is better in half of the pairs" says that length does not act along a *line*. It can act
# all the same: in the course's own preferences the good answers have 31 to 45 words, the bare ones fewer than
# eleven, and nearly everything between is bad. Keep the two numbers: **what our judge gets right beyond them
# is the most that can be reading.**

# %% [markdown] tags=["slide"]
# ## 1. How does a vote become a number?
#
# We want a model that gives each answer one number, its **score**. A vote says nothing about
# either score alone; it says which is higher. [Bradley and Terry](../docs/glossary.md#bradley-terry-model) (1952) turn a *difference* of
# scores into a probability of being preferred, with the [logistic function](../docs/glossary.md#logistic-function):
#
# $$P(\text{chosen} \succ \text{rejected}) = \sigma(s_c - s_r) = \frac{1}{1 + e^{-(s_c - s_r)}}$$
#
# The loss is minus the logarithm of the probability that the model gave to what really happened.
# By hand, with scores 1.2 and 0.3:

# %% [markdown] tags=["teaching"]
# - **What it is for.** From two scores to one probability. All that follows rests on the
#   difference.
# - **Ask.** A colleague says: "Our answers get 6.9." What do you ask back?
# - **The usual wrong answer.** "6.9 is good." Add 5 to every score and no preference changes.

# %% tags=["nbval-check-output"]
difference = torch.tensor(1.2) - torch.tensor(0.3)  # s_c − s_r
probability = 1 / (1 + torch.exp(-difference))
loss = -torch.log(probability)

print(f"difference {difference:.3f}   preference {probability:.3f}   loss {loss:.3f}")
assert abs(loss.item() - 0.341) < 1e-3

# %% [markdown]
# A lead of 0.9 means: "I expect the chosen answer to win 71 times in 100." Being right without
# being sure still costs 0.341 nats.
#
# Four pairs now. **Predict first:** which of these four has the largest loss, and which the
# smallest? Mind the last one: both of its scores are below zero.

# %% tags=["nbval-check-output", "slide", "show-code"]
chosen = torch.tensor([1.2, 2.0, 0.5, -1.0])  # (B,) scores of the chosen answers
rejected = torch.tensor([0.3, 2.0, 1.5, -3.0])  # (B,)

by_hand = -torch.log(1 / (1 + torch.exp(-(chosen - rejected))))  # (B,)
for c, r, cost in zip(chosen, rejected, by_hand):
    p = torch.sigmoid(c - r)
    print(
        f"{c:5.1f} vs {r:4.1f}   difference {c - r:4.1f}   P {p:.3f}   loss {cost:.3f}"
    )
assert torch.allclose(by_hand, bradley_terry(chosen - rejected))

# %% [markdown]
# The second pair is a tie: a coin flip costs log 2 = 0.693, the price of knowing nothing. The
# third is the wrong way round and costs most. The fourth is the best, although both scores are
# negative. From here on we use `bradley_terry` from the package; the assert says that it is your
# formula.
#
# **Predict first:** we add 5 to every score. What happens to the losses?

# %% tags=["nbval-check-output"]
moved = bradley_terry((chosen + 5) - (rejected + 5))
print("before", [f"{x:.3f}" for x in bradley_terry(chosen - rejected)])
print("after ", [f"{x:.3f}" for x in moved])
assert torch.allclose(moved, by_hand, atol=1e-6)

# %% [markdown]
# Nothing happens. The data cannot tell a model whose scores are all 5 higher from this one, so
# **a single score means nothing; only differences do.** Remember it when somebody shows you "a
# reward of 6.9" without saying what else got which reward.
#
# What does training do with such a loss? It pulls on the difference, and how hard it pulls is
# the derivative.

# %% tags=["nbval-check-output"]
gap = (chosen - rejected).requires_grad_()  # (B,)
bradley_terry(gap).sum().backward()
for d, pull in zip(gap.detach(), gap.grad):
    print(f"difference {d:5.1f}   slope of the loss {pull:.3f}")
assert torch.allclose(gap.grad, torch.sigmoid(gap.detach()) - 1)

# %% [markdown]
# The slope is P − 1: the pull fades on pairs that are already won, and comes close to 1 on pairs
# that are badly lost. Training spends its effort where the model is wrong. That is also how
# a few mislabelled pairs can pull hardest of all.
#
# ## 2. What does a strong preference say?
#
# One answer scored 9 and the other 4; in another pair it was 7 against 6. Both are one vote, but
# they do not say the same. A **[margin](../docs/glossary.md#margin)** passes the strength on: the loss asks for a difference
# that is larger than the margin (Llama 2, arXiv 2307.09288, equation 2).
#
# $$L = -\log \sigma(s_c - s_r - m)$$
#
# **Predict first:** the difference is 0.9 and the margin 1. Is the loss above or below log 2?

# %% tags=["nbval-check-output"]
difference = torch.tensor(0.9)
print(f"margin 0     loss {bradley_terry(difference):.3f}")
print(f"margin 1     loss {bradley_terry(difference, 1.0):.3f}")
print(f"no opinion   loss {math.log(2):.3f}")
for best, worst in ((9, 4), (7, 6)):
    margin = (best - worst) / MARGIN_SCALE
    cost = bradley_terry(difference, margin)
    print(f"scores {best} and {worst}: margin {margin:.2f}   loss {cost:.3f}")
assert bradley_terry(torch.tensor(1.0), 1.0).isclose(torch.tensor(math.log(2)))

# %% [markdown]
# With margin 1, a lead of 0.9 costs 0.744: more than a coin flip, for it falls short of what was
# asked. Our pairs ask for a quarter of their score difference (`MARGIN_SCALE`), so 9 against 4
# wants a lead of 1.25, and 7 against 6 is content with 0.25.

# %% tags=["slide"]
figure = drawings.preference_loss(margins=(0.0, 1.0, 3.0))
plots.save(figure, figures, "preference_loss")

# %% [markdown]
# *Three falling curves, loss against difference. A margin m shifts the curve to the right by m: at
# difference 0 they cost 0.69, 1.31 and 3.05 nats.*
#
# ## 3. Can you judge an answer without its question?
#
# "A warm loaf straight from the oven" is a fine answer, to some questions. So our judge is a
# **[cross-encoder](../docs/glossary.md#cross-encoder)**: a small [encoder](../docs/glossary.md#encoder) that reads the question and the answer as *one* text, with
# every word of the one looking at every word of the other, and one linear layer on top that turns
# the result into a number. This is what it reads:

# %%
untrained = RewardModel.untrained(profile)
ids = untrained.encode(question, answers["A"])  # T token ids
tokens = untrained.tokenizer.convert_ids_to_tokens(ids)
special = set(untrained.tokenizer.all_special_tokens)
border = tokens.index(untrained.tokenizer.sep_token)
side = [
    0 if t in special else -0.6 if i < border else 0.6 for i, t in enumerate(tokens)
]
assert len(tokens) <= profile.reward_pair_tokens
show.shaded_tokens(
    [(tokens, side)], "Blue: the question. Orange: the answer. Plain: control."
)

# %% [markdown]
# The encoder comes pretrained; its top layer is new and random. We train LoRA adapters (as in
# notebook 01) plus that layer. TRL's `RewardTrainer` does it, on pairs that we have already turned
# into tokens, each with its margin. Is its loss the one you derived? Four pairs, both ways:

# %%
four = held_pairs[:4]
options = {"per_device_train_batch_size": 4}
trainer = reward_trainer(untrained, profile, four, tempfile.mkdtemp(), **options)
untrained.model.eval()  # dropout off, so that both see the same model
batch = next(iter(trainer.get_train_dataloader()))
with torch.no_grad():
    theirs = float(trainer.compute_loss(untrained.model, batch))

gaps = torch.tensor(differences(untrained, four))  # (B,)
margins = torch.tensor([pair.margin / MARGIN_SCALE for pair in four])  # (B,)
ours = float(bradley_terry(gaps, margins).mean())
trainable, total = models.count_parameters(untrained.model)
print(f"{trainable:,} of {total:,} numbers are trained ({trainable / total:.1%}).")
print(f"The trainer's loss is {theirs:.4f} nats, ours {ours:.4f}.")
assert math.isclose(theirs, ours, rel_tol=1e-3)

# %% [markdown] tags=["slide"]
# Now the question of this section. We train two judges for the same number of steps, from the
# same random start. One reads question and answer; the other gets **answers alone**.
# **Predict first:** how far above a coin flip can a judge get that never sees the question?


# %% [markdown] tags=["teaching"]
# - **What it is for.** The most useful experiment of the notebook: take the question away and look
#   at what is left.
# - **Ask.** How far above a coin can a judge get that never sees the question? Write a number down.
# - **The usual wrong answer.** "Exactly one half." Manner shows in the answer alone; what it cannot
#   see is whether it fits.

# %%
def trial(name: str, pairs: list, see_prompt: bool = True) -> RewardModel:
    """A short training, kept in the run folder, so that a second run only loads it."""
    home = folder / name
    fresh = RewardModel.untrained(profile, see_prompt)
    train_reward(fresh, profile, pairs, home, max_steps=profile.reward_trials)
    return RewardModel.load(home / "model")


both_texts = trial("both_texts", train_pairs)
answers_alone = trial("answers_alone", train_pairs, see_prompt=False)
print(f"Two judges, {profile.reward_trials} steps each.")

# %% [markdown]
# How sure can we be of an accuracy? The pairs are not independent: up to six of them share one
# prompt, and a judge who misreads that prompt gets several wrong at once. So the [bootstrap](../docs/glossary.md#bootstrap) draws
# whole **prompts**, with all their pairs. Everything below uses this one function.


# %%
def accuracy(gaps, pairs) -> tuple[float, float, float]:
    """Share of pairs with the chosen answer ahead; 95 % interval over prompts."""
    if not pairs:  # of one's own data, a group may have none
        return math.nan, math.nan, math.nan
    right = np.asarray(gaps) > 0
    low, high = bootstrap_interval(right, groups=[pair.id for pair in pairs])
    return float(right.mean()), low, high


def text(numbers) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*numbers)


toy = [data.Pair(i, "", "", "", "", 1.0, ("", "")) for i in "aaaabbbbccccdddd"]
wins = [1] * 12 + [-1] * 4  # three prompts all right, one prompt all wrong
print("16 pairs of 4 prompts:  ", text(accuracy(wins, toy)))
print("as if independent:      ", text((0.75, *bootstrap_interval(np.array(wins) > 0))))

# %% [markdown]
# The accuracy is the same, the honest interval is far wider: four prompts are four pieces of
# evidence, however many pairs are made from them. Now the two judges.

# %%
gaps_both = np.array(differences(both_texts, held_pairs))
gaps_alone = np.array(differences(answers_alone, held_pairs))
with_question = accuracy(gaps_both, held_pairs)
without = accuracy(gaps_alone, held_pairs)

ids_held = [pair.id for pair in held_pairs]
worth = (gaps_both > 0).astype(float) - (gaps_alone > 0)
worth_low, worth_high = bootstrap_interval(worth, groups=ids_held)
runtime.record(
    profile,
    "reward",
    accuracy_answers_alone=without[0],
    accuracy_same_steps_with_question=with_question[0],
    question_worth=[float(worth.mean()), worth_low, worth_high],
    trial_steps=profile.reward_trials,
)
print(f"Reading the question is worth {text((worth.mean(), worth_low, worth_high))}:")
print("it helps." if worth_low > 0 else "no gain from it is shown on these pairs.")


# %% tags=["subslide"]
def bars(results: dict[str, tuple], counts: list[int], name: str):
    """Accuracies with their intervals, printed, drawn and saved with their numbers."""
    for what, numbers in results.items():
        print(f"{what:<22}", text(numbers))
    value, low, high = np.array(list(results.values())).T
    names = [what.replace(" is ", "\nis ") for what in results]
    table = {
        "what": names,
        "accuracy": value,
        "low": low,
        "high": high,
        "pairs": counts,
    }
    figure = plots.bars_with_intervals(
        names, value, low, high, counts, ylabel="accuracy", chance=0.5, ylim=(0, 1.08)
    )
    return plots.save(figure, figures, name, table)


judges = {"question and answer": with_question, "answers alone": without}
bars(judges, [len(held_pairs)] * 2, "question_or_not")

# %% [markdown]
# *Two bars with their intervals, and a dashed line at chance; the numbers stand above them.*
#
# A judge that never sees the question can still spot rude, rambling or looping text: manner shows
# in the answer. What it cannot see is whether the answer *fits*. The next table splits the pairs
# by what was wrong with the rejected answer; look at the row of answers to another question.
# Rows with few pairs are hints, not findings.

# %%
loser = [pair.kinds[1].replace("_", " ") for pair in held_pairs]
split = pd.DataFrame({"rejected": loser, "both": gaps_both, "alone": gaps_alone})
split[["both", "alone"]] = split[["both", "alone"]] > 0
seen = split.groupby("rejected").mean()
seen["gained"], seen["pairs"] = seen.both - seen.alone, split.rejected.value_counts()
most = seen.gained.idxmax()
print(f"The question helps most where the rejected answer was {most}.")
assert seen.pairs.sum() == len(held_pairs)
seen.sort_values("gained", ascending=False).round(2)

# %% [markdown] tags=["slide"]
# Now take manner away. Each held-out question gets one of its own good answers and, as the
# opponent, an equally good answer to *another* question: an engaging one meets an engaging one, a
# curt one a curt one. Only reading the question can tell which belongs. **Predict first:** how
# often is the judge that sees both texts right?

# %% tags=["fragment"]
strangers_held = data.strangers(held)
pair = strangers_held[0]
print(f"{pair.prompt}\n  own:      {pair.chosen}\n  stranger: {pair.rejected}\n")
reads_before = {
    name: accuracy(differences(judge, strangers_held), strangers_held)
    for name, judge in (("both texts", both_texts), ("answers alone", answers_alone))
}
for name, found in reads_before.items():
    print(f"own answer against a stranger, {name:<13} {text(found)}")
_, low, high = reads_before["both texts"]
habit = "It prefers the stranger!" if high < 0.5 else "It can tell them apart."
print("It is guessing." if low <= 0.5 <= high else habit)
assert all(pair.chosen != pair.rejected for pair in strangers_held)

# %% [markdown]
# One half is a coin. Below it is worse: some habit of the bad answers, perhaps that they chew on the
# question's own words, is then held against good ones.
#
# The wrong answers in our data can be recognised by their manner alone, so a judge that learns from
# them has no reason to look at the question. **A judge learns to read only where the data ask it to.** A policy
# trained on such a judge could please it without listening.
#
# The remedy is data. We make the same kind of pair from the *training* prompts. They cost nothing
# to write; retrieval models learn from such pairs, and call the strangers *[negatives](../docs/glossary.md#negatives)* (Karpukhin
# et al. 2020, arXiv 2004.04906, section 3.2).

# %%
lessons = train_pairs + data.strangers(train)
n_strangers = len(lessons) - len(train_pairs)
print(f"{len(train_pairs)} pairs as written + {n_strangers} with a stranger")
assert {pair.id for pair in lessons}.isdisjoint(ids_held)

# %% [markdown]
# ## 4. Does it learn what is preferred?
#
# First the start, so that we know what training added. The encoder is pretrained but its top
# layer is random: it has no opinion on what you like. **Predict first:** its accuracy?

# %%
gaps_before = np.array(differences(untrained, held_pairs))
before = accuracy(gaps_before, held_pairs)
print("untrained", text(before))
inside = before[1] <= 0.5 <= before[2]
print("The interval", "includes" if inside else "excludes", "one half.")
assert len(gaps_before) == len(held_pairs)

# %% [markdown]
# Now the full training, strangers included. If this folder holds the finished model of this very training, it
# is loaded; if it was cut off, it goes on from its last checkpoint.

# %%
steps = total_steps(profile, len(lessons))
live = plots.LivePlot(plots.reward_training, steps, 10, folder)
train_reward(RewardModel.untrained(profile), profile, lessons, folder, live)
reward = RewardModel.load(folder / "model")
log = runtime.read_json(folder / "log.json")

# %%
k = max(1, len(log) // 10)
first, last = (np.mean([line["loss"] for line in part]) for part in (log[:k], log[-k:]))
print(
    f"Loss {first:.2f} over the first {k} of {len(log)} steps, {last:.2f} at the end."
)
print(f"Training took {log[-1]['seconds']:.0f} s.")
assert all(math.isfinite(line["loss"]) for line in log)
plots.save(plots.loss_curve(log, ylabel="loss (nats per pair)"), figures, "loss", log)

# %% [markdown]
# *One curve: the loss of every step, thin, and its running mean.*
#
# The curve is about the pairs it learns from. What counts are the prompts it has never seen.
# Besides the overall accuracy we ask a harder question: is it right where the better answer is
# the **shorter** one? A judge that only measures length fails exactly there.

# %%
gaps = np.array(differences(reward, held_pairs))
shorter = np.array([pair.shorter_wins for pair in held_pairs])
after = accuracy(gaps, held_pairs)
by_length = {
    name: accuracy(gaps[rows], [p for p, keep in zip(held_pairs, rows) if keep])
    for name, rows in (("shorter is better", shorter), ("longer is better", ~shorter))
}
gain = (gaps > 0).astype(float) - (gaps_before > 0)
gain_low, gain_high = bootstrap_interval(gain, groups=ids_held)
names = ("accuracy", "accuracy_shorter", "accuracy_longer")
numbers = {"n_pairs": len(gaps), "n_prompts": len(held)}
for name, found in zip(names, (after, *by_length.values())):
    numbers |= dict(zip((name, f"{name}_low", f"{name}_high"), found))
runtime.record(profile, "reward", **numbers, accuracy_untrained=before[0])
runtime.record(profile, "reward", seconds_train=log[-1]["seconds"])

print(f"Trained minus untrained: {text((gain.mean(), gain_low, gain_high))}:")
del untrained, answers_alone, trainer  # memory
print(
    "better than its start." if gain_low > 0 else "no difference from its start shown."
)
assert 0 <= after[1] <= after[2] <= 1

# %% tags=["slide"]
counts = [len(gaps), len(gaps), int(shorter.sum()), int((~shorter).sum())]
bars({"untrained": before, "trained": after, **by_length}, counts, "accuracy")

# %% [markdown]
# *Four bars with their intervals, and a dashed line at chance: untrained, trained, and the trained one
# where the shorter and where the longer answer is better.*

# %%
beyond = (gaps > 0).astype(float) - (blind["the surface"] > 0)
beyond_low, beyond_high = bootstrap_interval(beyond, groups=ids_held)
more = float(beyond.mean()), beyond_low, beyond_high
print(f"our judge minus the one that sees the surface alone: {text(more)}")
adds = beyond_low > 0
print("It adds something." if adds else "Nothing beyond the surface is shown.")
runtime.record(profile, "reward", beyond_the_surface=more)

# %% [markdown]
# Where this interval holds zero, the accuracy above is no sign that anything was read: a high number on
# *these* pairs can be had by counting. (The strangers of section 3 are the better witness.) And PPO climbs
# whatever the judge really sees: expect answers that move to the lengths of the figure.
#
# Two more cuts. A pair with scores 10 and 1 should be easier than one with 7 and 6. **Predict
# first:** by how much does accuracy fall for the closest pairs?

# %%
margin = np.array([pair.margin for pair in held_pairs])
by_margin, sizes = {}, []
for low, high in ((-1, 0), (0, 2), (2, 4), (4, 6), (6, 9)):
    rows = (margin > low) & (margin <= high)
    if rows.any():
        some = [pair for pair, keep in zip(held_pairs, rows) if keep]
        name = f"{low} to {high}" if high else "no scores"
        by_margin[name] = accuracy(gaps[rows], some)
        sizes.append(int(rows.sum()))
assert sum(sizes) == len(held_pairs)
runtime.record(profile, "reward", by_margin=by_margin)
bars(by_margin, sizes, "by_margin")

# %% [markdown]
# *Bars of accuracy by the difference of the two scores (upper end included), from nearly equal on
# the left to far apart on the right.*
#
# The second cut goes finer than "shorter or longer": by how many words does the better answer exceed
# the worse one? A judge that only measures length is right at one end and wrong at the other.

# %%
more_words = np.array(
    [len(p.chosen.split()) - len(p.rejected.split()) for p in held_pairs]
)
by_words, sizes = {}, []
for low, high in ((-math.inf, -30), (-30, -10), (-10, 10), (10, 30), (30, math.inf)):
    rows = (more_words > low) & (more_words <= high)
    if rows.any():
        some = [pair for pair, keep in zip(held_pairs, rows) if keep]
        name = f"{low:+.0f} to {high:+.0f}".replace("-inf to", "up to")
        by_words[name.replace("to +inf", "and more")] = accuracy(gaps[rows], some)
        sizes.append(int(rows.sum()))
assert sum(sizes) == len(held_pairs)
runtime.record(profile, "reward", by_words=by_words)
bars(by_words, sizes, "by_words")

# %% [markdown]
# *Bars of accuracy by the words that the better answer has more than the worse one: far fewer on the
# left, far more on the right.*
#
# And the strangers of section 3? It has practised on such pairs, of other prompts. **Predict
# first:** is it surer of engaging answers, or of bare, curt ones, which hold little to recognise?

# %%
gaps_strangers = np.array(differences(reward, strangers_held))
ids_strangers = [pair.id for pair in strangers_held]
reads = accuracy(gaps_strangers, strangers_held)
learned = (gaps_strangers > 0).astype(float)
learned -= np.array(differences(both_texts, strangers_held)) > 0
learned_low, learned_high = bootstrap_interval(learned, groups=ids_strangers)
against = {"both kinds": reads}
for kind in dict.fromkeys(pair.kinds[0] for pair in strangers_held):
    rows = np.array([pair.kinds[0] == kind for pair in strangers_held])
    some = [pair for pair, keep in zip(strangers_held, rows) if keep]
    against[kind] = accuracy(gaps_strangers[rows], some)
for kind, found in against.items():
    print(f"own answer ({kind}) against a stranger: {text(found)}")
more = learned.mean(), learned_low, learned_high
print(f"more often than the judge of section 3: {text(more)}")
print("It reads the question." if reads[1] > 0.5 else "No sign that it reads!")
runtime.record(
    profile,
    "reward",
    accuracy_stranger=reads,
    accuracy_stranger_by_kind=against,
    accuracy_stranger_unpractised=reads_before["both texts"],
    n_strangers=len(strangers_held),
)
assert len(learned) == len(strangers_held)

# %% [markdown]
# The two judges differ in more than the strangers: this one also trained for longer. An open question
# among the exercises takes that apart. And mind what is *not* tested: most strangers come from another
# topic, where a shared word gives the answer away. A wrong answer about the right thing is another matter.
#
# And by topic? Everybody wants that table. Look at the number of prompts in it first.

# %%
topics = pd.DataFrame(
    {"topic": [p.topic for p in held_pairs], "id": ids_held, "accuracy": gaps > 0}
)
topics = topics.groupby("topic").agg(
    prompts=("id", "nunique"), accuracy=("accuracy", "mean")
)
lowest, highest = topics.accuracy.idxmin(), topics.accuracy.idxmax()
least, most = topics.prompts.min(), topics.prompts.max()
print(f"{len(topics)} topics, {least} to {most} prompts each.")
for name in dict.fromkeys((highest, lowest)):
    print(f"  {name:<14}{topics.accuracy[name]:.2f}   ({topics.prompts[name]} prompts)")
assert topics.prompts.sum() == len(held)

# %% [markdown]
# With a handful of prompts each, the best and the worst topic can differ by luck alone. We do not
# report this table, and you now know why others perhaps should not have.
#
# A better use of your time: read the worst mistakes. Where did it back the wrong answer with the
# most confidence? Do you agree with the data, or with the machine?

# %%
worst = [held_pairs[i] for i in np.argsort(gaps)[:3]]
kinds = [" over ".join(k.replace("_", " ") for k in pair.kinds) for pair in worst]
show.side_by_side(
    [pair.prompt for pair in worst],
    {
        "the data preferred": [pair.chosen for pair in worst],
        "over this, which the model scored higher": [pair.rejected for pair in worst],
    },
    notes={"the data preferred": kinds},
)

# %%
match = pd.DataFrame(
    {"pair": [" over ".join(p.kinds) for p in held_pairs], "right": gaps > 0}
)
match = match.groupby("pair").right.agg(["mean", "size"]).sort_values("mean")
common = match[match["size"] >= 10]
mistakes = int((gaps <= 0).sum())
rare = int(match[match["size"] < 10].eval("size * (1 - mean)").sum().round())
print(f"{mistakes} mistakes; {rare} of them on matches seen fewer than 10 times here.")
if len(common):
    print(f"weakest common match: {common.index[0]} ({common['mean'].iloc[0]:.2f})")
assert match["size"].sum() == len(held_pairs)

# %% [markdown]
# Rare matches, such as one bad answer against another bad answer, get little practice. PPO will
# ask exactly such things: early in training *all* of its answers can be poor.

# %% [markdown]
# ## 5. When it says 0.9, is that a probability?
#
# The score difference gives a probability, σ(difference). Is it to be believed? If the model is
# **[calibrated](../docs/glossary.md#calibration)**, then of all pairs that it calls with 0.9 it gets nine in ten right. The
# **[expected calibration error](../docs/glossary.md#expected-calibration-error)** (ECE; Guo et al. 2017, arXiv 1706.04599) sorts the calls into bins
# and averages the distance between said and true.


# %% tags=["nbval-check-output"]
def ece(said, right, bins: int = 5) -> float:
    """Mean |said − right| over equal bins of [0.5, 1], weighted by their calls."""
    if not len(said):
        return math.nan
    where = np.minimum(((np.asarray(said) - 0.5) * 2 * bins).astype(int), bins - 1)
    distances = np.bincount(where, np.asarray(right) - said)  # summed in each bin
    return float(np.abs(distances).sum() / len(where))


said = np.array([0.9] * 10 + [0.6] * 5)
right = np.array([1] * 7 + [0] * 3 + [1] * 3 + [0] * 2)
print(f"ten calls of 0.9 (7 right), five of 0.6 (3 right): ECE {ece(said, right):.3f}")
assert math.isclose(ece(said, right), (10 * 0.2 + 5 * 0.0) / 15)

# %% [markdown] tags=["slide"]
# **Predict first:** training asked for differences *larger than a margin*. Will that make our
# model too sure of itself, or not sure enough?

# %% [markdown] tags=["teaching"]
# - **What it is for.** Right and sure are two things.
# - **Ask.** Training asked for differences larger than a margin. Too sure, or not sure enough?
# - **The usual wrong answer.** "It is accurate, so its probabilities are right." Multiply every
#   score by ten: the accuracy stays the same.

# %% tags=["subslide"]
said = torch.sigmoid(torch.tensor(np.abs(gaps))).numpy()  # of its own choice
right = gaps > 0
where = np.minimum(((said - 0.5) * 10).astype(int), 4)
points = []
for b in range(5):
    rows = where == b
    if rows.any():
        low, high = bootstrap_interval(right[rows], groups=np.array(ids_held)[rows])
        points.append((said[rows].mean(), right[rows].mean(), rows.sum(), low, high))
        print(
            "said {:.2f}: right {:.2f} in {} pairs [{:.2f}, {:.2f}]".format(*points[-1])
        )
direction = "too sure" if said.mean() > right.mean() else "not sure enough"
print(
    f"It says {said.mean():.2f} on average; {right.mean():.2f} are right: {direction}."
)
columns = ["said", "observed", "pairs", "low", "high"]
table = pd.DataFrame(points, columns=columns)
plots.save(drawings.calibration(*zip(*points)), figures, "calibration", table)

# %% [markdown]
# *One point a bin, with its interval; on the dashed diagonal, said and true would be equal. A point
# below it is a bin where the model was too sure.*
#
# One number for it, with an interval over prompts. The ECE can never be negative, so even a
# perfect model shows a little by luck. How much? We ask a made-up model that is calibrated by
# construction.

# %%
rng = np.random.default_rng(0)
codes = np.unique(ids_held, return_inverse=True)[1]
groups = [np.flatnonzero(codes == g) for g in range(codes.max() + 1)]  # of each prompt
drawn = [
    np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
    for _ in range(1000)
]
error = ece(said, right)
error_low, error_high = np.quantile(
    [ece(said[i], right[i]) for i in drawn], [0.025, 0.975]
)
luck = np.mean([ece(said, rng.random(len(said)) < said) for _ in range(1000)])
print(f"ECE {error:.3f} [{error_low:.3f}, {error_high:.3f}]")
print(f"A perfectly calibrated model would show about {luck:.3f} with these pairs.")
runtime.record(profile, "reward", ece=error, ece_low=error_low, ece_high=error_high)
assert 0 <= error_low <= error_high <= 1

# %% [markdown]
# Can it be mended? Dividing every difference by one number T changes no choice, only how loudly it
# is made (*[temperature scaling](../docs/glossary.md#temperature-scaling)*). We pick T on half of the prompts and test it on the other half.

# %%
of_half = data.held_of(["half " + name for name in ids_held], 0.5)
half = np.array(["half " + name in of_half for name in ids_held])
temperatures = np.geomspace(0.25, 8, 60)
logloss = [np.logaddexp(0, -gaps[half] / t).mean() for t in temperatures]
best_t = float(temperatures[np.argmin(logloss)])
rest = ~half
cooler = torch.sigmoid(torch.tensor(np.abs(gaps[rest]) / best_t)).numpy()
print(f"T = {best_t:.2f}, chosen on {half.sum()} pairs. On the other {rest.sum()}:")
as_it_was, mended = ece(said[rest], right[rest]), ece(cooler, right[rest])
print(f"ECE {as_it_was:.3f} before, {mended:.3f} with T")
assert ((gaps / best_t > 0) == right).all()

# %% [markdown]
# A T above 1 says that the model was too sure. PPO does not care about T, for it rescales the
# rewards anyway; you do, whenever you read σ(difference) as "how likely people prefer this".
#
# ## 6. What does it really like?
#
# The workshop that this course follows ended its reward model with a [probe](../docs/glossary.md#probe). "Tell them Hello!"
# scored −5.18; the same answer with two more sentences scored +7.61. Was that because the new
# sentences helped, or because they were *more*?
#
# We ask with a control. One series adds sentences that help; the other adds sentences of the same
# length that say nothing. **Predict first:** which of the two lines rises, and how far?

# %% tags=["slide"]
helpful = [
    "A smile and a little eye contact make the same word feel much warmer.",
    "In a formal setting, stand up and offer your hand while you say it.",
    "Among friends, a wave, a nod or a hug says just as much as the word.",
    "Then ask how their day is going, and listen to what they tell you.",
]
hollow = [
    "There is a great deal that could be said about a thing such as this.",
    "It is something that people do, and other people do it in other ways.",
    "That is how it is with such things, and it has always been like that.",
    "And so it goes on, as it always does, and as it will in the future.",
]


def longer(start: str, sentences: list[str]) -> list[str]:
    """The answer alone, then with one, two, three and four further sentences."""
    return [" ".join([start, *sentences[:k]]) for k in range(len(sentences) + 1)]


series = {
    "sentences that help": longer(answers["A"], helpful),
    "sentences that say nothing": longer(answers["A"], hollow),
}


def climb(curves: dict[str, list[float]], xlabel: str, name: str):
    """Scores as sentences are added, printed, drawn and saved."""
    for what, found in curves.items():
        steps = "  ".join(f"{score:+.2f}" for score in found)
        print(f"{what:<27} {steps}   change {found[-1] - found[0]:+.2f}")
    return plots.save(plots.probe_lines(curves, xlabel), figures, name, curves)


probe = {name: reward.score([question] * 5, texts) for name, texts in series.items()}
assert math.isclose(*(scores[0] for scores in probe.values()), abs_tol=1e-3)
climb(probe, "sentences added to 'Tell them Hello!'", "length_probe")

# %% [markdown]
# *Two lines from the same starting point, five points each.*
#
# A line that rises with hollow sentences is a judge that pays by the word. But this is one answer
# to one question, and one example proves little. So the same again, and more, on many held-out
# questions: we take the best answer of each and change it in nine ways.
#
# Fill in your guesses first: `"+"` if the change will raise the score, `"-"` if it will lower it. What
# *should* it do? The first four leave the good answer in place, so a careful judge pays nothing for
# them: anything but `"+"` is fine. The last five throw it away: they should all be `"-"`.

# %%
guess = {
    "polite words added": "?",
    "the answer twice": "?",
    "question echoed first": "?",
    "hollow sentences added": "?",
    "confident nonsense": "?",
    "says nothing, in English": "?",
    "says nothing, in Spanish": "?",
    "nothing at all": "?",
    "long, another question's": "?",
}
assert set(guess.values()) <= {"+", "-", "?"}

# %%
some = held[:40]
asked = [row["prompt"] for row in some]
plain = [max(row["responses"], key=lambda r: r["score"])["text"] for row in some]
nonsense = (
    "Absolutely, and every expert agrees: it is always exactly 42, as was proven."
)
english = "That is a very good question, and the answer depends on many things in life."
spanish = "Es muy buena pregunta, y la respuesta depende de muchas cosas en la vida."
changed = {
    "polite words added": [
        f"Thank you for asking! {a} I hope it helps!" for a in plain
    ],
    "the answer twice": [f"{a} {a}" for a in plain],
    "question echoed first": [f"You ask: {q} {a}" for q, a in zip(asked, plain)],
    "hollow sentences added": [longer(a, hollow)[-1] for a in plain],
    "confident nonsense": [nonsense] * len(some),
    "says nothing, in English": [english] * len(some),
    "says nothing, in Spanish": [spanish] * len(some),
    "nothing at all": [""] * len(some),
    "long, another question's": [
        f"{plain[i - 1]} {plain[i - 2]}" for i in range(len(some))
    ],
}
assert changed.keys() == guess.keys()
should = dict.fromkeys(list(changed)[:4], "not +")
should |= dict.fromkeys(list(changed)[4:], "-")

# %% tags=["slide"]
base = np.array(reward.score(asked, plain))
probes = []
for name, texts in changed.items():
    scores = np.array(reward.score(asked, texts))
    low, high = bootstrap_interval(scores - base)
    sign = "+" if low > 0 else "-" if high < 0 else "unclear"
    numbers = {"score": float(scores.mean()), "change": float((scores - base).mean())}
    passed = sign == "-" if should[name] == "-" else sign != "+"
    said = {"sign": sign, "should be": should[name], "passed": passed}
    probes.append({"probe": name, **numbers, "low": low, "high": high, **said})
table = pd.DataFrame(probes)
figure = plots.score_changes(
    table.probe, table.change, table.low, table.high, len(some)
)
plots.save(figure, figures, "probes", table)

# %%
print(f"The plain answers score {base.mean():.2f} on average.")
liked = [row["probe"] for row in probes if row["sign"] == "+"]
blind = [row["probe"] for row in probes if row["sign"] == "unclear"]
print("It is fooled by:", ", ".join(liked) or "none of these.")
print("It shows no clear opinion on:", ", ".join(blind) or "none of these.")
print(f"It passes {sum(row['passed'] for row in probes)} of {len(probes)} probes.")
by_name = table.set_index("probe").score
tongue = by_name["says nothing, in Spanish"] - by_name["says nothing, in English"]
print(f"The same nothing in Spanish instead of English: {tongue:+.2f}")
hits = sum(guess[row["probe"]] == row["sign"] for row in probes)
tried = sum(sign != "?" for sign in guess.values())
print(f"You guessed {hits} of {tried}." if tried else "You made no guesses. Next time!")
runtime.record(profile, "reward", probes=probes, probe_plain=float(base.mean()))
table.assign(guess=list(guess.values())).round(2)

# %% [markdown]
# *The figure in words: one row a probe, the mean change of the score with its interval; a triangle
# shows the direction, a dot that it is unclear.*
#
# Two probes say the same nothing in two languages, so what differs between them is the language
# alone. The judge has no facts to check an answer against. It has a sense of what good answers look like,
# and each of these probes asks how far that sense carries.
#
# ### Your turn to fool it
#
# Press the buttons, or type. Which edit does the judge like best? Does it depend on the question?
# The table below the widget shows each edit once, for pages without widgets.

# %%
from sawyer_utils.classroom import widgets

short_answer = "Say hello, smile, and ask how they are."
widgets.RewardExplorer(reward.score, question, short_answer, answers["A"])

# %%
widgets.edits(reward.score, question, short_answer)

# %% [markdown] tags=["slide"]
# ## 7. Break it, then mend it
#
# What keeps the judge from paying by the word? We suspect the pairs in which the **shorter**
# answer was the better one. A suspicion can be tested: train once more, without those pairs. It
# gets the same start and the same number of steps as the trial of section 3, which had them all.
#
# **Predict first:** which of the two lines below will rise?

# %% [markdown] tags=["teaching"]
# - **What it is for.** To show that a suspicion about data can be tested, by leaving that data out.
# - **Ask.** Which pairs would you take away to teach the judge a bad habit, without one false
#   label?
# - **The usual wrong answer.** "There is a bug in the second model." Same code, and each of its
#   pairs is a true preference.

# %% tags=["subslide"]
long_only = [p for p in train_pairs if not p.shorter_wins] or train_pairs
print(f"{len(long_only)} of {len(train_pairs)} pairs are left: the longer answer wins.")
broken = trial("no_short_winners", long_only)

hollow_series = series["sentences that say nothing"]
probe_models = {
    "all pairs": both_texts.score([question] * 5, hollow_series),
    "no short winners": broken.score([question] * 5, hollow_series),
}
assert 0 < len(long_only) <= len(train_pairs)
climb(probe_models, "hollow sentences added to 'Tell them Hello!'", "broken_probe")

# %% [markdown]
# *Two lines, one a model, as the same hollow sentences are added.*
#
# The scores of two models have different zeros (section 1), so compare how the lines *climb*, not
# how high they are. And again: one example is an anecdote. Here is the same on many questions: the
# second-best written answer of each, with and without four hollow sentences. We count how often
# the padded version wins, for counting needs no common scale.

# %%
short_answers = [
    sorted(row["responses"], key=lambda r: -r["score"])[1]["text"] for row in some
]
padded = [longer(a, hollow)[-1] for a in short_answers]


def padding_wins(judge: RewardModel) -> np.ndarray:
    """For each question: does the padded answer score higher?"""
    return np.greater(judge.score(asked, padded), judge.score(asked, short_answers))


wins = {"all pairs": padding_wins(both_texts), "no short winners": padding_wins(broken)}
shares = {name: (w.mean(), *bootstrap_interval(w)) for name, w in wins.items()}
change = wins["no short winners"].astype(float) - wins["all pairs"]
change_low, change_high = bootstrap_interval(change)
for name, numbers in shares.items():
    print(f"{name:<17} padded answer wins: {text(numbers)}")
print(f"difference {text((change.mean(), change_low, change_high))}")
assert len(padded) == len(some)

# %%
gaps_broken = np.array(differences(broken, held_pairs))
for name, found in (("all pairs", gaps_both), ("no short winners", gaps_broken)):
    on_short = accuracy(found[shorter], [p for p in held_pairs if p.shorter_wins])
    print(f"{name:<17} right where the shorter is better: {text(on_short)}")
print(f"right on all: {np.mean(gaps_both > 0):.3f} and {np.mean(gaps_broken > 0):.3f}")
curve = runtime.read_json(folder / "no_short_winners" / "log.json")[-5:]
own_pairs = np.mean([line["accuracy"] for line in curve])
print(f"On its own training pairs the second was right on {own_pairs:.3f} at the end.")
runtime.record(
    profile,
    "reward",
    probe={**probe, **probe_models},
    padding_wins={name: list(map(float, numbers)) for name, numbers in shares.items()},
    accuracy_shorter_broken=float(np.mean(gaps_broken[shorter] > 0)),
)

# %% [markdown]
# Nothing in the second model's code is wrong, and every one of its pairs was a true preference.
# What it lacked was the data that says "longer is not the reason". To mend it we need no trick,
# only those pairs back: that is the first model.
#
# **What data did that data teach?** Preferences are never only about what they are about. Each
# pair also teaches everything else in which its two answers differ.
#
# ## 8. What will it say to answers nobody wrote?
#
# So far it judged answers that were written for this data. In notebook 03 it will judge what a
# *model* writes: other mistakes, other lengths, sentences cut off in the middle. So let the SFT
# model of notebook 01 answer some prompts, and grade its answers.

# %%
del both_texts, broken  # memory
sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
tokenizer, model = models.load_policy(profile)
model = models.load_adapter(model, sft / "adapter", "default")
rows = data.load_prompts("train", profile.prompts, profile.limit)
rows = chat.that_fit(tokenizer, rows, profile.prompt_tokens)
n = min(40, profile.eval_prompts, len(rows))
sample_prompts = [row["prompt"] for row in rows[:: len(rows) // n][:n]]
sampled = evaluation.answer(model, tokenizer, sample_prompts, profile)
own = reward.score(sample_prompts, sampled.responses)
print(f"{n} answers, {np.mean(sampled.lengths):.0f} tokens on average.")
assert len(own) == n
assert np.isfinite(own).all()

# %% [markdown]
# **Predict first:** between which two kinds of written answers will the SFT model land?

# %% tags=["slide"]
written = pd.DataFrame(
    [{"prompt": q["prompt"], **r} for q in held for r in q["responses"]]
)
written["reward"] = reward.score(list(written.prompt), list(written.text))
means = written.groupby("kind").reward.mean().sort_values(ascending=False)
scores_of = {
    k.replace("_", " "): list(written.reward[written.kind == k]) for k in means.index
}
scores_of["SFT's own"] = own
for name, scores in scores_of.items():
    print(
        f"{name:<12} {np.mean(scores):6.2f} ± {np.std(scores):.2f}   n = {len(scores)}"
    )
below = [k.replace("_", " ") for k in means.index if means[k] < np.mean(own)]
print(
    "SFT's own answers score above the mean of:", ", ".join(below) or "no kind at all"
)
runtime.record(
    profile,
    "reward",
    sft_mean=float(np.mean(own)),
    sft_std=float(np.std(own, ddof=1)),
    sft_n=n,
    scores_by_kind={k: float(v) for k, v in means.items()},
)
figure = drawings.score_groups(scores_of, own="SFT's own")
numbers = [{"kind": k, "score": s} for k, scores in scores_of.items() for s in scores]
plots.save(figure, figures, "scores_by_kind", numbers)

# %% [markdown]
# *One row a kind of answer, each answer a dot, the box from the lower to the upper quartile; the SFT
# model's own answers in the last row.*
#
# Here are the SFT answers that it liked best and least. Read them as a judge of the judge: is the
# upper one *good*? Is anything in it invented?

# %%
order = np.argsort(own)[::-1]
shown = [int(i) for i in (*order[:2], *order[-2:])]
show.side_by_side(
    [sample_prompts[i] for i in shown],
    {"SFT answered": [sampled.responses[i] for i in shown]},
    notes={"SFT answered": [f"score {own[i]:+.2f}" for i in shown]},
)

# %% [markdown]
# On these answers there is no "right" to compare with: nobody has voted on them. The spread you
# see, from the worst to the best answer of one and the same model, is the slope that PPO will
# climb. It can only climb what the judge can tell apart.
#
# ## 9. Would people agree?
#
# All pairs so far came from one data set, made for this course by one recipe. If you have votes of
# real people, point `SAWYER_HUMAN_PAIRS` at them: files or Hub data sets (several are separated as in `PATH`)
# in any form that the README's "Your own data" names, such as `prompt`, `chosen` and `rejected`. The run that
# is committed had 300 pairs of Anthropic's HH-RLHF (helpful) and 180 of OpenAssistant's rankings, neither of
# which comes with this course.


# %%
def human_pairs(source: str, limit: int = 300) -> tuple[list, int]:
    """(pairs, how many of them have several turns); single-turn prompts come first."""
    rows = pairs_that_fit(profile, data.load_preferences(source))
    rows = sorted(rows, key=lambda row: row.get("turns", 1))[:limit]
    return data.pairs(rows), sum(row.get("turns", 1) > 1 for row in rows)


# %%
from sawyer_utils.plumbing import paths

with_people = {}
for source in paths.separate(os.environ.get("SAWYER_HUMAN_PAIRS", "")):
    people, turns = human_pairs(source)
    agreed = accuracy(differences(reward, people), people)
    ruler = accuracy([len(p.chosen) - len(p.rejected) for p in people], people)
    print(f"{len(people)} pairs, {turns} with several turns")
    print("    our model agrees with people", text(agreed))
    print("    'the longer one wins' agrees", text(ruler))
    name = f"{len(with_people) + 1} {Path(source).stem}"
    with_people[name] = {"pairs": len(people), "agreed": agreed, "ruler": ruler}
if with_people:
    runtime.record(profile, "reward", people=with_people)
else:
    print("No human preferences here (SAWYER_HUMAN_PAIRS is not set): not tested.")

# %% [markdown]
# Expect a humbling number. Human votes compare two serious attempts, whose difference is small and
# on which even two people often disagree; our pairs compare a good answer with a spoilt one.
# Accuracy on one data set is a property of the model *and of that data set*.

# %% [markdown]
# ### What does the class prefer?
#
# Now you are the people. The widget shows two samples of the SFT model of notebook 01, nameless and in
# random order. Let everybody ask the same questions with the same seed, and vote. Each vote is added to
# `votes.jsonl` in this run's folder, as a row of the course's own preference schema; who voted is not in it.

# %%
from sawyer_utils.classroom import talk, votes

two = {"one": "default", "two": "default"}
samples = talk.Talk(model, tokenizer, profile, two, seeds={"two": 1})
class_chat = widgets.Chat(samples, folder, ballots=folder / "votes.jsonl")
class_chat.blind.value = True
class_chat

# %% [markdown]
# Put everybody's file into the same folder (`votes-1.jsonl`, `votes-2.jsonl`, …) and run the next cell. Where
# there is none, a made-up class votes: twelve people who like the *shorter* of two answers, but for one
# vote in five. How far do voters agree?
# **[Krippendorff's alpha](../docs/glossary.md#krippendorffs-alpha)** is 1 if all agree and 0 for
# coin tosses.
# **Predict first:** what is it for a class that errs one time in five?

# %%
files = sorted(folder.glob("votes*.jsonl"))
made_up = not files
if made_up:
    second = evaluation.answer(model, tokenizer, sample_prompts, profile, seed=1)
    both = {"one": sampled.responses, "two": second.responses}
    files = votes.simulated_class(folder / "class", sample_prompts, both, 12, noise=0.2)
cast = votes.merge_votes(files)
print(f"{len(files)} files of", "a made-up class" if made_up else "your class")
print(votes.agreement(cast))
if made_up:
    print(f"expected of such a class: {(1 - 2 * 0.2) ** 2:.2f}")
assert votes.merge_votes([*files, files[0]]) == cast  # a file that comes in twice

# %% [markdown]
# Two voters agree where both are right or both are wrong: 0.8² + 0.2² = 0.68 of the time, where coins
# would agree on one half; (0.68 − 0.5)/(1 − 0.5) = 0.36. Real votes on two serious answers often do no better.
#
# *What* do they like? Bradley and Terry again, with one number instead of a model: the chance of a vote is
# σ(weight · feature), and the feature is +1 where the chosen answer is the shorter, −1 where it is the
# longer one.

# %%
voted = votes.pairs(cast)
weight, low, high = votes.taste(voted)
print(f"weight of 'shorter': {text((weight, low, high))}")
if made_up:
    truth = math.log(0.8 / 0.2)
    inside = "inside" if low <= truth <= high else "outside"
    print(f"the taste that was put in: {truth:.3f}, {inside} the interval")

# %% [markdown]
# And the same day, a reward model: one third of the prompts is kept for the exam, the votes on the others
# train a judge for a few steps. **Predict first:** hundreds of votes, but how many different pairs? Will it
# learn the taste, or the pairs?

# %%
lessons_of_class = [pair for pair in voted if not data.held_out(pair.id, 1 / 3)]
exam = [pair for pair in voted if data.held_out(pair.id, 1 / 3)]
class_judge, steps = RewardModel.untrained(profile), min(12, profile.reward_trials)
options = {"max_steps": steps, "warmup_steps": 0, "save_strategy": "no"}
options |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
enough = bool(lessons_of_class and exam)
if enough:
    with tempfile.TemporaryDirectory() as scratch:
        train_reward(class_judge, profile, lessons_of_class, Path(scratch), **options)
for name, part in (("votes to learn from", lessons_of_class), ("exam", exam)):
    print(f"{name}: {len(part)} on {len({pair.id for pair in part})} prompts")
assert {pair.id for pair in lessons_of_class}.isdisjoint(pair.id for pair in exam)

# %%
if enough:
    judged = {
        "the judge of this notebook": differences(reward, exam),
        f"{steps} steps on the votes": differences(class_judge, exam),
        "'the shorter one wins'": [votes.shorter(pair) for pair in exam],
    }
    for name, found in judged.items():
        print(f"agrees with the class, {name:<27} {text(accuracy(found, exam))}")

# %% [markdown]
# No judge can agree with a class much more often than the class with itself; the last line shows what
# knowing its taste would do. Twelve votes on one pair make that pair surer; they are not twelve pairs, and an encoder
# learns a taste from *different* pairs. (The package's tests train one on enough of them.) So let a real
# class share a few questions, for the agreement, and go separate ways on the rest. **Whoever votes decides what is
# learned:** had the class liked length, the same lines of code would have made a judge of length.

# %%
peak = runtime.record_peak(profile, "reward")
print(f"right on held-out pairs      {text(after)}   untrained {before[0]:.3f}")
print(f"right where shorter wins     {text(by_length['shorter is better'])}")
print(f"expected calibration error   {text((error, error_low, error_high))}")
unpractised = reads_before["both texts"][0]
print(f"own answer over a stranger's {text(reads)}   unpractised {unpractised:.3f}")
print(f"peak memory                  {peak:.1f} GiB")
print(f"\nRight on {after[0]:.0%} of our pairs. Is it still right where PPO will push?")

# %% [markdown] tags=["slide"]
# Keep that doubt. A judge that is right on answers written for it can be wrong on answers that
# nobody would write. PPO looks for high scores, not for good answers, and it looks hard.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The bridge to 03. Let the class fool the judge in the widget for five
#   minutes first.
# - **Ask.** You are paid by this judge and by nobody else. What do you write?
# - **The usual wrong answer.** "Good answers." High scores. The two come apart wherever the judge
#   has not been tested.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. It tries functions on fresh inputs. The solutions stand at the end of the
# notebook. (The comments with `SOLUTION` are for teachers who use nbgrader.)

# %%
from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 02.1 Predict the number: a vote against the grain
#
# A judge gives a pair the scores 2.0 and 2.5, the chosen answer first. What is the loss with a margin
# of 0.5? Two decimals will do.

# %% tags=["exercise"]
### BEGIN SOLUTION
loss_against_the_grain = None
### END SOLUTION

check("02.1", loss_against_the_grain)

# %% [markdown]
# ### 02.2 Write this function: a loss that survives a bad pair
#
# The mean loss of several pairs, with margins. It must stay finite where the chosen answer is behind by
# more than a hundred, which the formula of section 1, typed as it stands, does not.


# %% tags=["exercise"]
def preference_loss(chosen, rejected, margin):
    """Scores (B,) of both answers, margins (B,) -> one number, in nats."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("02.2", preference_loss)

# %% [markdown]
# ### 02.3 Break it: right as often, and far too sure
#
# Spoil a judge's calibration behind the back of its accuracy: change its differences so that no choice
# changes, no pair overtakes another in sureness on the same side, and it says at least 0.99 on average.
# Which of this notebook's numbers would notice?


# %% tags=["exercise"]
def too_sure(differences):
    """Score differences (B,) -> other differences (B,)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("02.3", too_sure)

# %% [markdown]
# ### 02.4 Break it and diagnose: a split that leaks
#
# Split by pair instead of by prompt, as in the next cell, and good answers stand on both sides. Write the
# alarm: the share of held-out pairs of which at least one answer, chosen or rejected, was also an answer
# of some training pair. It must be 0 for a split by prompt.

# %%
texts = ["a smile", "a wave", "a nod", "a shout"]  # one prompt, best answer first
toy_pairs = [
    {"prompt": "How do I greet someone?", "chosen": good, "rejected": bad}
    for i, good in enumerate(texts)
    for bad in texts[i + 1 :]
]
toy_train, toy_held = toy_pairs[:2], toy_pairs[2:]  # by pair!
for pair in toy_held:
    print(pair["chosen"], ">", pair["rejected"])


# %% tags=["exercise"]
def leak(train, held):
    """Lists of pairs, {"prompt", "chosen", "rejected"} each -> a share from 0 to 1."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("02.4", leak)

# %% [markdown]
# ### Two open questions
#
# No check can answer these in two seconds; the judge can.
#
# **A probe of your own.** Add a change to `changed` and `guess` in section 6 (all capitals?
# a bullet list? an apology first?). Write the sign down before you run it.
#
# <details><summary>What to make of it</summary>
#
# There is no right answer, only a result with an interval. If the interval includes zero, you have
# learned that 40 questions cannot tell, not that the change has no effect.
#
# </details>
#
# **Was it the data or the steps?** The judge of section 4 reads better than that of section 3,
# but it also trained longer. Take that apart: one `trial` with the lessons, one without, equal
# steps. What do the lessons cost on the old pairs?
#
# <details><summary>How to find out</summary>
#
# ```python
# reader = trial("reader", lessons)  # as many steps as "both_texts", which had no lessons
# for judge in (trial("both_texts", train_pairs), reader):
#     print(text(accuracy(differences(judge, strangers_held), strangers_held)),
#           text(accuracy(differences(judge, held_pairs), held_pairs)))
# ```
#
# With equal steps the reader sees fewer of the old pairs, so it may lose a little there. Then make
# it harder: let each stranger come from the *same topic*. Sharing a word no longer helps, and you
# will see how deep the reading goes.
#
# </details>

# %% [markdown]
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | accuracy stays at one half | learning rate far too low, or nothing trainable | curve in section 4 |
# | loss sticks at 0.69 with zero margins | the scores of both answers move together | section 4, mean gap |
# | training accuracy 1, held-out far lower | split by pair instead of by prompt; too many epochs | section 4, bars |
# | accuracy high, but not where the shorter is better | the data lacks short winners | section 4, section 7 |
# | answers alone do as well as both texts | wrong answers have a tell-tale style | section 3, strangers |
# | high accuracy, high ECE | too sure: margins, long training | section 5 |
# | every probe raises the score | the judge rewards more text | section 6 |
# | PPO's reward climbs, answers get worse | the judge is asked about texts it never saw | notebook 03 |

# %% [markdown]
# ## What we simplified
#
# 1. **One judge, one seed.** Ensembles show where a judge is guessing (Coste et al. 2023, arXiv
#    2310.02743). Our intervals are over prompts, not over trainings.
# 2. **Pairs as separate examples.** InstructGPT (arXiv 2203.02155, section 3.5) puts all pairs of
#    one prompt into one batch element: less computing, less overfitting. TRL's trainer takes pairs.
# 3. **A small encoder.** Larger projects start from the SFT model itself, which has read more. The
#    workshop used roberta-base, and so do the larger profiles here.
# 4. **The margin is linear in the score difference,** a quarter of it. Llama 2 used a few steps.
# 5. **Written preferences.** Answers and scores were made for this course to a recipe; the data card
#    says how. Nobody voted on them twice, so we cannot say how often two judges would agree.
# 6. **Strangers are picked by lot.** Harder ones (same topic, or a subtle falsehood) would teach more;
#    choosing them well is a craft of its own.
# 7. **Equal steps in sections 3 and 7.** The judge without short winners sees fewer pairs more often.

# %% [markdown]
# ## Five questions
#
# **1. A colleague reports “a mean reward of 6.9”. What do you ask first?**
#
# - A: How many prompts is it the mean of?
# - B: Compared with what, on the same prompts and by the same judge?
# - C: Is 10 the best possible score?
#
# <details><summary>Answer</summary>
#
# **B** is right. Adding 5 to every score changes no loss and no preference. Only differences of one judge's scores mean anything.
#
# Not A. A fine second question. With a million prompts the number would still mean nothing by itself.
#
# Not C. The scores of the judge have no upper end; 1 to 10 is the scale of the data's written scores.
#
# It stands in “1. How does a vote become a number?”.
#
# </details>
#
# **2. Sixteen pairs come from four prompts. Why does the bootstrap draw prompts and not pairs?**
#
# - A: Pairs of one prompt are right or wrong together.
# - B: It makes the accuracy itself more accurate.
# - C: The model was trained on the other pairs of these prompts.
#
# <details><summary>Answer</summary>
#
# **A** is right. They share a question and answers. The same accuracy gets a far wider interval, because four prompts are four pieces of evidence.
#
# Not B. The accuracy is the same in both lines of the output; only its interval changes.
#
# Not C. It was not: the split is by prompt, and an assert checks it.
#
# It stands in “3. Can you judge an answer without its question?”.
#
# </details>
#
# **3. The chosen answer leads by 0.9 and the margin is 1. What does the loss say?**
#
# - A: Zero: the chosen answer is ahead.
# - B: Less than log 2, for the model is right.
# - C: More than log 2, for the lead is smaller than what was asked.
#
# <details><summary>Answer</summary>
#
# **C** is right. 0.744 against 0.693: falling short of the margin costs more than a coin flip without one.
#
# Not A. Being ahead is never free under −log σ, not even without a margin; here the lead is not even as large as asked.
#
# Not B. It is right, but the margin asks for a lead of 1. What counts is 0.9 − 1, which is below zero.
#
# It stands in “2. What does a strong preference say?”.
#
# </details>
#
# **4. A judge is right on well over half of the pairs without ever seeing a question. Good news?**
#
# - A: Yes: good answers are good whatever was asked.
# - B: No: it judges manner, and a policy could please it without listening.
# - C: No: it must have seen the held-out prompts in training.
# - D: Yes: it shows that the encoder has learned facts.
#
# <details><summary>Answer</summary>
#
# **B** is right. The wrong answers can be told by their style alone. Against an equally good answer to another question it has nothing to go by.
#
# Not A. A fine answer to another question is a wrong answer. Such a judge cannot see that.
#
# Not C. The prompts are split, and it sees no prompts at all. The style of the answers explains it.
#
# Not D. No fact is needed to notice rude, rambling or looping text.
#
# It stands in “3. Can you judge an answer without its question?”.
#
# </details>
#
# **5. Every training pair is a true preference. Can the model still learn something false?**
#
# - A: No: true labels teach true things.
# - B: Only if it is trained for too many steps.
# - C: Yes: where the better answer is always the longer one, “longer is better” explains the data perfectly.
#
# <details><summary>Answer</summary>
#
# **C** is right. Leaving out the pairs that a shorter answer wins made such a model on purpose. Only the data was changed.
#
# Not A. Each pair also teaches everything else in which its two answers differ.
#
# Not B. The broken judge had the same start and the same number of steps as the sound one.
#
# It stands in “7. Break it, then mend it”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("02")

# %% [markdown]
# ## Next
#
# [03 · PPO](03_ppo.ipynb): the SFT model writes, this judge grades, and the grades change the model.
# Watch then for everything that you have seen this judge like for the wrong reasons.

# %% [markdown]
# ## Solutions
#
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
loss_against_the_grain = math.log(1 + math.exp(0.5 + 0.5))
### END SOLUTION

assert check("02.1", loss_against_the_grain).right


# %% tags=["solution"]
def preference_loss(chosen, rejected, margin):
    ### BEGIN SOLUTION
    return -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()
    ### END SOLUTION


assert check("02.2", preference_loss).right


# %% tags=["solution"]
def too_sure(differences):
    ### BEGIN SOLUTION
    return 100 * differences
    ### END SOLUTION


assert check("02.3", too_sure).right


# %% tags=["solution"]
def leak(train, held):
    ### BEGIN SOLUTION
    seen = {answer for pair in train for answer in (pair["chosen"], pair["rejected"])}
    leaked = [pair["chosen"] in seen or pair["rejected"] in seen for pair in held]
    return sum(leaked) / len(held)
    ### END SOLUTION


assert check("02.4", leak).right
