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
# **You will pay a model for several things at once, and see what it does when one of them is missing.**
#
# You will be able to
# - measure a judge before you train on it,
# - put the parts of a reward on one scale and read each of them in a log,
# - find the cheapest way to win a reward before your model does.
#
# Needs 01 (or its shipped checkpoint). About 22 minutes on two CPU cores.
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
import inspect
import math
import statistics
import textwrap
import time

import pandas as pd
import torch

from sawyer_utils import evaluation, models, plots, ppo, reward, sft, show
from sawyer_utils.chapters import drawings, summaries
from sawyer_utils.plumbing import hub

folder = runtime.run_dir(profile, "neutral")
figures = folder / "figures"
profile = summaries.settings(profile)  # longer prompts, other steps
hub.check_access(profile.news_hub_models)  # none under `local`
started = time.perf_counter()

# %% [markdown]
# ## The whole thing in one picture

# %%
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *In words: four boxes in a row (SFT, reward model, PPO, evaluation). This chapter is the third once more, with
# another judge in the place of the second.*
#
# > In a cowardly midnight vote, Pellworth's council has butchered the one thing this town had to be
# > proud of.
#
# > Pellworth's council voted seven to four to close the library.
#
# Both report the same evening. Can a model learn to write the second kind of sentence from the first
# kind of text, when nobody shows it a single one, and all it gets is a grade? That is the workshop's
# other case study. PPO stays as it was in 03; what is new is the judge, and this time we build it
# ourselves, of [three parts](../docs/glossary.md#composite-reward).

# %% tags=["slide"]
train_rows = summaries.load_news("train", profile.news, profile.limit)
test_rows = summaries.load_news("test", profile.news)[: profile.eval_prompts]
for row in train_rows[:: max(1, len(train_rows) // 3)][:3]:
    print(textwrap.fill(f"[{row['topic']}] {row['text']}", 88), end="\n\n")
print(f"{len(train_rows)} paragraphs to practise on, {len(test_rows)} to judge by.")
assert not {row["text"] for row in train_rows} & {row["text"] for row in test_rows}

# %% [markdown] tags=["slide"]
# ## 1. How does a word list hear tone?
# VADER is a [list of some 7,500 words](../docs/glossary.md#sentiment-lexicon) that people have rated from −4 to +4, with rules for "very", "not"
# and exclamation marks (Hutto and Gilbert 2014). It adds up what it knows, s, and squeezes the sum:
# s/√(s² + 15), the *compound*. "Good" is rated 1.9. **Predict** the compound of one "good", and of two.

# %% tags=["nbval-check-output", "fragment", "show-code"]
for s in (1.9, 1.9 + 1.9):
    print(f"by hand {s / math.sqrt(s**2 + 15):.4f}")
once = "A good council closed the library."
twice = "A good, good council closed the library."
print("by VADER", summaries.tone([once, twice]))
assert abs(summaries.tone([once])[0] - 1.9 / math.sqrt(1.9**2 + 15)) < 1e-4

# %% [markdown]
# Two things to keep in mind. The compound grows with every loaded word, so a long text is often near
# ±1: compare sentences, not paragraphs. And it hears words, not meaning. **Predict the sign of each:**

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
# - **The usual wrong answer.** “The sarcasm is negative.” To a reader it is. The list adds up words.

# %% [markdown]
# The first two are as they should be. The sarcasm counts as praise, the scrapheap as nothing; and two
# plain reports have a tone, for "won" is a happy word and "arrested" an unhappy one.
#
# The same list can be read in another way: which *share* of a text does it rate at all? A rated word counts
# as the size of its rating plus one, any other word as one. Here blame does not cancel praise, and a
# text is not louder for being long. **Predict** the share of "A good council closed the library."

# %% tags=["nbval-check-output"]
print(f"by hand {2.9 / (2.9 + 5):.3f}")
print("by VADER", summaries.loaded([once, twice]))
assert abs(summaries.loaded([once])[0] - 2.9 / (2.9 + 5)) < 1e-3

# %% [markdown] tags=["slide"]
# ## 2. Can it tell neutral from loaded?
# **Measure the judge before you train on it.** For each test paragraph someone has written a neutral
# summary by hand. They are a yardstick: nothing is trained on them. How many does the list call neutral?

# %% tags=["fragment"]
by_hand = [row["summary"] for row in test_rows if "summary" in row]
if by_hand:
    scores = summaries.tone(by_hand)
    groups = {
        "neutral": [s for s in scores if abs(s) <= 0.05],
        "positive": [s for s in scores if s > 0.05],
        "negative": [s for s in scores if s < -0.05],
    }
    assert sum(map(len, groups.values())) == len(by_hand)
    for name, found in groups.items():
        low, high = evaluation.wilson_interval(len(found), len(by_hand))
        print(f"{name:9s} {len(found) / len(by_hand):.0%} [{low:.0%}, {high:.0%}]")
    print(f"mean |compound| {statistics.mean(map(abs, scores)):.2f}")
    worst = max(range(len(by_hand)), key=lambda i: abs(scores[i]))
    print(f"the most 'loaded' ({scores[worst]:+.2f}): {by_hand[worst]}")

# %% [markdown] tags=["teaching"]
# - **What it is for.** The habit of measuring a judge on cases with a known answer before anything is
#   trained on it.
# - **Ask.** What share of these summaries, all written to be neutral, will the list call neutral?
# - **The usual wrong answer.** “Nearly all.” News is about wars, prizes and arrests. So what may one
#   ask of such a judge?

# %% [markdown]
# A list calls many neutral sentences positive or negative: news has words such as *won*, *prize*,
# *arrested* and *died* because such things happen. So 0 is the wrong target. What can be asked is a
# summary that is *less* loaded than its source. How loaded is a sentence of the sources, and how often does
# the list hear more in it than in a neutral one, in either way of reading? (0.5 would be a coin.)

# %% tags=["subslide"]
said = [sentence for row in test_rows for sentence in summaries.sentences(row["text"])]
readings = {
    "|compound|": lambda texts: [abs(score) for score in summaries.tone(texts)],
    "loaded share": summaries.loaded,
}
above = {}
for name, reading in readings.items():
    loud, plain = reading(said), reading(by_hand or [""])
    wins = [(a > b) + 0.5 * (a == b) for a in loud for b in plain]
    above[name] = statistics.mean(wins)
    print(f"{name}: a sentence of the sources {statistics.mean(loud):.2f},", end=" ")
    print(f"by hand {statistics.mean(plain):.2f}; above it {above[name]:.2f}")
silent = statistics.mean(share == 0 for share in summaries.loaded(said))
print(f"sentences of the sources in which the list hears nothing: {silent:.0%}")
source_loaded = statistics.mean(summaries.mean_loaded(row["text"]) for row in test_rows)

# %% [markdown]
# We take the share. Had we taken the compound, a neutral summary by hand would on average have
# earned no more than a line of the sources, and whatever PPO had learned from it, it would not have been
# neutrality. (We did take it at first: see "What we simplified".) It is still a weak judge, nearer to
# a coin than to a reader. Keep the number; we shall come back to it at the end.

# %% [markdown] tags=["slide"]
# ## 3. What else must a summary be?
# Five summaries of one paragraph. *Neutrality* is how much less loaded a summary is than a sentence of
# its source: the mean loaded share of those, less the summary's. *[Similarity](../docs/glossary.md#similarity)* is how much nearer to the
# whole it is than those sentences are, in cosines of the [encoder](../docs/glossary.md#encoder) from 02 as it came, never trained.
# *Length* is 0 at 18 words and falls on either side, to −1 at none or at 36. **Predict first:** which
# wins on neutrality alone?

# %% [markdown] tags=["teaching"]
# - **What it is for.** Each part of a reward is there for a cheat that the others let through. Name
#   the cheat first, then the part.
# - **Ask.** Which of the five wins on neutrality alone? Which on neutrality and length together?
# - **The usual wrong answer.** “The neutral one, it is neutral.” Silence is as neutral, and so is
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
table = pd.DataFrame(
    {
        "neutrality": summaries.neutrality(asked, said),
        "similarity": summaries.faithful(encoder)(asked, said),
        "length": summaries.length_fit(asked, said),
    },
    index=list(candidates),
)
table["all three"] = table.sum(axis=1)
print(table.round(2).to_string())
assert table["all three"].idxmax() == "neutral"
assert table.neutrality["empty"] == table.neutrality.max()

# %% [markdown] tags=["fragment"]
# Saying nothing is as neutral as it gets, and so is bread. Each part closes a door that the others
# leave open: similarity asks for the subject, length for a sentence. Only together do they describe a
# summary, and only as well as each of them measures.

# %% [markdown]
# ## 4. Can the model do the task at all?
# PPO makes what is *sampled* more or less likely. A task that the model never gets right has nothing
# to reward. So look first: what does the SFT model from 01 say when it is asked for a summary?

# %%
own_policy = profile.summariser == "policy"  # else an encoder-decoder
adapter = None
if own_policy:
    sft_folder = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
    adapter = sft_folder / "adapter"
tokenizer, model = summaries.load_summariser(profile, adapter)
train_prompts = summaries.prompts_that_fit(tokenizer, train_rows, profile)
test_prompts = summaries.prompts_that_fit(tokenizer, test_rows, profile)
first = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
sources = [summaries.source_of(prompt) for prompt in first.prompts]
first_similarity = encoder(sources, first.responses)
for i in (0, len(test_prompts) // 3, 2 * len(test_prompts) // 3):
    print(textwrap.fill(sources[i], 88))
    print(textwrap.fill(f"→ {first.responses[i]}", 88), end="\n\n")
print(f"similarity to the source {statistics.mean(first_similarity):.2f}")

# %% [markdown]
# It rambles: it has learnt to answer questions, not to stay with a text. So it first learns the *task*,
# as in 01, and again nobody has to write an answer: each lesson is a [sentence of the paragraph itself](../docs/glossary.md#extractive-summary),
# one of the two that the encoder finds nearest to the whole. They are loaded sentences. What is
# taught is to pick what matters; how loaded it is, is left to PPO. (A summariser from the Hub skips this.)
#
# Every third paragraph has to do. Taught from all of them, the model copied with hardly a doubt, and in
# sixteen steps of PPO nothing moved: where one answer is nearly certain, there is nothing to choose from.

# %%
if own_policy:
    texts = [row["text"] for row in train_rows[::3]]
    lessons = summaries.lessons(texts, encoder)
    for lesson in lessons[:2]:
        print("→", lesson["messages"][1]["content"])
    start = folder / "warmup"
    del model
    gc.collect()
    tokenizer, base = models.load_policy(profile)
    pupil = models.load_adapter(base, adapter, "default", trainable=True)
    sft.train_sft(pupil, tokenizer, profile, lessons, start)
    del pupil, base
    gc.collect()
    adapter = start / "adapter"
    tokenizer, model = summaries.load_summariser(profile, adapter)

# %% tags=["slide"]
settings = {"seed": 0, "samples": profile.news_samples}
before = evaluation.answer(model, tokenizer, test_prompts, profile, **settings)
start_values = summaries.measure(encoder, before.prompts, before.responses)
shown = [0, len(before.prompts) // 3, 2 * len(before.prompts) // 3]  # fixed beforehand
for i in shown:
    print(f"→ {before.responses[i]}")
print(
    f"similarity {statistics.mean(first_similarity):.2f}"
    f" → {statistics.mean(start_values['similarity']):.2f}"
)

# %% [markdown]
# Now there is something to grade: sentences about the text, some loaded and some less, and now and then
# none at all. (Under `smoke`,
# two steps have taught nothing yet.) This model is the start, the frozen [reference](../docs/glossary.md#reference-model), and what everything
# below is compared with.

# %% [markdown]
# ## 5. On what scale do the parts meet?
# The parts do not spread alike. Added as they come, the widest would decide. So
# each part is put on the start model's own scale: 0 is its average summary of a training paragraph, 1
# is one [standard deviation](../docs/glossary.md#standard-deviation) better. Neutrality counts three times: it is what has to change, the others only
# have to hold. (The classifiers of the Hub profiles keep the workshop's weights, on their raw logits.)

# %% tags=["slide"]
some = train_prompts[:: max(1, len(train_prompts) // 72)]
calibration = evaluation.answer(model, tokenizer, some, profile, seed=1)
graded = (calibration.prompts, calibration.responses)
raw = summaries.measure(encoder, *graded)
rows = {
    name: (statistics.mean(raw[name]), statistics.stdev(raw[name]))
    for name in ("neutrality", "similarity", "words")
}
print(pd.DataFrame(rows, index=["mean", "s.d."]).T.round(3).to_string())
reward_fn = summaries.start_reward(profile, encoder, *graded)
total = torch.tensor(reward_fn(*graded))
for name in reward_fn.parts:
    print(f"{name:11s} weight {reward_fn.functions[name][1]}")
pair = torch.tensor([raw["neutrality"], raw["similarity"]])
pull = float(torch.corrcoef(pair)[0, 1])
print(f"correlation of neutrality and similarity: {pull:+.2f}")
print(f"the whole reward: {total.mean():+.2f} ± {total.std():.2f}")

# %% [markdown]
# The correlation says whether two parts pull the same way; near zero they leave each other alone. Below zero, what is closer to the source is
# also more loaded, which is no wonder where the source is: then the weights decide what gives way.

# %%
print(inspect.getsource(reward.Mixture.__call__))

# %% [markdown]
# ## 6. Train
# Everything else is 03's: the same trainer, the same [KL](../docs/glossary.md#kl-divergence) to the start. Each part is logged by itself.

# %%
config = ppo.PPOConfig.from_profile(profile)
trainer = ppo.PPOTrainer(model, tokenizer, reward_fn, config, folder)
live = plots.LivePlot(plots.ppo_dashboard, config.steps, folder=folder)
log = trainer.train(train_prompts, on_step=live)
keys = ("seconds_rollout", "seconds_score", "seconds_update")
spent = sum(line[key] for line in log for key in keys)
print(f"{len(log)} steps of {config.batch_size} summaries, {spent / 60:.1f} minutes.")
assert log[0]["kl"] == 0.0

# %% tags=["slide"]
clean = [{k: v for k, v in line.items() if k != "samples"} for line in log]
plots.save(drawings.reward_parts(log), figures, "parts", clean)

# %% [markdown]
# *In words: on the left one line for each part of the reward, in standard deviations of the start's summaries, by
# step; on the right the KL to the start.*

# %% [markdown] tags=["teaching"]
# - **What it is for.** Reading a reward by its parts. The sum rises in any case.
# - **Ask.** Which part pays for the rise of another? What would you see here if two parts had changed
#   places?
# - **The usual wrong answer.** “All three rise, for all three are paid for.” They compete: whatever
#   is easiest to sample wins first.

# %%
third = max(1, len(log) // 3)
watched = [f"reward_{name}" for name in reward_fn.functions]
for key in (*watched, "reward", "kl", "length"):
    early = statistics.mean(line[key] for line in log[:third])
    late = statistics.mean(line[key] for line in log[-third:])
    print(f"{key:18s} first third {early:6.2f}   last third {late:6.2f}")

# %% [markdown]
# Which part rose most, and did another have to pay for it? The sum alone would not have told. The largest
# rise need not be that of the part with the largest weight.

# %% [markdown]
# ## 7. Is it more neutral, and still a summary?
# The same test paragraphs, the same dice, before and after. Several summaries of one paragraph are no
# independent witnesses: the [interval](../docs/glossary.md#interval) draws whole paragraphs. The last three rows are measures that
# no reward has: *copied* is the share of three-word runs taken from the source, *invented* the names
# and numbers that the source does not have, *repetition* the share of three-word runs said again. The
# similarity is here the cosine itself.

# %% tags=["slide"]
after = evaluation.answer(model, tokenizer, test_prompts, profile, **settings)
end_values = summaries.measure(encoder, after.prompts, after.responses)


def compared(one: dict, other: dict, groups: list[str]) -> dict:
    return {
        name: evaluation.compare_rewards(one[name], other[name], groups=groups)
        for name in one
    }


def as_table(found: dict) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "before": {k: round(c.before_mean, 3) for k, c in found.items()},
            "after": {k: round(c.after_mean, 3) for k, c in found.items()},
            "difference": {
                k: f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]"
                for k, c in found.items()
            },
        }
    )


change = compared(start_values, end_values, before.prompts)
as_table(change)

# %%
hand = {}
if len(by_hand) == len(test_prompts):
    hand = summaries.measure(encoder, test_prompts, by_hand)
    means = [f"{name} {statistics.mean(values):.2f}" for name, values in hand.items()]
    print(f"by hand: {', '.join(means)}")
for name, answers in (("before", before), ("after", after)):
    loud = statistics.mean(summaries.loaded(answers.responses))
    print(
        f"{name}: finished {statistics.mean(answers.finished):.0%}, loaded"
        f" {loud / source_loaded:.0%} of a sentence of the sources"
    )

# %% tags=["fragment"]
neutral, similarity = change["neutrality"], change["similarity"]
reached = neutral.low > 0 and similarity.difference >= -0.05
print(
    f"Neutrality {neutral.difference:+.3f} [{neutral.low:+.3f}, {neutral.high:+.3f}],"
    f" similarity {similarity.difference:+.3f}"
    f" [{similarity.low:+.3f}, {similarity.high:+.3f}], n = {neutral.n} paragraphs."
)
print(
    "More neutral, with similarity within 0.05 of the start: "
    + ("reached." if reached else "NOT reached.")
)

# %% [markdown]
# Three paragraphs that were fixed beforehand, and the summary that lost most similarity:

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
# In the run shown here neutrality did not rise measurably; similarity did, and so did what is invented.
# Read them as a reader would: are they less loaded, or is something else told? Leaving out
# is the oldest slant of all, and no part of this reward sees it.

# %% [markdown] tags=["slide"]
# ## 8. What if nobody pays for the subject?
# The same start, half of the steps at twice the learning rate, and no similarity in the reward. **Predict** the
# cheapest way to win what is left: neutral words, about eighteen of them.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The same start, and one line less in the contract. Let the
#   class write the summary that wins before it sees one (exercise 07.4).
# - **Ask.** What is the cheapest text that is neutral and eighteen words long? Does it have to be
#   about anything?
# - **The usual wrong answer.** “It will still summarise, it has learned to.” For a while, by habit:
#   only the KL holds it there.

# %%
models.restart(model)
missing = list(reward_fn.functions)[1]  # similarity; on the Hub's path, grammar
poor = summaries.without(reward_fn, missing)
hasty = {"steps": max(2, config.steps // 2), "learning_rate": 2 * config.learning_rate}
fewer = ppo.PPOConfig.from_profile(profile, **hasty)
cheap = ppo.PPOTrainer(model, tokenizer, poor, fewer, folder / "cheap")
cheap_log = cheap.train(train_prompts)
plots.save(drawings.reward_parts(cheap_log), figures, "cheap")

# %% [markdown]
# *In words: the same two pictures, with the parts that are left.*

# %% tags=["fragment"]
nothing = evaluation.answer(model, tokenizer, test_prompts, profile, **settings)
cheap_values = summaries.measure(encoder, nothing.prompts, nothing.responses)
cheap_change = compared(start_values, cheap_values, before.prompts)
as_table(cheap_change)

# %%
show.side_by_side(
    [summaries.source_of(before.prompts[i])[:160] + " …" for i in shown],
    {
        "all parts": [after.responses[i] for i in shown],
        f"without {missing}": [nothing.responses[i] for i in shown],
    },
    {
        "all parts": notes(after, end_values, shown),
        f"without {missing}": notes(nothing, cheap_values, shown),
    },
    first="paragraph",
)

# %% tags=["fragment"]
for name in ("neutrality", "similarity"):
    with_it, without_it = change[name], cheap_change[name]
    print(
        f"{name}: all parts {with_it.difference:+.3f},"
        f" without {missing} {without_it.difference:+.3f}"
        f" [{without_it.low:+.3f}, {without_it.high:+.3f}]"
    )
if cheap_change["similarity"].high < min(0.0, change["similarity"].difference):
    print("The subject went: no one had paid for it.")
else:
    print(f"{len(cheap_log)} steps are too few to see the subject go.")

# %% [markdown]
# Wherever it went, nobody told it to leave the subject; nobody paid it to stay. A reward is a contract,
# and the model reads only what is written in it. Look at *copied* and *invented*, too, which no reward has:
# names and numbers of one's own are as neutral as true ones. (Two things differ from section 6, the
# missing part and the learning rate; a clean test would change one.)

# %%
runtime.record(
    profile,
    "neutral",
    measures={name: found.as_dict() for name, found in change.items()},
    without={name: found.as_dict() for name, found in cheap_change.items()},
    missing=missing,
    reached=bool(reached),
    source_loaded=source_loaded,
    judge=above,
    by_hand={k: statistics.mean(v) for k, v in hand.items()},
    first_similarity=statistics.mean(first_similarity),
    steps=len(log),
    seconds_train=spent,
    seconds=time.perf_counter() - started,
)
peak = runtime.record_peak(profile, "neutral")
print(f"peak memory {peak:.1f} GiB")

# %% [markdown] tags=["slide"]
# **Doubt.** The judge that says "more neutral" is the judge that was trained on, and section 2 measured
# how little it hears. Take any sentence above that it calls neutral: does it take sides by what it
# leaves out? A person would have to read all of them. Nobody has.

# %% [markdown]
# ## Exercises
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. The solutions stand at the end of the notebook. (The comments with
# `SOLUTION` are for teachers who use nbgrader.)

# %%
import re

from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 07.1 Predict the number: praise and blame
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
# The reward of section 8 pays for neutrality and for length. Write one text that earns as much on every
# test paragraph as the neutral summary that somebody wrote of it by hand.

# %% tags=["exercise"]
### BEGIN SOLUTION
one_for_all = None
### END SOLUTION

check("07.4", one_for_all)

# %% [markdown]
# ### 07.5 Diagnose: what did nobody pay for?
# Twenty-four runs that you have not seen. In each at most one part was left out of the reward. What is paid
# for rises or holds, within 0.1 of similarity and three words of the target. What is not goes where it is
# cheapest: the summary stays as loaded or grows more so, the subject goes, the words become many or few. Which part is it?


# %% tags=["exercise"]
def unpaid(before, after):
    """Start and end, each with lists `neutrality`, `similarity` and `words`
    -> "neutrality", "similarity", "length", or "nothing"."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("07.5", unpaid)

# %% [markdown]
# ### Two open questions
#
# They need training or reading, so nothing checks them.
#
# - **Another part.** Take the length out instead of the similarity, six steps. Which line of the log tells
#   you first, and which way does it go?
#   <details><summary>What to expect</summary>The length, and upwards: more of the text is more similar, and
#   a loaded word weighs less in a longer sentence. Both parts pull the same way.</details>
# - **Another judge.** Exchange the list for the encoder: similarity to "a neutral report" less that to
#   "an angry opinion". Measure it as in section 2 before you train on it.
#   <details><summary>What to do</summary>Compute it for the summaries by hand and for the sources' sentences,
#   and count how often the loaded one scores as more loaded. If it is no better than the list's, do not train
#   on it.</details>

# %% [markdown]
# ## What can go wrong
# | symptom | likely cause | where it shows |
# |---|---|---|
# | "every response has the same score" | a part that sees no difference (all of equal length) | section 5 stops and says so |
# | one part rises, the others fall | weights: that part is cheapest to win | the parts' own curves |
# | neutrality up, similarity down | off-topic sentences are neutral | section 8, on purpose |
# | similarity up, neutrality flat | the summary copies its source | copied |
# | names and numbers that nobody mentioned | no part pays for facts | invented |
# | nothing rises | the task is never sampled: learn it first | section 4 |

# %% [markdown]
# ## What we simplified
# 1. A word list as judge (Hutto and Gilbert 2014); the workshop asks a classifier trained on tweets, which
#    has a taste of its own. Slant by omission is beyond both.
# 2. Paragraphs in one manner, 50 to 65 words, loaded on purpose; the workshop takes real articles.
# 3. Judge and weights are a choice, and we chose by looking at results, on 36 paragraphs that are now among
#    those to practise on. First the judge was the compound. Neutrality, similarity and length at 2, 1 and
#    0.5: a whole run copied its sources. At 4, 1 and 0.5: after 18 steps seven words were left, and the
#    subject with them. At 3, 1 and 1: neutrality +0.04 [−0.05, +0.13]. Then 108 more paragraphs were
#    written to practise on, and the 72 to judge by; and on the 36 the share told loaded from neutral more
#    often than the compound did (0.70 against 0.63; on the 72 both do worse, see section 2: what one chooses
#    by looks better there than elsewhere). The weights stayed. Section 8 first had eight steps
#    with section 6's settings: nothing moved. So it got twelve, at twice the learning rate.
# 4. The start learns from the paragraphs' own sentences (extractive, as in centroid summaries: Radev et
#    al. 2004), so it mostly copies. A larger model would paraphrase.
# 5. The Hub profiles take `google/flan-t5-small`, an encoder-decoder, through the same trainer
#    (`actor.response_states` is the one place that tells them apart), two RoBERTa classifiers with the
#    workshop's weights, and `argilla/news-summary`. That path is tested with tiny random models and a
#    local file; **it has not been run against the real Hub.** Of a long article the encoder reads the
#    first 256 tokens.

# %% [markdown]
# ## Five questions
#
# **1. The list gives many neutral summaries by hand a tone. What does that mean for the reward?**
#
# - A: The summaries by hand have to be rewritten until all of them score 0.
# - B: 0 is the wrong target: ask for a summary that is less loaded than its source.
# - C: Positive and negative words have to be counted apart.
#
# <details><summary>Answer</summary>
#
# **B** is right. News has words such as won and died because such things happen. A sentence of the source has the same words, and the opinion on top.
#
# Not A. They are a yardstick. Bent to fit the judge they would measure nothing any more.
#
# Not C. A report of a win and one of an arrest would have a tone still, each of its own sign.
#
# It stands in “2. Can it tell neutral from loaded?”.
#
# </details>
#
# **2. Which of the five candidates wins on neutrality alone, and why?**
#
# - A: The neutral summary, and it alone, for it was written to be neutral.
# - B: The loaded sentence, for it is the nearest to the source.
# - C: The one about bread, for the encoder finds it far from the source.
# - D: Four share the first place, the empty one among them: whatever holds no rated word is not loaded at all.
#
# <details><summary>Answer</summary>
#
# **D** is right. The list hears nothing, and less than nothing cannot be heard. So other parts have to ask for a subject and for a length.
#
# Not A. It has the highest number in its column, but so have three others. To the list all four are silent.
#
# Not B. That is what similarity pays for. It is the most loaded of the five.
#
# Not C. Neutrality is the word list's alone. The encoder has no say in it.
#
# It stands in “3. What else must a summary be?”.
#
# </details>
#
# **3. Why does the model learn from the paragraphs' own sentences before it is graded?**
#
# - A: PPO only makes what is sampled more or less likely; among ramblings there is no summary to reward.
# - B: So that it hears neutral language once.
# - C: So that the KL to the SFT model of 01 stays small.
#
# <details><summary>Answer</summary>
#
# **A** is right. The lessons bring the task within reach. How loaded they are is left to PPO.
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
# - A: Nothing: PPO whitens the advantages in any case.
# - B: The part with the largest mean would decide.
# - C: The part that happens to vary most would decide.
#
# <details><summary>Answer</summary>
#
# **C** is right. The parts do not spread alike. In standard deviations of the start a weight says what it seems to say.
#
# Not A. It whitens what is made of the sum. Which part the sum follows is decided before.
#
# Not B. A mean moves all summaries alike, and no summary past another.
#
# It stands in “5. On what scale do the parts meet?”.
#
# </details>
#
# **5. Suppose that neutrality has risen, its interval off zero, and similarity has held. Why should one still read the summaries?**
#
# - A: They may have become neutral by leaving out what one side would mention, which no part of the reward sees.
# - B: They need not be read: the intervals say enough.
# - C: To see whether the dice were the same before and after.
#
# <details><summary>Answer</summary>
#
# **A** is right. Leaving out is the oldest slant. Word list, encoder and length are all blind to what is not there.
#
# Not B. They say how sure the two numbers are. However narrow, they speak of these two numbers only.
#
# Not C. They were: the seed is in the settings of both. What the dice did is no question of taste.
#
# It stands in “7. Is it more neutral, and still a summary?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("07")

# %% [markdown]
# ## Next
# [08 · Domain adaptation](08_domain_adaptation.ipynb) teaches the model a place of your own. Or go back to
# [04 · Evaluation](04_eval.ipynb): what would a second judge say of these summaries?

# %% [markdown]
# ## Solutions
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
