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
# - turn votes between answers into a loss, by hand and with TRL,
# - say how much of an accuracy can be had without reading,
# - train a judge on a frozen language model.
#
# | In our run | is right on held-out pairs |
# |---|---|
# | a judge that cannot read | 0.585 |
# | an encoder, fine-tuned | 0.689 |
# | a layer on a frozen language model | 0.725 |
#
# Needs 01 (or its shipped checkpoint) for section 8. About 4 minutes on two CPU cores.

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
#
# Notebook 01 taught the model to answer. Here you build the judge that says which of two answers is better.

# %%
import json, math, os, tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from sawyer_utils import chat, data, evaluation, models, plots, sft, show
from sawyer_utils.chapters import drawings, surface
from sawyer_utils.classroom.checks import check
from sawyer_utils.evaluation import bootstrap_interval
from sawyer_utils.losses import bradley_terry
from sawyer_utils.plumbing import assets, paths, progress, sources, trainers
from sawyer_utils.reward import (
    FrozenReward,
    RewardModel,
    differences,
    pairs_that_fit,
    total_steps,
    train_reward,
)

folder = runtime.run_dir(profile, "reward")
figures = folder / "figures"
plots.save(plots.four_stages(here="reward"), figures, "four_stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model (you are here), PPO, evaluation.*
#
# ## Two answers, one vote
#
# Read both answers to a question, and vote.

# %% tags=["slide"]
question = "How do I greet someone?"
answers = {
    "A": "Tell them Hello!",
    "B": "A smile and a warm 'Hello!' work almost anywhere. In a formal setting, offer "
    "your hand; among friends, a wave is plenty. Who are you going to meet?",
}
vote = "B"  # your vote: change it to "A" if you like that one better

other = "A" if vote == "B" else "B"
preference = {"prompt": question, "chosen": answers[vote], "rejected": answers[other]}
assert preference["chosen"] != preference["rejected"]
display(show.side_by_side([question], {name: [text] for name, text in answers.items()}))
print(json.dumps(preference, indent=1))

# %% [markdown] tags=["teaching"]
# - **What it is for.** A preference is cheap: everybody has voted within ten seconds. Take the vote
#   by a show of hands.
# - **Ask.** What did you vote for: that it is true, that it is warm, or that it is longer?
# - **The usual wrong answer.** "B, because it is correct." So is A. Keep the word *longer* on the
#   board until section 7.

# %% [markdown]
# Picking one of two is easier than grading. Our file holds four scored answers to each **prompt**; two with
# different scores make a [pair](../docs/glossary.md#preference-pair), a **chosen** and a **rejected** answer.
# Language models wrote each to be of a `kind`, which sets its score; no judge sees it. Yours may hold pairs as
# printed above: `SAWYER_PREFERENCES=mine.jsonl` (README).
#
# The split is by prompt. By pair, the same answer could be in training and held out.

# %%
preferences = data.load_preferences(profile.preferences, profile.limit)
tested = data.load_prompts("test", profile.prompts)
preferences = data.untested(preferences, tested)
preferences = pairs_that_fit(profile, preferences)
train, held = data.split_rows(preferences, 0.2)
train_pairs, held_pairs = data.pairs(train), data.pairs(held)
ids_held = [pair.id for pair in held_pairs]
assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
print(f"{len(train)} prompts to train on: {len(train_pairs)} pairs")
print(f"{len(held)} prompts held out:     {len(held_pairs)} pairs")
row = max(held, key=lambda r: len(r["responses"]))
ranked = sorted(row["responses"], key=lambda r: -r["score"])
labels = [f"{r['score']:g}  ({r['kind'].replace('_', ' ')})" for r in ranked]
print(row["prompt"])
texts = {"answer": [r["text"] for r in ranked]}
show.side_by_side(labels, texts, first="score and kind")

# %% [markdown] tags=["slide"]
# ## 1. How far does one get without reading?
#
# Two judges that **understand no word** go first. One knows only in which of nine bands of length an answer is;
# the other, "the surface", counts marks, capitals, repetition and words of the question. They are tried on our
# preferences and on an exhibit, this course's *first* file. **Predict first:** how often are they right?
#
# Pairs of one prompt share its answers: for the interval, the [bootstrap](../docs/glossary.md#bootstrap) draws
# whole **prompts**.


# %% tags=["slide"]
def accuracy(gaps, pairs) -> tuple[float, float, float]:
    """Share of pairs with the chosen answer ahead; 95 % interval over prompts."""
    if not pairs:  # of one's own data, a group may have none
        return math.nan, math.nan, math.nan
    return evaluation.share_right(gaps, [pair.id for pair in pairs])  # a tie is half


def text(numbers) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*numbers)


exhibit = data.load_preferences(str(sources.EMBEDDED / "length_tells.jsonl"))
sets = {"these preferences": (train, held), "exhibit": data.split_rows(exhibit, 0.2)}
blind, unread = {}, {}
for name, (learn, test) in sets.items():
    exam = data.pairs(test)
    print(f"{name}: {len(exam)} pairs of {len(test)} prompts")
    blind[name] = {
        "bands of length alone": surface.words_alone(learn, exam),
        "the surface": surface.surface(learn, exam),
    }
    unread[name] = {how: accuracy(gaps, exam) for how, gaps in blind[name].items()}
    for how, found in unread[name].items():
        print(f"    {how:<22} right on {text(found)}")
scored = {"these preferences": preferences, "exhibit": exhibit}
figure = drawings.score_by_length(scored)
plots.save(figure, figures, "score_by_length", list(unread.values()))

# %% [markdown] tags=["slide"]
# *Mean score of the answers in each band of length, one line a set.*
#
# In the exhibit most answers of 31 to 45 words are good and most others are not, so counting words does very
# well: **a high accuracy is no sign there that anything was read.** So the preferences were written anew, every
# kind of answer in every length.
#
# ## 2. How does a vote become a number?
#
# A judge gives each answer one number, its **score**. [Bradley and
# Terry](../docs/glossary.md#bradley-terry-model) (1952) turn the *difference* of two into a probability of being
# preferred, with the [logistic function](../docs/glossary.md#logistic-function):
#
# $$P(\text{chosen} \succ \text{rejected}) = \sigma(s_c - s_r) = \frac{1}{1 + e^{-(s_c - s_r)}}$$
#
# The loss is minus the logarithm of the probability of what happened. **Predict first:** which of four pairs
# costs most? What changes when we add 5 to every score?

# %% [markdown] tags=["teaching"]
# - **What it is for.** From two scores to one probability. All that follows rests on the
#   difference.
# - **Ask.** A colleague says: "Our answers get 6.9." What do you ask back?
# - **The usual wrong answer.** "6.9 is good." Add 5 to every score and no preference changes.

# %% tags=["nbval-check-output", "slide", "show-code"]
chosen = torch.tensor([1.2, 2.0, 0.5, -1.0])  # (B,) scores of the chosen answers
rejected = torch.tensor([0.3, 2.0, 1.5, -3.0])  # (B,)

by_hand = -torch.log(1 / (1 + torch.exp(-(chosen - rejected))))  # (B,)
for c, r, cost in zip(chosen, rejected, by_hand):
    p = torch.sigmoid(c - r)
    print(f"{c:5.1f} vs {r:4.1f}   lead {c - r:4.1f}   P {p:.3f}   loss {cost:.3f}")
moved = bradley_terry((chosen + 5) - (rejected + 5))
print("5 added:", [f"{x:.3f}" for x in moved])
assert torch.allclose(by_hand, bradley_terry(chosen - rejected))
assert torch.allclose(by_hand, moved, atol=1e-6)

# %% [markdown]
# The tie costs log 2 = 0.693, the price of knowing nothing; the third pair, the wrong way round, costs most.
# Adding 5 changes nothing: **only differences of scores mean anything.**
#
# In the data, scores of 9 and 4 say more than 7 and 6. With a **[margin](../docs/glossary.md#margin)** m, here a
# quarter of the data's score difference, the loss is $-\log\sigma(s_c-s_r-m)$ (Llama 2, arXiv 2307.09288,
# equation 2). **Predict first:** the lead is 0.9 and the margin 1. Is the loss above log 2?

# %% tags=["slide"]
difference = torch.tensor(0.9)
for best, worst in ((7, 6), (8, 4), (9, 4)):
    margin = (best - worst) / 4
    cost = bradley_terry(difference, margin)
    print(f"scores {best} and {worst}: margin {margin:.2f}   loss {cost:.3f}")
assert bradley_terry(torch.tensor(1.0), 1.0).isclose(torch.tensor(math.log(2)))
figure = drawings.preference_loss(margins=(0.0, 1.0, 3.0))
plots.save(figure, figures, "preference_loss")

# %% [markdown] tags=["slide"]
# *Three falling curves, loss against difference. A margin m shifts the curve to the right by m.*
#
# With margin 1, a lead of 0.9 costs 0.744, above log 2.
#
# ## 3. Can a small encoder learn it from these votes?
#
# The usual way: one linear layer on a pretrained model, both fine-tuned on the pairs, here with PEFT and TRL.
# MiniLM is an [encoder](../docs/glossary.md#encoder): it turns a text into numbers. As a
# [cross-encoder](../docs/glossary.md#cross-encoder) it reads question and answer as *one* text.

# %%
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

minilm = assets.resolve(profile.encoder)
tokenizer = AutoTokenizer.from_pretrained(minilm)
torch.manual_seed(0)  # of the new layer, which gives one number
encoder = AutoModelForSequenceClassification.from_pretrained(
    minilm, num_labels=1, dtype=torch.float32
)
lora = LoraConfig(
    r=16,  # more than 01's 8: MiniLM is small, and has a new task to learn
    lora_alpha=32,  # corrections are scaled by alpha / r
    target_modules="all-linear",
    task_type="SEQ_CLS",  # the new layer is trained whole
)
encoder = get_peft_model(encoder, lora)
encoder.print_trainable_parameters()


def read(prompt: str, answer: str) -> list[int]:
    """[CLS] question [SEP] answer [SEP]"""
    longest = profile.reward_pair_tokens
    return tokenizer(prompt, answer, truncation=True, max_length=longest).input_ids


print(tokenizer.decode(read(question, answers["A"])))

# %% tags=["slide", "show-code"]
from transformers import PrinterCallback
from trl import RewardConfig, RewardTrainer

rows = [
    {
        "chosen_ids": read(pair.prompt, pair.chosen),
        "rejected_ids": read(pair.prompt, pair.rejected),
        "margin": pair.margin / 4,
    }
    for pair in train_pairs
]
config = RewardConfig(
    output_dir=tempfile.mkdtemp(),
    max_steps=2 * profile.reward_trials,  # a few minutes under `local`
    per_device_train_batch_size=profile.reward_batch,
    learning_rate=profile.reward_lr,  # LoRA and a new layer bear much
    max_length=profile.reward_pair_tokens,  # read() has cut what is longer
    pad_to_multiple_of=32,  # few widths: a CPU keeps compiled code for each
    gradient_checkpointing=False,  # that would save memory, and take longer
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    **sft.trainer_precision(profile),  # bf16, fp16 or neither
)
trainer = RewardTrainer(
    model=encoder,
    args=trainers.one_gpu(config),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
    callbacks=[progress.Clock()],
)
trainer.remove_callback(PrinterCallback)  # no line for each step
print(f"{len(rows)} pairs; {config.max_steps} steps of {profile.reward_batch} pairs")

# %%
# Is its loss the one you derived? A batch: all chosen answers, then all rejected ones.
encoder.eval()  # no dropout: both see the same model
batch = next(iter(trainer.get_train_dataloader()))
with torch.no_grad():
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    s_chosen, s_rejected = encoder(**inputs).logits.squeeze(-1).chunk(2)  # (B,) each
    ours = float(bradley_terry(s_chosen - s_rejected, batch["margin"]).mean())
    theirs = float(trainer.compute_loss(encoder, batch))
print(f"The trainer's loss is {theirs:.4f} nats, ours {ours:.4f}.")
assert math.isclose(theirs, ours, rel_tol=1e-3)
trainer.train()
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
k = max(1, len(losses) // 10)
print(f"Loss {np.mean(losses[:k]):.2f} first, {np.mean(losses[-k:]):.2f} at the end.")
tuned = RewardModel(encoder, tokenizer, profile.reward_pair_tokens)
fine_tuned = accuracy(differences(tuned, held_pairs), held_pairs)
print("fine-tuned, held-out pairs:", text(fine_tuned))
del tuned, trainer, encoder  # memory

# %% [markdown] tags=["slide"]
# In our run the encoder is right on 0.689 of the held-out pairs, ten points more than the surface (0.585): it has
# begun to read. Its loss stays above log 2, for margins ask for leads. It saw 1,920 of 3,006 pairs: few to learn
# from what makes an answer true or kind.
#
# ## 4. What if the model can already read?
#
# If the votes are too few to *teach* reading, ask a model that has read. The raw language model of notebook 01
# reads question and answer, **frozen**. One linear layer, a [linear probe](../docs/glossary.md#linear-probe)
# (arXiv 1610.01644), gets the mean of its [hidden states](../docs/glossary.md#hidden-state) in some layers, a
# sentence encoder's vector of the answer, and the cosine of that and the question's vector. Only this layer is
# trained, without margins; [cross-validation](../docs/glossary.md#cross-validation) chooses the penalty on large
# weights.
#
# More pairs cost nothing: a question's own good answer against one to *another* question, a **stranger** (in
# retrieval, a [negative](../docs/glossary.md#negatives), arXiv 2004.04906). **Predict first:** how often is it
# right on held-out pairs, against strangers, and where the **shorter** answer is better?

# %% [markdown] tags=["teaching"]
# - **What it is for.** What pretraining is worth: the same votes and strangers, and a model that had read.
# - **Ask.** Only a few thousand weights are trained, far fewer than in section 3. Why may that be
#   better?
# - **The usual wrong answer.** "More trained weights are always better." With few votes they are
#   spent on learning the votes by heart.

# %%
untrained = RewardModel.untrained(profile)
frozen = isinstance(untrained, FrozenReward)
if frozen:
    layers, size = untrained.model.depths, untrained.model.config.hidden_size
    print(f"layers {layers}, {size} numbers each; the answer's vector; the cosine")
trained = sum(p.numel() for p in untrained.model.parameters() if p.requires_grad)
strangers = data.strangers(train)
lessons = train_pairs + strangers
for pair in strangers[:1]:  # one's own data may have none
    print(f"{pair.prompt}\n  own:      {pair.chosen}\n  stranger: {pair.rejected}\n")
print(f"{len(train_pairs)} pairs as written + {len(strangers)} with a stranger")
steps = total_steps(profile, len(lessons))
# The search for a layer's weights is over too soon to watch.
live = None if frozen else plots.LivePlot(plots.reward_training, steps, 10, folder)
train_reward(RewardModel.untrained(profile), profile, lessons, folder, live)
reward = RewardModel.load(folder / "model")
log = runtime.read_json(folder / "log.json")
for penalty, share in log[-1].get("cross_validated", []):
    mark = "  <- taken" if penalty == log[-1]["penalty"] else ""
    print(f"penalty {penalty:<5} right on {share:.3f} of the fifths left out{mark}")
print(f"{trained:,} weights were trained, in {log[-1]['seconds']:.0f} s.")
assert all(math.isfinite(line["loss"]) for line in log)

# %%
gaps = np.array(differences(reward, held_pairs))
after = accuracy(gaps, held_pairs)
before = accuracy(differences(untrained, held_pairs), held_pairs)
shorter = np.array([pair.shorter_wins for pair in held_pairs])
by_length = {
    name: accuracy(gaps[rows], [p for p, keep in zip(held_pairs, rows) if keep])
    for name, rows in (("shorter is better", shorter), ("longer is better", ~shorter))
}
strangers_held = data.strangers(held)
reads = accuracy(differences(reward, strangers_held), strangers_held)
unreading = blind["these preferences"]["the surface"]
beyond = (np.sign(gaps) - np.sign(unreading)) / 2
more = float(beyond.mean()), *bootstrap_interval(beyond, groups=ids_held)
print(f"untrained it was right on {text(before)}")
print(f"our judge minus the surface: {text(more)}: {evaluation.verdict(*more[1:])}")
assert 0 <= after[1] <= after[2] <= 1


# %% tags=["slide"]
def bars(results: dict[str, tuple], counts: list[int], name: str, xlabel: str = ""):
    """Accuracies with their intervals, printed, drawn and saved with their numbers."""
    for what, found in results.items():
        print(f"{what:<22}", text(found))
    value, low, high = np.array(list(results.values())).T
    names = [what.replace(" is ", "\nis ") for what in results]
    table = {"what": names, "accuracy": value, "low": low, "high": high}
    table["pairs"] = counts
    figure = plots.bars_with_intervals(
        names, value, low, high, counts, ylabel="accuracy", chance=0.5, ylim=(0, 1.08)
    )
    figure.axes[0].set(xlabel=xlabel)
    return plots.save(figure, figures, name, table)


judges = dict(zip(("length", "surface"), unread["these preferences"].values()))
judges |= {"fine-tuned": fine_tuned, "our judge": after, **by_length}
counts = [len(gaps)] * 4 + [int(shorter.sum()), int((~shorter).sum())]
bars({**judges, "strangers": reads}, [*counts, len(strangers_held)], "accuracy")

# %% [markdown]
# *Seven bars with intervals; chance is dashed. The last three are our judge, too.*
#
# In our run the judge is right on 0.725, 14 points more than the surface. Whether it beats the encoder is not
# tested: their intervals overlap, and it had more pairs. It is right on 0.697 where the shorter answer is better
# and on 0.755 where it is not: length does not decide. Strangers (0.930) are easy: they are about something else.
# Cross-validation had them too, so its shares are higher.
#
# ## 5. Where is it wrong?
#
# First by the difference of the data's scores. **Predict first:** is 10 against 1 easier than 7 against 6? Then
# its worst mistakes: do you agree with the data?

# %%
SCORES = {"no scores": (-1, 0), "0 to 2": (0, 2), "2 to 4": (2, 4)}
SCORES |= {"4 to 6": (4, 6), "6 to 9": (6, 9)}
margin = np.array([pair.margin for pair in held_pairs])
by_margin, sizes = {}, []
for label, (low, high) in SCORES.items():
    rows = (margin > low) & (margin <= high)
    if rows.any():
        some = [pair for pair, keep in zip(held_pairs, rows) if keep]
        by_margin[label] = accuracy(gaps[rows], some)
        sizes.append(len(some))
assert sum(sizes) == len(held_pairs)
display(bars(by_margin, sizes, "by_margin", "difference of the two scores"))
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

# %% [markdown] tags=["slide"]
# *Accuracy by the difference of the two scores, upper ends included.*
#
# In our run only pairs more than 6 apart are clearly easier (0.863), and two of the three worst mistakes prefer a
# *rude* answer. A model of this size knows few facts: what is fluent, on topic and wrong in one detail (a *slip*)
# is hard for it.
#
# ## 6. When it says 0.9, is that a probability?
#
# If the judge is **[calibrated](../docs/glossary.md#calibration)**, it gets nine in ten right of the pairs for
# which σ(difference) is 0.9. The **[expected calibration error](../docs/glossary.md#expected-calibration-error)**
# (ECE, arXiv 1706.04599) is the mean distance between said and true, over bins. **Predict first:** is it too
# sure?

# %% [markdown] tags=["teaching"]
# - **What it is for.** Right and sure are two things.
# - **Ask.** What in the training could make it too sure, and what keeps it from that? (The penalty.)
# - **The usual wrong answer.** "It is accurate, so its probabilities are right." Multiply every
#   score by ten: the accuracy stays the same.


# %% tags=["slide"]
def bins_of(said) -> np.ndarray:
    """Which fifth of [0.5, 1] each call is in."""
    return np.minimum(((said - 0.5) * 10).astype(int), 4)


def ece(said, right) -> float:
    """Mean |said − right| over the bins, weighted by their calls."""
    return float(np.abs(np.bincount(bins_of(said), right - said)).sum() / len(said))


said = np.array([0.9] * 10 + [0.6] * 5)  # 7 of the ten right, 3 of the five
assert math.isclose(ece(said, np.array([1] * 7 + [0] * 3 + [1] * 3 + [0] * 2)), 2 / 15)
said = torch.sigmoid(torch.tensor(np.abs(gaps))).numpy()  # of its own choice
right = gaps > 0
points = []
for b in np.unique(bins_of(said)):
    rows = bins_of(said) == b
    low, high = evaluation.share_interval(right[rows], np.array(ids_held)[rows])
    points.append((said[rows].mean(), right[rows].mean(), rows.sum(), low, high))
print(f"It says {said.mean():.2f} on average, and {right.mean():.2f} are right.")
error, rng = ece(said, right), np.random.default_rng(0)
luck = np.mean([ece(said, rng.random(len(said)) < said) for _ in range(1000)])
print(f"ECE {error:.3f}; by luck alone {luck:.3f}")
table = pd.DataFrame(points, columns=["said", "observed", "pairs", "low", "high"])
plots.save(drawings.calibration(*zip(*points)), figures, "calibration", table)

# %% [markdown]
# *One point a bin, with its interval. Below the dashed diagonal the judge was too sure.*
#
# An ECE is never negative: "by luck alone" is what a perfectly calibrated judge would show.
#
# In our run the ECE is 0.029, hardly more: no sign that the judge is too sure.
#
# ## 7. What does it really like?
#
# The workshop that this course follows ended with a [probe](../docs/glossary.md#probe). "Tell them Hello!" scored
# −5.18; with two more sentences, +7.61. Because they helped, or because they were *more*? We add sentences that
# help, or hollow ones. **Predict first:** which line rises?

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


probe = {}
for what, extra in (("that help", helpful), ("that say nothing", hollow)):
    scores = reward.score([question] * 5, longer(answers["A"], extra))
    probe[f"sentences {what}"] = scores
    print(f"{what:<17}", "  ".join(f"{score:+.2f}" for score in scores))
label = "sentences added to 'Tell them Hello!'"
plots.save(plots.probe_lines(probe, label), figures, "length_probe", probe)

# %% [markdown]
# *Two lines from the same starting point, five points each.*
#
# In our run sentences that help raise the score from 2.45 to 3.56, and hollow ones lower it to −0.79: the
# workshop's jump is not reproduced.
#
# Now nine changes of many good answers. Guess first whether each will raise (`"+"`) or lower (`"-"`) the score.
# The first four leave the answer in place: anything but `"+"` is fine. The last five throw it away.

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
keeps = 4  # so many of them leave the good answer in place
some = held[:40]
asked = [row["prompt"] for row in some]
plain = [max(row["responses"], key=lambda r: r["score"])["text"] for row in some]
nonsense = "Every expert agrees: it is always exactly 42, as was proven."
english = "That is a very good question, and the answer depends on many things in life."
spanish = "Es muy buena pregunta, y la respuesta depende de muchas cosas en la vida."
pairs_of = list(zip(asked, plain))
changed = [
    [f"Thank you for asking! {a} I hope it helps!" for a in plain],
    [f"{a} {a}" for a in plain],
    [f"You ask: {q} {a}" for q, a in pairs_of],
    [longer(a, hollow)[-1] for a in plain],
    *([same] * len(some) for same in (nonsense, english, spanish, "")),
    [f"{plain[i - 1]} {plain[i - 2]}" for i in range(len(some))],
]

# %% tags=["slide"]
base, probes = np.array(reward.score(asked, plain)), []
for i, (name, texts) in enumerate(zip(guess, changed, strict=True)):
    scores = np.array(reward.score(asked, texts))
    low, high = bootstrap_interval(scores - base)
    sign = "+" if low > 0 else "-" if high < 0 else "unclear"
    row = {"probe": name, "score": float(scores.mean())}
    row |= {"change": float((scores - base).mean()), "low": low, "high": high}
    should = "not +" if i < keeps else "-"
    passed = sign == "-" if should == "-" else sign != "+"
    row |= {"sign": sign, "should be": should, "passed": passed}
    probes.append(row)
table = pd.DataFrame(probes).assign(guess=list(guess.values()))
spread = float(base.std(ddof=1))
print(f"The plain answers score {base.mean():.2f} on average, s.d. {spread:.2f}.")
print(f"It passes {table.passed.sum()} of {len(table)} probes.")
hits, tried = (table.guess == table.sign).sum(), (table.guess != "?").sum()
print(f"You guessed {hits} of {tried}." if tried else "You made no guesses. Next time!")
display(table.round(2))
columns = (table.probe, table.change, table.low, table.high)
plots.save(plots.score_changes(*columns, len(some)), figures, "probes", table)

# %% [markdown]
# *One row a probe: the mean change of the score with its interval; a triangle shows its direction, a dot:
# unclear.*
#
# In our run it passes all nine, but no answer at all (0.33) is far above empty talk (−1.75). Now edits that no
# reader would mind. `unmoved` is the share of answers whose score moves by less than half a standard deviation.
# **Predict first:** which edit leaves the fewest unmoved?

# %%
curly = str.maketrans({"'": "’", '"': "”"})
same = {
    "typographic quotes": (asked, [a.translate(curly) for a in plain]),
    "a space at the end": (asked, [f"{a} " for a in plain]),
    "a new line at the end": (asked, [f"{a}\n" for a in plain]),
    "no final stop": (asked, [a.removesuffix(".") for a in plain]),
    "question in lower case": ([q.lower() for q in asked], plain),
    "'Sure.' in front": (asked, [f"Sure. {a}" for a in plain]),
    "a polite end": (asked, [f"{a} I hope that helps." for a in plain]),
}
edits = {}
for name, (questions, texts) in same.items():
    rows = np.array([new != old for new, old in zip(zip(questions, texts), pairs_of)])
    moved = (np.array(reward.score(questions, texts)) - base)[rows] / spread
    if len(moved):
        unmoved, mean = float((np.abs(moved) < 0.5).mean()), float(moved.mean())
        edits[name] = {"answers": len(moved), "unmoved": unmoved, "mean": mean}
print("mean: of the change, in standard deviations")
pd.DataFrame(edits).T.round(2)

# %% [markdown]
# In our run it is "Sure." in front, with 0.85 unmoved.
#
# ### Your turn to fool it
#
# Press the buttons, or type. The table is for pages without widgets. Look at the typo's score.

# %%
from sawyer_utils.classroom import talk, widgets

short_answer = "Say hello, smile, and ask how they are."
display(widgets.RewardExplorer(reward.score, question, short_answer, answers["A"]))
widgets.edits(reward.score, question, short_answer)

# %% [markdown]
# ## 8. What will it say to answers nobody wrote?
#
# In notebook 03 it judges what a *model* writes. So the SFT model of 01 answers some prompts: is what the judge
# likes best *good*? **Predict first:** is its mean near *engaging* (right, with a vivid or useful detail),
# *plain* (right, no more), *muddled* or *false*?

# %%
stage = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
tokenizer, model = models.load_policy(profile)
model = models.load_adapter(model, stage / "adapter", "default")
rows = data.load_prompts("train", profile.prompts, profile.limit)
rows = chat.that_fit(tokenizer, rows, profile.prompt_tokens)
n = min(40, profile.eval_prompts, len(rows))
sample_prompts = [row["prompt"] for row in rows[:: len(rows) // n][:n]]
sampled = evaluation.answer(model, tokenizer, sample_prompts, profile)
own = reward.score(sample_prompts, sampled.responses)
assert len(own) == n
assert np.isfinite(own).all()
order = [int(i) for i in np.argsort(own)[::-1]]
shown = [*order[:2], *order[-2:]]
show.side_by_side(
    [sample_prompts[i] for i in shown],
    {"SFT answered": [sampled.responses[i] for i in shown]},
    notes={"SFT answered": [f"score {own[i]:+.2f}" for i in shown]},
)

# %% tags=["slide"]
written = [{"prompt": q["prompt"], **r} for q in held for r in q["responses"]]
written = pd.DataFrame(written)
written["reward"] = reward.score(list(written.prompt), list(written.text))
means = written.groupby("kind").reward.mean().sort_values(ascending=False)
scores_of = {k: list(written.reward[written.kind == k]) for k in means.index}
below = [k.replace("_", " ") for k in means.index if means[k] < np.mean(own)]
print("SFT's answers score above the mean of:", ", ".join(below) or "no kind at all")
scores_of = {k.replace("_", " "): v for k, v in scores_of.items()} | {"SFT's own": own}
figure = drawings.score_groups(scores_of, own="SFT's own")
numbers = [{"kind": k, "score": s} for k, scores in scores_of.items() for s in scores]
plots.save(figure, figures, "scores_by_kind", numbers)

# %% [markdown]
# *One row a kind of answer, by falling mean, each answer a dot, the box from the lower to the upper quartile, its
# line the median; the SFT model's own answers in the last row.*
#
# In our run the two answers that the judge likes best are wrong, and SFT's mean is between those of *rude* and
# *false*. PPO can improve only what the judge can tell apart.
#
# ## 9. Would people agree?
#
# Votes of people go into `SAWYER_HUMAN_PAIRS`: files or Hub data sets, separated as in `PATH`. The committed run
# had 300 pairs of HH-RLHF (helpful) and 180 of OpenAssistant, which do not come with the course. **Predict
# first:** how often will our judge agree?

# %%
with_people = {}
for source in paths.separate(os.environ.get("SAWYER_HUMAN_PAIRS", "")):
    rows = pairs_that_fit(profile, data.load_preferences(source))
    rows = sorted(rows, key=lambda row: row.get("turns", 1))[:300]  # single turns first
    people = data.pairs(rows)
    agreed = accuracy(differences(reward, people), people)
    ruler = accuracy([len(p.chosen) - len(p.rejected) for p in people], people)
    print(f"{len(people)} pairs of people")
    print("    our model agrees with people", text(agreed))
    print("    'the longer one wins' agrees", text(ruler))
    name = f"{len(with_people) + 1} {Path(source).stem}"
    with_people[name] = {"pairs": len(people), "agreed": agreed, "ruler": ruler}
if with_people:
    runtime.record(profile, "reward", people=with_people)
else:
    print("No human preferences here (SAWYER_HUMAN_PAIRS is not set): not tested.")

# %% [markdown]
# In our run it agrees with people in 0.573 of the first pairs and in 0.489 of the second; "the longer one wins"
# in 0.605 and 0.667: clearly more often in the second. They compared two serious attempts, on which people often
# disagree; of the second many were cut for the judge.
#
# ### What does the class prefer?
#
# The widget shows two nameless samples of the SFT model, in random order. Let everybody ask the same questions
# with the same seed, and vote. Notebook 04 counts the votes, and how far a class agrees with itself
# ([Krippendorff's alpha](../docs/glossary.md#krippendorffs-alpha)).

# %%
peak = runtime.record_peak(profile, "reward")
print(f"peak memory of this notebook: {peak:.1f} GiB")
names = ("accuracy", "accuracy_shorter", "accuracy_longer")
numbers = {"n_pairs": len(gaps), "n_prompts": len(held)}
numbers["n_strangers"] = len(strangers_held)
for how, found in zip(("without_reading", "without_reading_exhibit"), unread.values()):
    numbers[how] = {name: share for name, (share, *_) in found.items()}
for name, found in zip(names, (after, *by_length.values())):
    numbers |= dict(zip((name, f"{name}_low", f"{name}_high"), found))
runtime.record(
    profile,
    "reward",
    **numbers,
    accuracy_fine_tuned=fine_tuned,
    accuracy_untrained=before[0],
    accuracy_stranger=reads,
    beyond_the_surface=more,
    by_margin=by_margin,
    ece=error,
    probe=probe,
    probes=probes,
    probe_plain=float(base.mean()),
    edits=edits,
    sft_mean=float(np.mean(own)),
    sft_std=float(np.std(own, ddof=1)),
    sft_n=n,
    scores_by_kind={k: float(v) for k, v in means.items()},
    seconds_train=log[-1]["seconds"],
)
two = {"one": "default", "two": "default"}
samples = talk.Talk(model, tokenizer, profile, two, seeds={"two": 1})
class_chat = widgets.Chat(samples, folder, ballots=folder / "votes.jsonl")
class_chat.blind.value = True
class_chat

# %% [markdown] tags=["teaching"]
# - **What it is for.** The bridge to 03. Let the class fool the judge in the widget for five
#   minutes first.
# - **Ask.** You are paid by this judge and by nobody else. What do you write?
# - **The usual wrong answer.** "Good answers." High scores. The two come apart wherever the judge
#   has not been tested.

# %% [markdown]
# ## The doubt
#
# Most of our pairs it gets right. PPO, in [notebook 03](03_ppo.ipynb), looks for high scores, not for good
# answers, in texts that nobody would write. Is the judge still right there?
#
# ## Without this package
#
# Section 3 in plain transformers and TRL, on the small encoder under every profile, all its weights trained. It
# stops after eight steps: the loss is still near log 2, and the scores mean nothing yet. Without `max_steps` it
# reads the pairs three times.

# %% tags=["show-code"]
from trl import RewardConfig, RewardTrainer

# On the Hub it is sentence-transformers/all-MiniLM-L6-v2.
small = assets.resolve("embedded:minilm-l6")
reader = AutoTokenizer.from_pretrained(small)
judge = AutoModelForSequenceClassification.from_pretrained(
    small, num_labels=1, dtype=torch.float32
)
votes = []
for p in train_pairs:
    texts = {"chosen_ids": p.chosen, "rejected_ids": p.rejected}  # TRL's names
    cut = {"truncation": True, "max_length": 256}
    votes.append({k: reader(p.prompt, v, **cut).input_ids for k, v in texts.items()})
RewardTrainer(
    model=judge,
    processing_class=reader,
    train_dataset=Dataset.from_list(votes),
    args=RewardConfig(
        **{"output_dir": tempfile.mkdtemp(), "report_to": "none", "bf16": False},
        **{"learning_rate": 1e-4, "max_steps": 8, "gradient_checkpointing": False},
        disable_tqdm=True,
        use_cpu=torch.cuda.device_count() > 1,  # several GPUs want a launcher
    ),
).train()
both = list(answers.values())
asked = reader([question] * 2, both, padding=True, return_tensors="pt")
with torch.no_grad():
    scores = judge(**asked.to(judge.device)).logits.squeeze(-1)  # (2,)
print(f"A {scores[0]:+.3f}, B {scores[1]:+.3f}")

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, and run the cell: `check` says what it sees, with one hint at a time.
# The solutions stand at the end.
#
# ### 02.1 Predict the number: a vote against the grain
#
# A judge gives a pair the scores 2.0 and 2.5, the chosen answer first. What is the loss with a margin of 0.5, to
# two decimals?

# %% tags=["exercise"]
### BEGIN SOLUTION
loss_against_the_grain = None
### END SOLUTION

check("02.1", loss_against_the_grain)

# %% [markdown]
# ### 02.2 Write this function: a loss that survives a bad pair
#
# The mean loss of several pairs, with margins. It must stay finite where the chosen answer is behind by more than
# a hundred; section 2's `by_hand` does not.


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
# Change a judge's differences so that their signs and their order stay the same, and it says at least 0.99 on
# average. Which of this notebook's numbers would notice?


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
# Write the alarm: the share of held-out pairs with an answer, chosen or rejected, that some training pair has,
# too. Split by prompt, it must be 0.


# %% tags=["exercise"]
def leak(train, held):
    """Lists of pairs, {"prompt", "chosen", "rejected"} each -> a share from 0 to 1."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("02.4", leak)

# %% [markdown]
# ### An open question
#
# Add a change of your own to `guess` and `changed` in section 7: all capitals? an apology? (If it leaves the answer
# in place, put it first, and raise `keeps`.)
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | high accuracy, the surface judge's too | the better answer can be told without reading | section 1 |
# | accuracy falls on new prompts | split by pair; no penalty | 02.4, section 4 |
# | high accuracy, high ECE | too sure: margins, long training | section 6 |
# | reward climbs, answers get worse | texts that the judge never saw | notebook 03 |
#
# ## What we simplified
#
# 1. **One judge.** Ensembles show where a judge is guessing (arXiv 2310.02743).
# 2. **A frozen base.** With many votes, larger projects fine-tune the SFT model; with few, a layer on frozen states
#    can do better (arXiv 2202.10054).
# 3. **Written preferences,** by language models (see the data card).

# %% [markdown]
# ## Five questions
#
# **1. In section 1 a judge is right on nine of ten pairs of the exhibit. What does that show?**
#
# - A: That it is a better judge than ours.
# - B: Little: a count of words does nearly as well.
# - C: That it has read: guessing gives a half.
#
# <details><summary>Answer</summary>
#
# **B** is right. See the bands of length: that is what a judge has to beat.
#
# Not A. The two numbers are of two sets of pairs.
#
# Not C. A judge that counts words does not guess.
#
# It stands in “1. How far does one get without reading?”.
#
# </details>
#
# **2. A colleague reports “a mean reward of 6.9”. What do you ask first?**
#
# - A: Over how many prompts the mean was taken.
# - B: Whether 10 is the best that it can give.
# - C: What others got from it on these prompts.
#
# <details><summary>Answer</summary>
#
# **C** is right. Add 5 to every score, and nothing changes.
#
# Not A. With a million it would mean nothing by itself.
#
# Not B. A judge's scores have no upper end.
#
# It stands in “2. How does a vote become a number?”.
#
# </details>
#
# **3. The chosen answer leads by 0.9 and the margin is 1. What does the loss say?**
#
# - A: More than log 2: the lead is smaller than asked.
# - B: Less than log 2: the chosen answer is the higher.
# - C: Zero: the pair is won, and nothing is left to do.
#
# <details><summary>Answer</summary>
#
# **A** is right. 0.744, against 0.693.
#
# Not B. What counts is 0.9 − 1, which is below zero.
#
# Not C. −log σ is above zero, whatever the lead.
#
# It stands in “2. How does a vote become a number?”.
#
# </details>
#
# **4. Section 1 prints many pairs of fewer prompts. Why does the bootstrap draw prompts?**
#
# - A: It makes the accuracy itself more accurate.
# - B: Pairs of one prompt are not independent.
# - C: The other pairs were used in the training.
#
# <details><summary>Answer</summary>
#
# **B** is right. They share a question and answers.
#
# Not A. The accuracy stays the same; only its interval changes.
#
# Not C. They were not: the split is by prompt.
#
# It stands in “1. How far does one get without reading?”.
#
# </details>
#
# **5. Compare two bars of section 4: our judge, and our judge against strangers. Why is the second higher?**
#
# - A: A stranger is about something else.
# - B: A stranger is worse written, too.
# - C: It was trained on strangers alone.
#
# <details><summary>Answer</summary>
#
# **A** is right. In a written pair both are mostly about the question.
#
# Not B. They are good answers, to other questions.
#
# Not C. It was trained on both; the cell prints how many.
#
# It stands in “4. What if the model can already read?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("02")

# %% [markdown]
# ## Solutions
#
# Look here after you have tried.

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
