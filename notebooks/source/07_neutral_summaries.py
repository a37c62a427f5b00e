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
# # 07 · Neutral summaries: a reward of several parts
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/07_neutral_summaries.ipynb)
#
# **You will pay a model for several things at once, then stop paying for one of them.**
#
# You will be able to
# - measure a judge before you train on it,
# - build a reward of several parts, put them on one scale and read each in a log,
# - say what one part did, by two runs that differ in nothing else.
#
# Needs 01 (or its shipped checkpoint). About 10 minutes on two CPU cores.
#
# In our run the summaries became more neutral by the word list (+0.052). Without pay for similarity they stayed as similar
# to their source, but invented more names and numbers: 0.361 a summary instead of 0.087.

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
import gc
import math
import re
import statistics
import textwrap
import time

import pandas as pd
import torch
from peft import PeftModel

from sawyer_utils import evaluation, models, plots, ppo, reward, sft, show
from sawyer_utils.chapters import drawings, summaries
from sawyer_utils.classroom.checks import check
from sawyer_utils.plumbing import hub

folder = runtime.run_dir(profile, "neutral")
figures = folder / "figures"
profile = summaries.settings(profile)  # longer prompts, other steps
hub.check_access(profile.news_hub_models)  # none under `local`
started = time.perf_counter()
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation. You are in the third once more, with another judge in the
# place of the second.*
#
# > In a cowardly midnight vote, Pellworth's council has butchered the one thing this town had to be
# > proud of.
#
# > Pellworth's council voted seven to four to close the library.
#
# Both report the same evening. Can a model learn to write the second kind of sentence from the first kind of text,
# if it is shown no such sentence and only gets a grade? That is the other case study of the workshop that the README
# names. PPO stays as in 03; we build the judge ourselves, of [three parts](../docs/glossary.md#composite-reward).
# Language models wrote all paragraphs, loaded on purpose (`sawyer_utils/corpus/DATACARD.md`).

# %% tags=["slide"]
train_rows = summaries.load_news("train", profile.news, profile.limit)
test_rows = summaries.load_news("test", profile.news)[: profile.eval_prompts]
for row in train_rows[:: max(1, len(train_rows) // 3)][:3]:
    print(textwrap.fill(f"[{row['topic']}] {row['text']}", 88), end="\n\n")
print(f"{len(train_rows)} paragraphs to practise on, {len(test_rows)} to judge by.")
assert not {row["text"] for row in train_rows} & {row["text"] for row in test_rows}

# %% [markdown]
# ## 1. How does a word list hear tone?
#
# VADER is a [list of some 7,500 words](../docs/glossary.md#sentiment-lexicon) that people have rated from −4 to +4, with rules for "very", "not"
# and exclamation marks (Hutto and Gilbert 2014). It can be read in two ways. The *compound* squeezes the sum of the
# ratings, s, to s/√(s² + 15). The *loaded share* asks how much of a text is rated at all: a rated word counts as the
# size of its rating plus one, any other word as one. "Good" is rated 1.9. **Predict first:** both numbers for one
# "good" in a sentence of six words, and for two.

# %% tags=["nbval-check-output", "slide", "show-code"]
once = "A good council closed the library."
twice = "A good, good council closed the library."
for text, s, rest in ((once, 1.9, 5), (twice, 1.9 + 1.9, 5)):
    rated = text.count("good")
    share = (s + rated) / (s + rated + rest)
    print(f"by hand: compound {s / math.sqrt(s**2 + 15):.4f}, share {share:.3f}")
print("by VADER:", summaries.tone([once, twice]), summaries.loaded([once, twice]))
assert abs(summaries.tone([once])[0] - 1.9 / math.sqrt(1.9**2 + 15)) < 1e-4
assert abs(summaries.loaded([once])[0] - 2.9 / (2.9 + 5)) < 1e-3

# %% [markdown]
# The compound adds up, so long texts are near ±1; and blame cancels praise. The share is divided by the length, and
# counts both alike. **Predict the sign of each compound:**

# %% tags=["nbval-check-output", "subslide"]
heard = [
    "The council closed the library.",
    "Cowardly councillors butchered our library.",
    "Brilliant. The town needs a fountain, not a drain.",
    "Thrown onto the scrapheap, by text message.",
    "The home team won the match.",
    "Police arrested a man on Friday.",
]
for sentence, score in zip(heard, summaries.tone(heard)):
    print(f"{score:+.2f}  {sentence}")

# %% [markdown] tags=["teaching"]
# - **What it is for.** A judge that can be seen through. With a neural one you would have to guess
#   what it hears; this one is a list.
# - **Ask.** Which of the six will it get wrong? Signs by hand, one sentence after the other, before
#   the cell runs.
# - **The usual wrong answer.** "The sarcasm is negative." To a reader it is. The list adds up words.

# %% [markdown]
# The sarcasm counts as praise and the scrapheap as nothing. Two plain reports have a tone, because "won" is a happy
# word and "arrested" an unhappy one.
#
# ## 2. Can it tell neutral from loaded?
#
# **Measure the judge before you train on it.** To each test paragraph a language model wrote a neutral summary, the
# *reference*. Nothing is trained on it. How many of these does the list call neutral? And how often is it right when it
# is given a sentence of a source and a reference, and has to say which is more loaded? (0.5 is chance; a tie counts
# half; the compound is read without its sign.)

# %% tags=["fragment"]
references = [row["summary"] for row in test_rows if "summary" in row]
tones = summaries.tone(references)
called = {
    "neutral": sum(abs(tone) <= 0.05 for tone in tones),
    "positive": sum(tone > 0.05 for tone in tones),
    "negative": sum(tone < -0.05 for tone in tones),
}
for name, count in called.items():
    if references:  # the Hub's articles have none
        low, high = evaluation.wilson_interval(count, len(references))
        print(f"{name:9s} {count / len(references):.0%} [{low:.0%}, {high:.0%}]")

said = [sentence for row in test_rows for sentence in summaries.sentences(row["text"])]
readings = {
    "compound": lambda texts: [abs(score) for score in summaries.tone(texts)],
    "loaded share": summaries.loaded,
}
above = {}
for name, reading in readings.items():
    loud, plain = reading(said), reading(references or [""])
    wins = [(a > b) + 0.5 * (a == b) for a in loud for b in plain]
    above[name] = statistics.mean(wins)
    means = (
        f"source {statistics.mean(loud):.2f}, "
        f"reference {statistics.mean(plain):.2f}"
    )
    print(f"{name}: {means}; right in {above[name]:.2f}")
silent = statistics.mean(share == 0 for share in summaries.loaded(said))
print(f"sentences of the sources in which the list hears nothing: {silent:.0%}")
source_loaded = statistics.mean(summaries.mean_loaded(row["text"]) for row in test_rows)

# %% [markdown] tags=["teaching"]
# - **What it is for.** The habit of measuring a judge on cases with a known answer before anything is
#   trained on it.
# - **Ask.** What share of these summaries, all written to be neutral, will the list call neutral?
# - **The usual wrong answer.** "Nearly all." News is about wars, prizes and arrests. So what may one
#   ask of such a judge?

# %% [markdown]
# In our run the compound is right in 0.49 of the cases and the loaded share in 0.56, little more than chance. Many
# references have a tone, so 0 is the wrong target: we pay for being *less* loaded than the source.
#
# ## 3. What else must a summary be?
#
# *Neutrality* is the mean loaded share of the source's sentences, less the summary's. *[Similarity](../docs/glossary.md#similarity)* is how much
# nearer to the whole source a summary is than those sentences are, in cosines of 02's [encoder](../docs/glossary.md#encoder) before any training.
# *Length* is 0 at 18 words and falls to −1 at none or at 36. **Predict first:** which of five summaries wins on
# neutrality alone?

# %% [markdown] tags=["teaching"]
# - **What it is for.** Each part of a reward is there for a cheat that the others let through. Name
#   the cheat first, then the part.
# - **Ask.** Which of the five wins on neutrality alone? Which on neutrality and length together?
# - **The usual wrong answer.** "The neutral one, it is neutral." So is an empty text, and so is one about
#   bread.

# %% tags=["fragment"]
encoder = evaluation.Similarity(profile.encoder)
text = summaries.load_news("train")[0]["text"]
candidates = {
    "loaded": summaries.sentences(text)[0],
    "neutral": "Pellworth's council voted seven to four to close the Mill Lane"
    " library, which saves ninety thousand crowns.",
    "about nothing": "The members of the group met and then did as they had said.",
    "about bread": "The bakery on the corner opens at six and sells kinds of bread.",
    "empty": "",
}
asked, said = [summaries.prompt_for(text)] * len(candidates), list(candidates.values())
functions = {
    "neutrality": summaries.neutrality,
    "similarity": summaries.faithful(encoder),
    "length": summaries.length_fit,
}
table = pd.DataFrame({name: part(asked, said) for name, part in functions.items()})
table.index = list(candidates)
table["all three"] = table.sum(axis=1)
print(table.round(2).to_string())
assert table["all three"].idxmax() == "neutral"
assert table.neutrality["empty"] == table.neutrality.max()

# %% [markdown]
# Four of the five are equally neutral to the list. Similarity asks for the subject, length for a sentence.
#
# ## 4. Can the model do the task at all?
#
# PPO makes what is *sampled* more or less likely. So look first: what does 01's SFT model say, asked
# for a summary?

# %%
own_policy = profile.summariser == "policy"  # else an encoder-decoder from the Hub
adapter = None
if own_policy:
    ready = "adapter/adapter_model.safetensors"
    adapter = runtime.find_stage(profile, "sft", ready) / "adapter"
tokenizer, model = summaries.load_summariser(profile, adapter)
train_prompts = summaries.prompts_that_fit(tokenizer, train_rows, profile)
test_prompts = summaries.prompts_that_fit(tokenizer, test_rows, profile)
first = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
sources = [summaries.source_of(prompt) for prompt in first.prompts]
first_similarity = statistics.mean(encoder(sources, first.responses))
for i in (0, len(test_prompts) // 3):
    print(textwrap.fill(sources[i], 88))
    print(textwrap.fill(f"→ {first.responses[i]}", 88), end="\n\n")
print(f"similarity to the source {first_similarity:.2f}")

# %% [markdown]
# It has learned to answer questions, not to stay with a text. So it first learns the *task*, by SFT as in 01. Nobody has
# to write an answer: each lesson is a [sentence of the paragraph itself](../docs/glossary.md#extractive-summary), one of the two that the encoder finds nearest
# to the whole. They are loaded; the tone is left to PPO. (A summariser from the Hub skips this.)
#
# A third of the paragraphs is enough. Taught from all of them, the model copied with near certainty, and PPO had
# nothing to choose from.

# %%
if own_policy:
    lessons = summaries.lessons([row["text"] for row in train_rows[::3]], encoder)
    print("→", lessons[0]["messages"][1]["content"])
    del model
    gc.collect()
    tokenizer, base = models.load_policy(profile)
    pupil = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    # TRL's SFTTrainer, with 01's settings and profile.sft_epochs epochs.
    sft.train_sft(pupil, tokenizer, profile, lessons, folder / "warmup")
    del pupil, base
    gc.collect()
    tokenizer, model = summaries.load_summariser(profile, folder / "warmup" / "adapter")

# %% tags=["slide"]
settings = {"seed": 0, "samples": profile.news_samples}
before = evaluation.answer(model, tokenizer, test_prompts, profile, **settings)
start_values = summaries.measure(encoder, before.prompts, before.responses)
shown = [0, len(before.prompts) // 3, 2 * len(before.prompts) // 3]  # fixed beforehand
for i in shown:
    print(f"→ {before.responses[i]}")
start_similarity = statistics.mean(start_values["similarity"])
print(f"similarity {first_similarity:.2f} → {start_similarity:.2f}")

# %% [markdown]
# *The curve is the loss of the lessons by step.* Now there is something to grade: sentences, most
# of them about the text, some loaded and some less. This model is the start and the frozen [reference model](../docs/glossary.md#reference-model).
#
# ## 5. On what scale do the parts meet?
#
# The parts do not spread alike. Added as they come, the one that varies most would decide. So `reward.standardised` puts
# each on the start model's own scale: 0 is its average summary of a training paragraph, 1 is one [standard deviation](../docs/glossary.md#standard-deviation)
# better. A `Mixture` is their weighted sum; any function of prompts and responses can be a part, so add your own here.
# Neutrality weighs three, because it has to change and the others only have to hold.

# %% tags=["slide", "show-code"]
some = train_prompts[:: max(1, len(train_prompts) // 72)]
calibration = evaluation.answer(model, tokenizer, some, profile, seed=1)
graded = (calibration.prompts, calibration.responses)
if own_policy:
    weights = {"neutrality": 3.0, "similarity": 1.0, "length": 1.0}
    parts = {}  # name -> (function, weight)
    for name, function in functions.items():
        scaled, mean, spread = reward.standardised(function, *graded)
        parts[name] = (scaled, weights[name])
        print(f"{name:11s} mean {mean:+.3f}, s.d. {spread:.3f}, weight {weights[name]}")
else:  # on the Hub's path: two classifiers' raw logits, with the workshop's weights
    parts = {
        name: (summaries.Classifier(source, label), weight)
        for name, source, label, weight in profile.news_classifiers
    }
reward_fn = reward.Mixture(**parts)
total = reward_fn(*graded)
scores = reward_fn.parts  # name -> this part's scores in the last call
by_hand = sum(weight * scores[name][0] for name, (_, weight) in parts.items())
print(f"first summary: {total[0]:+.3f}, by hand {by_hand:+.3f}")
print(
    f"the whole reward: {statistics.mean(total):+.2f} ± {statistics.stdev(total):.2f}"
)
assert abs(total[0] - by_hand) < 1e-4

# %%
first_two = list(scores)[:2]
pull = float(torch.corrcoef(torch.tensor([scores[name] for name in first_two]))[0, 1])
print(f"correlation of {' and '.join(first_two)}: {pull:+.2f}")

# %% [markdown]
# Above zero, what is closer to the source also tends to be less loaded. Below zero it is more loaded, and the weights
# decide which part gives way.
#
# ## 6. Train
#
# Everything else is 03's: the same trainer, the same [KL](../docs/glossary.md#kl-divergence) to the start. Section 8 repeats this run with one part
# unpaid. To save time both take half of the profile's steps, at twice its learning rate.

# %% tags=["slide"]
config = ppo.PPOConfig.from_profile(
    profile,
    steps=max(2, profile.ppo_steps // 2),
    learning_rate=2 * profile.ppo_lr,
    seed=0,
)
trainer = ppo.PPOTrainer(model, tokenizer, reward_fn, config, folder)
live = plots.LivePlot(
    lambda log: drawings.reward_parts({"all parts": log}), config.steps, folder=folder
)
log = trainer.train(train_prompts, on_step=live)
keys = ("seconds_rollout", "seconds_score", "seconds_update")
spent = sum(line[key] for line in log for key in keys)
print(f"{len(log)} steps of {config.batch_size} summaries, {spent / 60:.1f} minutes.")
assert log[0]["kl"] == 0.0

# %% tags=["fragment"]
third = max(1, len(log) // 3)
for key in (*(f"reward_{name}" for name in parts), "reward", "kl", "length"):
    early = statistics.mean(line[key] for line in log[:third])
    late = statistics.mean(line[key] for line in log[-third:])
    print(f"{key:18s} first third {early:6.2f}   last third {late:6.2f}")

# %% [markdown]
# *A panel for each part of the reward by step, in standard deviations of the start's summaries, and one for the KL to
# the start, in nats.* Which part rose most, and did another fall? The sum does not say.
#
# ## 7. Is it more neutral, and still a summary?
#
# The same test paragraphs and the same seed, before and after. Several summaries of one paragraph are not independent,
# so the [interval](../docs/glossary.md#interval) draws whole paragraphs, and a verdict is 04's: interval and rank test. The last three rows are measures
# that nothing pays for: *copied* is the share of three-word runs taken from the source, *invented* the names and
# numbers that the source does not have, *repetition* the share of three-word runs said again. Similarity is here the
# cosine itself.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Reading a reward by its parts. The sum rises in any case.
# - **Ask.** Which part pays for the rise of another? What would you see here if two parts had changed
#   places?
# - **The usual wrong answer.** "All three rise, for all three are paid for." They compete: whatever
#   is easiest to sample wins first.

# %% tags=["slide"]
BETTER = {"neutrality": True, "similarity": True, "words": None, "copied": None}
BETTER |= {"invented": False, "repetition": False}  # None: no side is the good one


def compared(one: dict, other: dict) -> dict:
    rows = {k: (one[k], other[k], before.prompts) for k in BETTER}
    return {name: evaluation.compare_rewards(*row) for name, row in rows.items()}


def as_table(found: dict) -> pd.DataFrame:
    rows = {
        name: {
            "before": f"{c.before_mean:.3f}",
            "after": f"{c.after_mean:.3f}",
            "difference": f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]",
            "verdict": c.verdict_if(BETTER[name]),
        }
        for name, c in found.items()
    }
    return pd.DataFrame(rows).T


after = evaluation.answer(model, tokenizer, test_prompts, profile, **settings)
end_values = summaries.measure(encoder, after.prompts, after.responses)
change = compared(start_values, end_values)
as_table(change)

# %%
ideal = {}
if len(references) == len(test_prompts):
    ideal = summaries.measure(encoder, test_prompts, references)
    means = [f"{name} {statistics.mean(values):.2f}" for name, values in ideal.items()]
    print(f"references: {', '.join(means)}")
for name, answers in (("before", before), ("after", after)):
    loud = statistics.mean(summaries.loaded(answers.responses)) / source_loaded
    ended = statistics.mean(answers.finished)
    print(f"{name}: {ended:.0%} finished, {loud:.0%} as loaded as a source's sentence")

# %%
lost = [b - a for a, b in zip(start_values["similarity"], end_values["similarity"])]
picked = [*shown, lost.index(min(lost))]


def notes(answers, values: dict, rows: list[int]) -> list[str]:
    loud, close = summaries.loaded(answers.responses), values["similarity"]
    return [f"loaded {loud[i]:.2f}, similarity {close[i]:.2f}" for i in rows]


show.side_by_side(
    [summaries.source_of(before.prompts[i]) for i in picked],
    {
        "start": [before.responses[i] for i in picked],
        "after PPO": [after.responses[i] for i in picked],
    },
    {
        "start": notes(before, start_values, picked),
        "after PPO": notes(after, end_values, picked),
    },
    first="paragraph",
)

# %% [markdown]
# The first three paragraphs were fixed beforehand; the summary of the last lost most similarity. Which are about their
# paragraph? No part of this reward sees a slant by leaving out.
#
# In our run neutrality rose by 0.052 [0.026, 0.077]: better. The summaries' loaded share fell from 109 % of a source
# sentence's to 72 %. For similarity no difference is shown (+0.010; this n would have shown 0.068). The references are
# at a neutrality of 0.060. The words stayed near 13; 18 are paid for.
#
# ## 8. What if nobody pays for the subject?
#
# Similarity now weighs 0, so it is logged but not paid. **Nothing else differs:** start, seed, prompts, steps and
# learning rate are section 6's. **Predict first:** the cheapest way to win what is left, neutral words, about
# eighteen of them.

# %% [markdown] tags=["teaching"]
# - **What it is for.** A comparison in which one thing differs. Let the
#   class write the summary that wins before it sees one (exercise 07.4).
# - **Ask.** What is the cheapest text that is neutral and eighteen words long? Does it have to be
#   about anything?
# - **The usual wrong answer.** "It has to leave the subject, nobody pays for it." It may: only habit
#   and the KL hold it there. In the committed run they did, but it began to invent.

# %% tags=["show-code"]
models.restart(model)  # back to the start of section 6
missing = list(parts)[1]  # similarity; on the Hub's path, grammar
unpaid_for = parts | {missing: (parts[missing][0], 0.0)}
poor = reward.Mixture(**unpaid_for)
cheap = ppo.PPOTrainer(model, tokenizer, poor, config, folder / "cheap")
unpaid_run = f"{missing} unpaid"
live = plots.LivePlot(
    lambda now: drawings.reward_parts({"all parts": log, unpaid_run: now}),
    config.steps,
    folder=folder / "cheap",
)
cheap_log = cheap.train(train_prompts, on_step=live)
assert cheap_log[0]["kl"] == 0.0  # the same start

# %% [markdown]
# *The panels of section 6 with two lines each: all parts paid (solid), one unpaid (dashed).* Below, "before" is section
# 6's run and "after" this one:

# %% tags=["slide"]
nothing = evaluation.answer(model, tokenizer, test_prompts, profile, **settings)
cheap_values = summaries.measure(encoder, nothing.prompts, nothing.responses)
cheap_change = compared(start_values, cheap_values)
between = compared(end_values, cheap_values)
as_table(between)

# %% tags=["subslide"]
show.side_by_side(
    [summaries.source_of(before.prompts[i])[:160] + " …" for i in shown],
    {
        "all parts": [after.responses[i] for i in shown],
        unpaid_run: [nothing.responses[i] for i in shown],
    },
    {
        "all parts": notes(after, end_values, shown),
        unpaid_run: notes(nothing, cheap_values, shown),
    },
    first="paragraph",
)

# %% [markdown]
# In our run similarity ended at 0.471 with its part paid and at 0.497 without: no difference shown (+0.026). But without it
# the summaries have six words more, and invent 0.274 names and numbers more (worse).
#
# But **this is one seed**. How far may two seeds differ? Here are 03's five, in the same unit: the start model's standard
# deviations. A smaller difference may be luck.

# %% tags=["fragment"]
seeds = runtime.read_json(runtime.project_root() / "results" / "ppo_seeds.json")
gains = [row["reward"][0] for row in seeds["rows"]]
low, high = min(gains), max(gains)
print(f"03, five seeds: gain {low:+.2f} to {high:+.2f}, {high - low:.2f} apart")
unit = statistics.stdev(start_values["similarity"])
apart = between["similarity"].difference / unit
print(f"here, one seed: similarity without its part {apart:+.2f} against with it")
found = {"measures": change, "without": cheap_change, "between": between}
runtime.record(
    profile,
    "neutral",
    **{key: {n: c.as_dict() for n, c in of.items()} for key, of in found.items()},
    verdicts={
        key: {n: c.verdict_if(BETTER[n]) for n, c in of.items()}
        for key, of in found.items()
    },
    missing=missing,
    between_in_sd=apart,
    seeds_apart=high - low,
    source_loaded=source_loaded,
    judge=above,
    references={name: statistics.mean(values) for name, values in ideal.items()},
    first_similarity=first_similarity,
    steps=len(log),
    seconds_train=spent,
    seconds=time.perf_counter() - started,
)
print(f"peak memory {runtime.record_peak(profile, 'neutral'):.1f} GiB")

# %% [markdown] tags=["slide"]
# **Doubt.** The judge that says "more neutral" is the one that was trained on. Take any sentence above that it calls
# neutral: does it take sides by what it leaves out? Only a person can say.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, and run the cell: `check` says what it sees, with one hint at a time. The
# solutions stand at the end. (`SOLUTION` is for teachers who use nbgrader.)
#
# ### 07.1 Predict the number: praise and blame
#
# The list rates "good" +1.9 and "bad" −2.5, and knows no other word of this sentence; no rule applies. What
# is its compound?
#
# > A good council, a good plan, a bad evening.

# %% tags=["exercise"]
### BEGIN SOLUTION
praise_and_blame = None
### END SOLUTION

check("07.1", praise_and_blame)

# %% [markdown]
# ### 07.2 Write this function: a part for the numbers
#
# A new part of the reward: of the numerals in a summary (runs of digits), which share stands in its source?
# 1 where the summary has none. Before you open the lesson: which cheap way to win does it leave?


# %% tags=["exercise"]
def numbers(prompts, said):
    """Prompts (`summaries.prompt_for`) and their summaries -> a list, a share each."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("07.2", numbers)

# %% [markdown]
# ### 07.3 Write this function: weights for raw scores
#
# Somebody adds the parts as they come, without section 5's scale. With which weights does the sum put all
# summaries into the same order as our standardised one?


# %% tags=["exercise"]
def raw_weights(scores, weights):
    """Part -> raw scores, and part -> weight on the common scale; returns part ->
    weight of the raw scores."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("07.3", raw_weights)

# %% [markdown]
# ### 07.4 Break it: one summary for all
#
# The reward of section 8 pays for neutrality and for length. Write one text that earns as much on every
# test paragraph as that paragraph's reference summary.

# %% tags=["exercise"]
### BEGIN SOLUTION
one_for_all = None
### END SOLUTION

check("07.4", one_for_all)

# %% [markdown]
# ### 07.5 Diagnose: what did nobody pay for?
#
# Twenty-four runs that you have not seen. In each at most one part was left out of the reward. What is paid
# for rises or holds, within 0.1 of similarity and three words of the target. What is not gets worse: the summary stays
# as loaded or more so, the subject goes, the words become many or few. Which part is it?


# %% tags=["exercise"]
def unpaid(before, after):
    """Start and end, each with lists `neutrality`, `similarity` and `words`
    -> "neutrality", "similarity", "length", or "nothing"."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("07.5", unpaid)

# %% [markdown]
# ### An open question: another judge
#
# Put the encoder in the list's place: similarity to "an angry opinion" less that to "a neutral report". Measure it as
# in section 2 first. If it is no better than the list, do not train on it.
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | "every response has the same score" | a part that sees no difference | section 5 stops and says so |
# | neutrality up, similarity down | off-topic sentences are neutral | section 7's table; section 8 tries it |
# | similarity up, neutrality flat | the summary copies its source | copied |
# | nothing rises | the task is never sampled: learn it first | section 4 |
#
# ## What we simplified
#
# 1. **A word list as judge** (Hutto and Gilbert 2014); the workshop asks a classifier trained on tweets.
# 2. **Paragraphs in one manner**, by language models; the workshop takes real articles.
# 3. **Judge and weights were chosen by results** on 36 paragraphs, now for practice. There the loaded share was right in
#    0.70, more than in section 2: it was chosen there.
# 4. **The start learns from the paragraphs' own sentences** (as in centroid summaries: Radev et al. 2004), so it mostly
#    copies.
# 5. **One seed** of each run; the intervals cover the choice of paragraphs, not another training.
# 6. **The Hub's path** (`google/flan-t5-small`, two RoBERTa classifiers, `argilla/news-summary`) is tested with tiny
#    random models; **it has not been run against the real Hub.**

# %% [markdown]
# ## Five questions
#
# **1. Look at the output of section 2. The list gives many references a tone. What follows for the reward?**
#
# - A: Rewrite the references until all of them score 0.
# - B: Pay for being less loaded than the source.
# - C: Count positive and negative words apart.
#
# <details><summary>Answer</summary>
#
# **B** is right. News has words such as won and died because such things happen. A source's sentence has them too, and the opinion on top.
#
# Not A. They are a yardstick. Bent to fit the judge they would measure nothing any more.
#
# Not C. A report of a win and one of an arrest would still have a tone, each of its own sign.
#
# It stands in “2. Can it tell neutral from loaded?”.
#
# </details>
#
# **2. Look at the table of section 3. Which of the five wins on neutrality alone?**
#
# - A: The neutral one, because it was written to be so.
# - B: The loaded one, because it is the source's own.
# - C: Four share the first place, one of them empty.
#
# <details><summary>Answer</summary>
#
# **C** is right. Whatever holds no rated word is not loaded at all. So other parts have to ask for a subject and a length.
#
# Not A. So do three others. To the list all four are silent.
#
# Not B. That is near the source, which similarity pays for. It is the most loaded of the five.
#
# It stands in “3. What else must a summary be?”.
#
# </details>
#
# **3. Why does the model learn from the paragraphs' own sentences before it is graded?**
#
# - A: PPO can only reward what is sampled.
# - B: It has to hear neutral language once.
# - C: The KL to 01's model has to stay small.
#
# <details><summary>Answer</summary>
#
# **A** is right. The lessons bring the task within reach. How loaded the sentences are is left to PPO.
#
# Not B. The sentences are loaded ones. Nobody shows it a neutral sentence, before or after.
#
# Not C. The KL is measured from the taught model. What the lessons moved counts for nothing in it.
#
# It stands in “4. Can the model do the task at all?”.
#
# </details>
#
# **4. What would happen if the three parts were added as they come?**
#
# - A: Nothing: PPO whitens the advantages anyway.
# - B: The part with the largest mean would decide.
# - C: The part that varies most would decide.
#
# <details><summary>Answer</summary>
#
# **C** is right. In standard deviations of the start, a weight says what it seems to say.
#
# Not A. It whitens what is made of the sum. Which part the sum follows is decided before.
#
# Not B. A mean moves all summaries alike, and no summary past another.
#
# It stands in “5. On what scale do the parts meet?”.
#
# </details>
#
# **5. Look at the table of section 8. Which rows show an effect of the weight that was set to 0?**
#
# - A: All rows whose difference is anything but exactly zero.
# - B: Those with a verdict other than “no difference shown”.
# - C: The row of similarity alone: its weight was changed.
#
# <details><summary>Answer</summary>
#
# **B** is right. Nothing else differed, so it is that weight's effect, in this seed and beyond the luck of the paragraphs.
#
# Not A. Other paragraphs would have given another difference. Interval and test are for that.
#
# Not C. What the model does instead, such as copying less, is an effect of the weight, too.
#
# It stands in “8. What if nobody pays for the subject?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("07")

# %% [markdown]
# ## Next
#
# [08 · Domain adaptation](08_domain_adaptation.ipynb) teaches the model a small text of your own.
# [04 · Evaluation](04_eval.ipynb): what would a second judge say of these summaries?

# %% [markdown]
# ## Solutions
#
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
s = 1.9 + 1.9 - 2.5
praise_and_blame = s / math.sqrt(s**2 + 15)
### END SOLUTION

assert check("07.1", praise_and_blame).right


# %% tags=["solution"]
def numbers(prompts, said):
    ### BEGIN SOLUTION
    shares = []
    for prompt, summary in zip(prompts, said):
        known, own = re.findall(r"\d+", prompt), re.findall(r"\d+", summary)
        shares.append(sum(n in known for n in own) / len(own) if own else 1.0)
    return shares
    ### END SOLUTION


assert check("07.2", numbers).right


# %% tags=["solution"]
def raw_weights(scores, weights):
    ### BEGIN SOLUTION
    return {name: weights[name] / statistics.stdev(scores[name]) for name in scores}
    ### END SOLUTION


assert check("07.3", raw_weights).right

# %% tags=["solution"]
### BEGIN SOLUTION
one_for_all = (
    "The members of the group met in the hall on Monday and then did as they had said."
)
### END SOLUTION

assert check("07.4", one_for_all).right


# %% tags=["solution"]
def unpaid(before, after):
    ### BEGIN SOLUTION
    start = {name: statistics.mean(values) for name, values in before.items()}
    end = {name: statistics.mean(values) for name, values in after.items()}
    if abs(end["words"] - 18) > 5:
        return "length"
    if end["similarity"] < start["similarity"] - 0.1:
        return "similarity"
    return "nothing" if end["neutrality"] > start["neutrality"] + 0.04 else "neutrality"
    ### END SOLUTION


assert check("07.5", unpaid).right
