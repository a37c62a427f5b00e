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
# # 08 · Domain adaptation: teaching SAWYER a place of your own
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/08_domain_adaptation.ipynb)
#
# **You will teach the aligned model a small text that nobody else has, and measure what it costs.**
#
# You will be able to
# - turn a text into lessons, and into an examination that is none of them,
# - say what a model learned, and what it now makes up,
# - measure what that cost elsewhere, with and without replay of old lessons.
#
# Needs 01 to 03 (or their shipped checkpoints). About 6 minutes on two CPU cores.
#
# In our run the lessons raised the share of facts that it names from 0.00 to 0.50, and the reward of its other
# answers fell by 0.76 of SFT's standard deviations, by 0.53 at equal length.

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
import json
import statistics
import time
from dataclasses import replace

import pandas as pd
from peft import PeftModel

from sawyer_utils import chat, data, evaluation, models, plots, reward, sft, show
from sawyer_utils.chapters import choices, domain, drawings
from sawyer_utils.classroom.checks import check

folder = runtime.run_dir(profile, "domain")
figures = folder / "figures"
started = time.perf_counter()
plots.save(plots.four_stages(), figures, "stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation.* This notebook adds a step after PPO: [more SFT, on
# what only you know](../docs/glossary.md#domain-adaptation). The evaluation then has to find what that step broke.
#
# ## 1. What is there to learn?
#
# SAWYER, the model of 01 to 03, knows nothing of your texts. The example is a ferry that exists nowhere but in this course, so no model
# can have read about it. A language model invented it, and wrote its lessons and questions. Of each fact there are
# three lessons, each in other words, and one question that no lesson asks: the examination.

# %% [markdown] tags=["teaching"]
# - **What it is for.** An examination that is not the exercise book. Whoever brings a text of their
#   own will write the questions last, and make them lessons.
# - **Ask.** Three lessons a fact, one question kept back. What would the result say if the question
#   were the fourth lesson?
# - **The usual wrong answer.** "The same, the fact is the same." A question known by heart is
#   answered without the fact.

# %% tags=["slide"]
# os.environ["SAWYER_DOMAIN"] = "my_place.jsonl"
facts, unknown = domain.load()
lessons = domain.lessons(facts)
print(
    f"{len(facts)} facts, {len(lessons)} lessons,",
    f"{len(unknown)} questions that the text does not answer",
)
one = facts[0]
for lesson in one["lessons"]:
    print(f"  lesson  {lesson['question']}\n          {lesson['answer']}")
print(f"  asked   {one['question']}\n  key     {' or '.join(one['keys'])}")
taught = {lesson["messages"][0]["content"] for lesson in lessons}
assert not taught & {row["question"] for row in [*facts, *unknown]}

# %% [markdown]
# **A text of your own** is a file of such rows, one JSON object a line: name it in the first line of the cell above.
# Below are two whole rows, a fact and a question that the text does not answer, and the file that is made of them. The
# loader checks each row; a broken one is an error that names line and field.

# %% tags=["fragment"]
print(json.dumps(facts[0], indent=1, ensure_ascii=False))
for row in unknown[:1]:  # your text may have none
    print(json.dumps(row, ensure_ascii=False))
mine = folder / "my_place.jsonl"
rows = [*facts[:2], *unknown[:1]]
mine.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
my_facts, my_unknown = domain.load(str(mine))
print(f"{mine.name}: {len(my_facts)} facts, {len(my_unknown)} without an answer")
assert my_facts == facts[:2]

# %% [markdown]
# **How an answer is judged.** It is right if it holds the key as whole words. That is simple, anyone can
# repeat it, and it is blind: "not four, but ten crowns" is right to it. So read the answers, too.

# %% tags=["nbval-check-output", "subslide", "show-code"]
price = [{"keys": ["four", "4"]}]
for said in ("FOUR crowns!", "Four crowns.", "Fourteen crowns.", "Not 4, but ten."):
    print(f"{said:18s} {bool(domain.knows([said], price)[0])}")
assert not domain.knows(["Fourteen crowns."], price)[0]

# %% [markdown]
# ## 2. What does it say before?
#
# The aligned model (03's, after PPO) is the start, and all that follows is compared with it. The examination is asked twice:
# freely, and as multiple choice, where the [likeliest](../docs/glossary.md#likelihood) of four answers counts as its choice.
#
# **Predict first:** of the facts, how many does it name freely? And of four choices, how often is the
# right one its favourite?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A number before anything is done. Some of the keys can be guessed, and chance
#   is not where one thinks it is.
# - **Ask.** Of 24 questions with four choices: how many does a model choose rightly that has never
#   heard of the place?
# - **The usual wrong answer.** "Six, a quarter." Only if its taste in words has nothing to do with
#   the facts. Odd facts are unlikely words.

# %%
ready = "adapter/adapter_model.safetensors"
sft_adapter = runtime.find_stage(profile, "sft", ready) / "adapter"
aligned = runtime.find_stage(profile, "ppo", ready) / "adapter"
needed = "model/adapter_model.safetensors"
judge = reward.RewardModel.load(runtime.find_stage(profile, "reward", needed) / "model")


def load(**adapters):
    """A fresh base with these adapters beside each other, the first in use."""
    tokenizer, model = models.load_policy(profile)
    (first, path), *others = adapters.items()
    model = PeftModel.from_pretrained(model, path, adapter_name=first)
    for name, path in others:
        model.load_adapter(path, adapter_name=name)
    return tokenizer, model.eval()


tokenizer, model = load(sft=sft_adapter, aligned=aligned)

# %% [markdown]
# The reward is put on 03's scale: 0 is the SFT model's average answer to a training prompt, 1 is one
# [standard deviation](../docs/glossary.md#standard-deviation) better.

# %%
limit = profile.prompt_tokens
facts = chat.that_fit(tokenizer, facts, limit)
unknown = chat.that_fit(tokenizer, unknown, limit)
rows = data.load_prompts("train", profile.prompts, profile.limit)
rows = chat.that_fit(tokenizer, rows, limit)
calibration = [row["prompt"] for row in rows][:64]
plain = evaluation.answer(model, tokenizer, calibration, profile, seed=1)
reward_fn, *scale = reward.standardised(judge.score, calibration, plain.responses)

rows = data.load_prompts("test", profile.prompts, profile.eval_prompts // 2)
rows = chat.that_fit(tokenizer, rows, limit)
prompts = [row["prompt"] for row in rows]
minis = ("truthful_mini", "religions_mini")
exams = {name: choices.load_questions(name, profile.eval_questions) for name in minis}
exams = {"the place": facts, **exams}
asked = [row["question"] for row in [*facts, *unknown]]
sizes = {name: len(items) for name, items in exams.items()}
print(f"{len(prompts)} held-out prompts; multiple choice: {sizes}")
assert not set(calibration) & set(prompts)

# %% tags=["slide"]
precision = runtime.choose_precision(profile.precision)
autocast = precision.compute if precision.autocast else None


def measured(model, name):
    """Everything that is compared below, of one adapter."""
    with models.using(model, name):
        said = evaluation.answer(model, tokenizer, asked, profile, temperature=0)
        free = evaluation.answer(model, tokenizer, prompts, profile, seed=0)
        kl = evaluation.kl_to_reference(model, free, "aligned", precision.compute)
        found = {
            f"choices: {exam}": choices.score_choices(
                model, tokenizer, items, compute=autocast
            ).correct
            for exam, items in exams.items()
        }
    return found | {
        "answers": said.responses,
        "facts named": domain.knows(said.responses[: len(facts)], facts),
        "reward": reward_fn(prompts, free.responses),
        "KL, nats": kl,
        "length, tokens": free.lengths,
        "finished": free.finished,
    }


results = {"aligned": measured(model, "aligned")}
named = results["aligned"]["facts named"]
chosen = results["aligned"]["choices: the place"]
print(f"named freely {named.sum()} of {len(facts)}; chosen {chosen.sum()}")
by_chance = sum(1 / len(row["choices"]) for row in facts)
print(f"whoever chooses at random is right {by_chance:.0f} times")
assert set(results["aligned"]["KL, nats"]) == {0.0}

# %% [markdown]
# In our run it names 0.00 of the facts and chooses 0.04 of them. What a model names here is a guess, as anybody might
# guess "green" for a boat. Choices can lie *below* chance: they are the likeliest words, and these facts are odd. So
# only the difference to these numbers counts from here on.
#
# ## 3. How is it taught?
#
# The [adapter](../docs/glossary.md#adapter) of 03 goes on learning with TRL's `SFTTrainer`, as in 01. A new fact takes many steps: there are
# four times as many epochs, in smaller batches, at twice the [learning rate](../docs/glossary.md#learning-rate). And there are two pupils. One
# sees the lessons alone; the other also sees, for every two lessons, one old conversation from 01: **[replay](../docs/glossary.md#replay)**.
#
# **Predict first:** which of the two names more facts, and which one stays closer to the aligned model? (Answer in
# section 6.)

# %% [markdown] tags=["teaching"]
# - **What it is for.** Two pupils that differ in one thing. Two minutes' vote, on both questions
#   apart.
# - **Ask.** Which pupil names more facts? Which one stays closer to the aligned model?
# - **The usual wrong answer.** "Replay costs facts, it dilutes them." Each lesson is seen equally
#   often by both. Then let the table say it.

# %% tags=["show-code"]
plan = replace(  # what sft.train_sft hands to SFTConfig
    profile,
    sft_epochs=4 * profile.sft_epochs,  # num_train_epochs
    sft_lr=2 * profile.sft_lr,  # learning_rate, falling on a cosine
    sft_batch=profile.sft_micro_batch,  # per_device_train_batch_size
)
limit = profile.conversation_tokens
lessons = chat.that_fit(tokenizer, domain.lessons(facts), limit)
corpus = data.load_conversations(profile.conversations, profile.limit)
corpus = data.untested(corpus, data.load_prompts("test", profile.prompts))
corpus = chat.that_fit(tokenizer, corpus, limit)
short = [row for row in corpus if len(row["messages"]) == 2]
courses = {
    "lessons": lessons,
    "with replay": domain.with_replay(lessons, short, share=1 / 3),
}
pupils = {name: folder / name.replace(" ", "_") for name in courses}
print({name: f"{len(rows)} conversations" for name, rows in courses.items()})

# %% tags=["slide"]
model = None  # memory
gc.collect()


def teach(conversations, start):
    """Go on from the aligned adapter; returns the training's log."""
    runtime.seed_everything(0)
    own_tokenizer, base = models.load_policy(profile)
    pupil = PeftModel.from_pretrained(base, aligned, is_trainable=True)
    return sft.train_sft(pupil, own_tokenizer, plan, conversations, start)


logs = {name: teach(rows, pupils[name]) for name, rows in courses.items()}
gc.collect()
for name, log in logs.items():
    first, last = log[0]["loss"], statistics.mean(x["loss"] for x in log[-5:])
    print(
        f"{name:12s} {log[-1]['step']} steps, {log[-1]['seconds']:.0f} s,",
        f"loss {first:.2f} → {last:.2f}",
    )
assert all(
    log[-1]["step"] == sft.total_steps(plan, len(courses[n])) for n, log in logs.items()
)

# %% [markdown]
# *Two curves of the training loss by step, lessons alone and with replay.* The lower it is, the better the lessons are
# known *by heart*. Whether the facts are known, only other words can tell.
#
# ## 4. Does it know the place now?

# %% tags=["slide"]
tokenizer, model = load(
    aligned=aligned,
    lessons=pupils["lessons"] / "adapter",
    replay=pupils["with replay"] / "adapter",
)
results["lessons"] = measured(model, "lessons")
results["with replay"] = measured(model, "replay")
counts = {name: int(found["facts named"].sum()) for name, found in results.items()}
spans = [evaluation.wilson_interval(n, len(facts)) for n in counts.values()]
for (name, n), (low, high) in zip(counts.items(), spans):
    share = n / len(facts)
    print(f"{name:12s} {n:2d} of {len(facts)}: {share:.0%} [{low:.0%}, {high:.0%}]")
plots.save(
    plots.bars_with_intervals(
        list(counts),
        [n / len(facts) for n in counts.values()],
        *map(list, zip(*spans)),
        counts=[len(facts)] * 3,
        ylabel="share of the facts named",
        ylim=(0, 1),
    ),
    figures,
    "facts",
    {"model": list(counts), "named": list(counts.values())},
)

# %% [markdown]
# *Three bars: the share of facts that each model names in a free answer, with 95 % [intervals](../docs/glossary.md#interval); the numbers are printed
# above.*
#
# In our run the lessons raised that share from 0.00 to 0.50, and with replay to 0.50. Now the answers themselves:
# every third fact, a choice that was fixed beforehand. A tick stands under what the judge takes for right.

# %% tags=["subslide"]
picked = list(range(0, len(facts), 3))
show.side_by_side(
    [facts[i]["question"] for i in picked],
    {name: [found["answers"][i] for i in picked] for name, found in results.items()},
    {
        name: ["✓" if found["facts named"][i] else "✗" for i in picked]
        for name, found in results.items()
    },
    first="question",
)

# %% [markdown]
# Look for right words in wrong sentences, and for wrong words in the very form of a lesson. The form of an answer
# is learned first; the fact comes later, if at all.
#
# ## 5. What does it say to what it was never told?
#
# The text does not give the speed of the ferry. An honest answer is "I do not know". No lesson taught
# that. **Predict first:** does the adapted model admit it more often than before, or less?

# %% [markdown] tags=["teaching"]
# - **What it is for.** What no accuracy shows: confidence is learned with the facts.
# - **Ask.** Asked for what the text does not say, will it admit that more often now, or less?
# - **The usual wrong answer.** "More often, for it knows the place better." No lesson ever ended in
#   not knowing.

# %% tags=["slide"]
invented, admits = {}, {}
for name, found in results.items() if unknown else ():
    said = found["answers"][len(facts) :]
    admits[name], taken = domain.admits(said), domain.borrowed(said, facts)
    change = domain.compare_shares(admits["aligned"], admits[name])
    invented[name] = {"admitted": int(admits[name].sum()), "borrowed": int(taken.sum())}
    invented[name] |= {"share_admitted": change["after"], "verdict": change["verdict"]}
    print(
        f"{name:12s} admits it {admits[name].sum()} of {len(said)} times,"
        f" answers with another fact's key {taken.sum()} times"
    )
for name in pupils if unknown else ():
    print(f"Does {name!r} admit it more often? {invented[name]['verdict']}")
show.side_by_side(
    [row["question"] for row in unknown],
    {name: found["answers"][len(facts) :] for name, found in results.items()},
    first="question",
)

# %% [markdown]
# In our run it admitted it in 0.00 of the cases, before and after the lessons: it never did, so the lessons could not
# make that worse. What is new are answers with the key of *another* fact. Each lesson is a confident answer about this
# place, and no lesson says "I do not know". (Gekhman et al. 2024, arXiv 2405.05904, measured that the more new facts a
# model learns by SFT, the more it makes up.)
#
# ## 6. What did it cost?
#
# The same prompts and questions as in 03 and 04, none of them about the ferry, sampled with the same seed; *the place*
# and *facts named* are the examination of section 4. Each row is after minus before, [paired](../docs/glossary.md#paired-comparison), with a 95 % interval. The last column is the smallest true
# difference that so many items would have shown four times in five: above it, "[no difference shown](../docs/glossary.md#no-difference-shown)" says
# something.


# %% tags=["slide"]
def compared(before, after):
    """Each measure of two adapters, item by item."""
    better = {"reward": True, "KL, nats": None, "length, tokens": None}
    shares = [name for name in before if name not in {*better, "answers"}]
    found = {name: domain.compare_shares(before[name], after[name]) for name in shares}
    return found | {
        name: domain.compare_means(before[name], after[name], good)
        for name, good in better.items()
    }


def as_table(found):
    table = pd.DataFrame(found).T
    table["difference"] = [
        f"{c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]"
        for c in found.values()
    ]
    for column in ("before", "after", "detectable"):
        table[column] = table[column].astype(float).round(2)
    return table[["n", "before", "after", "difference", "verdict", "detectable"]]


changes = {name: compared(results["aligned"], results[name]) for name in pupils}
as_table(changes["lessons"])

# %%
as_table(changes["with replay"])

# %% [markdown]
# The answers became shorter, too, as the lessons are. **Is the fall of the reward only a fall of length?** 04's check:
# fit a line to change of reward against change of length, and read it where the length did not change. The last number
# takes only prompts whose two answers differ in length by at most a quarter.

# %% tags=["slide"]
at_equal_length = {}
for name in pupils:
    pair = results["aligned"], results[name]
    values = [one[key] for key in ("reward", "length, tokens") for one in pair]
    m = evaluation.length_matched(*values)
    at_equal_length[name] = [m.adjusted, m.adjusted_low, m.adjusted_high]
    whole = changes[name]["reward"]["difference"]
    print(f"{name:12s} reward {whole:+.2f}; at equal length {m.adjusted:+.2f}", end=" ")
    like = f"; on {m.matched_n} prompts with answers of like length {m.matched:+.2f}"
    print(
        f"[{m.adjusted_low:+.2f}, {m.adjusted_high:+.2f}]"
        f"{like if m.matched_n else ''}"
    )
rewards, lengths = (
    [after - before for before, after in zip(*(one[key] for one in pair))]
    for key in ("reward", "length, tokens")
)
plots.save(
    drawings.change_against_length(lengths, rewards, m.slope, m.adjusted),
    figures,
    "change_against_length",
    {"longer": lengths, "change": rewards},
)

# %% [markdown]
# *The pupil with replay: each point is a prompt, with its change of length across and its change of reward up; a dashed
# line is fitted, and a diamond stands where it crosses "no change of length". A negative gain is a fall.*
#
# In our run, of the fall of 0.76 with lessons alone, 0.53 is left at equal length [0.26, 0.79]; with replay 0.75 of
# 0.83. Religions, a benchmark that no lesson touched, got worse with both. Where nearly all answers grew shorter, the line reaches beyond the points: trust it less than in 04.
#
# **Did the replay help?** One "worse" and one "no difference shown" do not differ by themselves. So compare the two
# pupils with each other; this answers section 3's predictions.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Two verdicts are no comparison. It is the mistake that is made in every second
#   paper.
# - **Ask.** One pupil's reward is called worse, the other's is not. Did the replay help?
# - **The usual wrong answer.** "Yes, you see it." Compare the two with each other; then see whether
#   you still do.

# %% tags=["slide"]
between = compared(results["lessons"], results["with replay"])
for question, name in (
    ("Does it name more facts with replay?", "facts named"),
    ("Is it further from the aligned model (KL)?", "KL, nats"),
    ("Is its reward higher?", "reward"),
):
    c = between[name]
    span = f"{c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]"
    print(f"{question:43s} {span}: {c['verdict']}")
as_table(between)

# %%
runtime.record(
    profile,
    "domain",
    measures=changes,
    replay=between,
    at_equal_length=at_equal_length,
    invented=invented,
    text=os.environ.get("SAWYER_DOMAIN", "the example"),
    seconds_train={name: log[-1]["seconds"] for name, log in logs.items()},
    seconds=time.perf_counter() - started,
)
print(f"peak memory {runtime.record_peak(profile, 'domain'):.1f} GiB")

# %% [markdown] tags=["slide"]
# In our run replay changed the share of facts by 0.00 [−0.11, +0.11] and the reward by −0.08: no difference shown.
#
# **Doubt.** One text and one training seed. The example was written to be learned: its facts are short and its lessons
# clean. For a text that changes every week, do not train at all: [put the page into the
# prompt](../docs/glossary.md#retrieval).

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, and run the cell: `check` says what it sees, with one hint at a time. The
# solutions stand at the end. (`SOLUTION` is for teachers who use nbgrader.)
#
# ### 08.1 Predict the number: how many facts are no luck?
#
# The old model names none of 24 facts. How many must the new one name at least, so that McNemar's exact
# p is below 0.05?

# %% tags=["exercise"]
### BEGIN SOLUTION
facts_enough = None
### END SOLUTION

check("08.1", facts_enough)

# %% [markdown]
# ### 08.2 Write this function: how much replay?
#
# How many old conversations make up a `share` of the whole mixture, if there are `lessons` lessons
# in it? Give the nearest whole number, without looking into `domain.with_replay`.


# %% tags=["exercise"]
def replayed(lessons, share):
    """Lessons (a whole number), share from 0 to below 1 -> old conversations."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("08.2", replayed)

# %% [markdown]
# ### 08.3 Break it: the answer that is always right
#
# Write one text that `domain.knows` takes for the right answer to *every* question of a set of facts.
# Each row has its `question`, `keys` and `choices`.


# %% tags=["exercise"]
def always_right(facts):
    """Rows as in `facts` -> one text."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("08.3", always_right)

# %% [markdown]
# ### An open question: a lesson in not knowing
#
# In section 3's first cell, add five conversations to `lessons`, each
# `{"id": "open-1", "messages": data.talk(question, "I do not know that about the ferry.")}`, with questions that the
# text leaves open (other ones than the examination's), and train again. How many admissions does it win, and how many
# facts does it lose? (Expect it to answer some facts' questions so, too.)
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | few facts named, loss still high | too few epochs, or too small a learning rate | section 3 |
# | loss near zero, few facts named | lessons by heart, all in the same words | section 3 against section 4 |
# | chosen rightly, not named freely | the fact is likelier than its rivals, not yet the likeliest of all | section 6 against section 4 |
# | everything is answered with the ferry | too many steps, no replay | answers to the held-out prompts, KL |
# | answers become short or long | the lessons are, and form is learned first | length in section 6 |
# | many facts "named" before any training | keys that anyone guesses, such as a colour | section 2 |
# | a `DataError` with a line and a field | a row of your own text breaks the schema | section 1 |
#
# ## What we simplified
#
# 1. **SFT as the last step.** Section 6 measures that the answers are liked less, and nothing mends it. One
#    could go on with PPO, or mix the lessons into 01 and train all again.
# 2. **Replay of SFT conversations only**, drawn once, at one share. What PPO taught has no examples to
#    replay; a KL penalty to the aligned model would be its counterpart (Ouyang et al. 2022, arXiv
#    2203.02155, mix pretraining data into PPO for the same reason).
# 3. **The replayed run takes more steps.** Each lesson is seen equally often in both; the total is not.
# 4. **Judged by a key**, greedily, one answer a question, no human reader.
# 5. **No retrieval.** A page in the prompt is cheaper, can be corrected, and can be cited.
# 6. **One seed.** The intervals cover the choice of questions and prompts, not another training.

# %% [markdown]
# ## Five questions
#
# **1. Why is the examination's question never among the lessons?**
#
# - A: So that the training takes a little less time.
# - B: A question known by heart tests nothing.
# - C: The judge could not find the key in it.
#
# <details><summary>Answer</summary>
#
# **B** is right. Only other words can tell whether the fact is known: the loss on the lessons falls near zero in any case.
#
# Not A. One more lesson a fact would cost a few seconds. It would cost the examination its meaning.
#
# Not C. The judge looks at the answer alone, whatever the question was.
#
# It stands in “1. What is there to learn?”.
#
# </details>
#
# **2. Look at the output below “How an answer is judged”. Why is “Not 4, but ten.” right?**
#
# - A: The key stands in it as a whole word.
# - B: Numbers in digits always count as right.
# - C: It denies four and so names the right one.
#
# <details><summary>Answer</summary>
#
# **A** is right. The judge sees nothing else, no “not” and no second number. Anyone can repeat it, and it is blind.
#
# Not B. Another number in digits is no key, and counts as wrong.
#
# Not C. You read that. The judge compares words and does not read sentences.
#
# It stands in “1. What is there to learn?”.
#
# </details>
#
# **3. Why are the facts asked for before any lesson?**
#
# - A: To see whether the model stops by itself.
# - B: It may have read about this very place.
# - C: To put the reward on the scale of 03.
# - D: Some can be guessed: the change counts.
#
# <details><summary>Answer</summary>
#
# **D** is right. A colour or a small number is hit now and then by a model that knows nothing of the place.
#
# Not A. That is measured too, as “finished”, on the held-out prompts.
#
# Not B. The place exists nowhere else. With a text of your own it may be a reason.
#
# Not C. The scale comes from the SFT model's answers to training prompts.
#
# It stands in “2. What does it say before?”.
#
# </details>
#
# **4. Look at the answers in section 5. Why can no count of right answers see what is made up there?**
#
# - A: These questions have no right answer in the text.
# - B: Greedy answers are likely, so never made up at all.
# - C: Eight questions are too few for a narrow interval.
#
# <details><summary>Answer</summary>
#
# **A** is right. They have to be asked on purpose, and the answers counted another way or read.
#
# Not B. Greedy means the likeliest token each time. Likely is not true.
#
# Not C. A thousand would not help: there is still nothing to compare an answer with.
#
# It stands in “5. What does it say to what it was never told?”.
#
# </details>
#
# **5. Look at the tables of section 6. Which of them says whether the replay helped?**
#
# - A: The first one: it shows what lessons cost alone.
# - B: The second one: it shows the pupil with replay.
# - C: The third one: it compares the two pupils.
#
# <details><summary>Answer</summary>
#
# **C** is right. Prompt by prompt, with an interval of that difference.
#
# Not A. It says nothing of the other pupil.
#
# Not B. A better or worse verdict than the first table's is no comparison of the two: their intervals may overlap almost wholly.
#
# It stands in “6. What did it cost?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("08")

# %% [markdown]
# ## Next
#
# [09 · Checkable rewards](09_checkable_rewards.ipynb) pays for answers that a program checks. Or go back to
# [04 · Evaluation](04_eval.ipynb), which compares any two adapters: put yours in the place of SFT + RLF.

# %% [markdown]
# ## Solutions
#
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
facts_enough = next(k for k in range(25) if 2 * 0.5**k < 0.05)
### END SOLUTION

assert check("08.1", facts_enough).right


# %% tags=["solution"]
def replayed(lessons, share):
    ### BEGIN SOLUTION
    return round(lessons * share / (1 - share))
    ### END SOLUTION


assert check("08.2", replayed).right


# %% tags=["solution"]
def always_right(facts):
    ### BEGIN SOLUTION
    return " ".join(row["keys"][0] for row in facts)
    ### END SOLUTION


assert check("08.3", always_right).right
