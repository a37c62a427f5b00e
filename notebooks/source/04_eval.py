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
# **Notebook 03 made a reward rise. Here you try to disbelieve it, and keep what survives.**
#
# You will be able to
# - compare two models on the same prompts, with an interval and a rank test;
# - look for cheap explanations, and ask a judge that PPO never met;
# - say what improved, what did not, and what your test could not have seen.
#
# In our run the judge that PPO was paid by and the gold judge, which it never met, both see a gain. Benchmarks and
# properties of the texts show no difference.
#
# | measure | SFT | SFT + RLF | verdict |
# |---|---:|---:|---|
# | reward | 0.00 | 0.64 | better |
# | gold reward | 0.00 | 0.60 | better |
# | religions_mini | 0.61 | 0.61 | no difference shown |
#
# Rewards are in SFT's standard deviations; religions_mini is a quiz.
#
# Needs 01 to 03, or their shipped checkpoints. About 6 minutes on two CPU cores.

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
# **Write down three ways in which a higher mean reward could still be nothing.**
# Ours: the wrong judge (sections 2 and 5); luck (3); a cheap trick, such as longer answers (4).

# %%
import itertools, math, os, time
from functools import partial

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy import stats

from sawyer_utils import chat, data, evaluation, models, plots, show
from sawyer_utils.chapters import choices, drawings, likelihood, surface
from sawyer_utils.classroom.checks import check
from sawyer_utils.evaluation import bootstrap_interval, compare_rewards
from sawyer_utils.reward import (
    RewardModel,
    differences,
    pairs_that_fit,
    train_reward,
)

folder = runtime.run_dir(profile, "eval")
figures = folder / "figures"
started, seconds = time.perf_counter(), {}
plots.save(plots.four_stages(here="eval"), figures, "four_stages")

# %% [markdown] tags=["teaching"]
# - **What it is for.** The attitude of the notebook: first collect ways in which the gain could be
#   nothing, then look.
# - **Ask.** Put all of them on the board and tick them off as the sections deal with them.
# - **The usual wrong answer.** "The p-value is small, so it is real." It has nothing to say about
#   the judge.

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation. You are in the last.*
#
# ## 1. What do the three models say?
#
# One base in memory plays three models: with no adapter the **base**, with that of 01 **SFT**, with that of 03
# **SFT + RLF** (reinforcement learning from feedback; begun from 01's). In plain PEFT:

# %% tags=["slide", "show-code"]
from peft import PeftModel

sft_folder = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
ppo_folder = runtime.find_stage(profile, "ppo", "adapter/adapter_model.safetensors")

# AutoModelForCausalLM.from_pretrained, and two rows for SAWYER's tokens
tokenizer, base = models.load_policy(profile)
model = PeftModel.from_pretrained(base, sft_folder / "adapter", adapter_name="sft")
model.load_adapter(ppo_folder / "adapter", adapter_name="ppo")
model.eval()

question = "How do I greet someone?"
ids = torch.tensor([chat.encode_prompt(tokenizer, question)]).to(model.device)


def generate() -> str:
    """What the active model answers, the likeliest token each time."""
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=profile.response_tokens,
        do_sample=False,
        eos_token_id=chat.endings(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)


with model.disable_adapter():
    print("base:     ", generate())
for adapter, name in (("ppo", "SFT + RLF"), ("sft", "SFT")):  # SFT stays active
    model.set_adapter(adapter)
    print(f"{name + ':':<11}{generate()}")

# %% [markdown]
# Helpers do the same in batches. Whoever picks questions after seeing the answers can prove anything: five were
# fixed before any training (`data.FIXED_PROMPTS`), for greedy answers. Held-out test prompts are **sampled** as in
# training: twice by SFT and SFT + RLF, once by the base. **Predict first:** which model stops by itself?

# %%
NAME = {stage: plots.STAGES[stage][0] for stage in ("base", "sft", "ppo")}
fixed = list(data.FIXED_PROMPTS)
rows = chat.that_fit(
    tokenizer, data.load_prompts("test", profile.prompts), profile.prompt_tokens
)
prompts = list(dict.fromkeys(row["prompt"] for row in rows))  # each once
prompts = data.spread(prompts, profile.eval_prompts)  # over all topics
assert not set(prompts) & set(fixed)

greedy, rounds = {}, {}
with runtime.stopwatch(seconds, "sampling"):
    for stage in NAME:
        with models.using(model, stage):
            ask = partial(evaluation.answer, model, tokenizer, profile=profile)
            greedy[stage] = ask(fixed, temperature=0.0)
            seeds = (0,) if stage == "base" else (0, 1)
            rounds[stage] = [ask(prompts, seed=seed) for seed in seeds]


def joined(name: str) -> dict[str, list]:
    """Of each model, all first answers, then all second ones."""
    return {s: [v for a in r for v in getattr(a, name)] for s, r in rounds.items()}


texts, lengths, finished = map(joined, ("responses", "lengths", "finished"))
groups = prompts * 2  # the prompt of each answer

# %% tags=["slide"]
order = [1, 0, 3, 2, 4]  # the first three are drawn large
asked = [fixed[i] for i in order]
shown = {stage: [greedy[stage].responses[i] for i in order] for stage in NAME}
for stage in NAME:
    ended = np.mean(greedy[stage].finished)
    print(f"{NAME[stage]:>9}: {ended:.0%} of these answers end by themselves")
plots.save(
    drawings.three_answers(asked, shown),
    figures,
    "three_answers",
    [{"prompt": p, **{s: shown[s][i] for s in NAME}} for i, p in enumerate(asked)],
)

# %% [markdown]
# *Five rows of three boxes, the first three large: to each fixed question the answers of base, SFT and SFT + RLF.
# “…”: cut.*
#
# In our run the base is a chat model that was never shown our tokens, and it rambles. From there to SFT is the large
# step, which needs no statistics. The president is a question of fact, and neither stage teaches facts.
#
# ## 2. Is it better, by two judges?
#
# PPO was paid by the first judge. It never met the second, a **[gold](../docs/glossary.md#gold-reward-model)** judge
# (Gao et al. 2022, arXiv 2210.10760), trained as in 02 on *other* preferences.
#
# Both are read in **one unit**: SFT's answers have mean 0 and standard deviation 1. Each answer of SFT + RLF is held
# against SFT's to the same prompt, a [paired comparison](../docs/glossary.md#paired-comparison). **Predict first:**
# will the gold judge like it as much?

# %%
gold_rows = pairs_that_fit(profile, data.load_gold(profile.gold, profile.limit))
gold_rows = [row for row in gold_rows if row["prompt"] not in prompts]
gold_train, gold_held = data.split_rows(gold_rows, 0.2)
gold_folder = runtime.run_dir(profile, "gold")
lessons = data.pairs(gold_train) + data.strangers(gold_train)
with runtime.stopwatch(seconds, "gold"):
    train_reward(RewardModel.untrained(profile, seed=1), profile, lessons, gold_folder)
reward_folder = runtime.find_stage(
    profile, "reward", "model/adapter_model.safetensors"
)
judges = {
    "first judge": RewardModel.load(reward_folder / "model"),
    "gold judge": RewardModel.load(gold_folder / "model"),
}

# %% tags=["slide"]
raw = {judge: {} for judge in judges}  # judge -> stage -> one number an answer
for stage, answers in texts.items():
    for judge, its in judges.items():
        found = its.score(prompts * len(rounds[stage]), answers)
        raw[judge][stage] = np.array(found)
scores, gain, wins = {}, {}, {}
for judge, of in raw.items():
    centre, unit = of["sft"].mean(), of["sft"].std(ddof=1) or 1.0
    scores[judge] = of = {s: (values - centre) / unit for s, values in of.items()}
    gain[judge] = g = compare_rewards(of["sft"], of["ppo"], groups)
    wins[judge] = evaluation.win_rate(of["sft"], of["ppo"], groups)
    w = "{:.0%} [{:.0%}, {:.0%}]".format(*wins[judge])
    said = f"{g.difference:+.2f} [{g.low:+.2f}, {g.high:+.2f}]: {g.verdict}"
    print(f"{judge:>11}: {said}")
    print(f"{'':>13}Wilcoxon p = {g.wilcoxon_p:.2g}; SFT + RLF wins {w}")
first, gold = scores.values()
change = (first["ppo"] - first["sft"]).reshape(2, -1)  # (2 samples, prompts)
per_prompt = change.mean(0)
g = gain["first judge"]
print(f"{g.share_worse:.0%} of the {g.n} prompts fell by the first judge.")
print(f"spread of the answers 1 → {g.after_std:.2f}, p = {g.levene_p:.2g}")
assert math.isclose(per_prompt.mean(), g.difference, abs_tol=1e-9)
shown = {stage: first[stage] for stage in ("sft", "ppo")}
figure = plots.reward_histograms(shown, "reward (standard deviations of SFT's)")
plots.save(figure, figures, "reward_histograms", shown)

# %% [markdown]
# *Two overlapping histograms of the first judge's scores, SFT and SFT + RLF, with a line at each mean.*
#
# In our run the gain is 0.64 by the first judge and 0.60 by the gold judge, which prefers SFT + RLF in 0.73 of
# the pairs: nearly all of it carries over.
#
# **One rule** gives the verdicts: *better* or *worse* where the 95 % interval leaves out zero **and** a test (here
# section 3's rank test) has p < 0.05; otherwise *[no difference shown](../docs/glossary.md#no-difference-shown)*. The
# [win rate](../docs/glossary.md#win-rate) asks how often, not by how much.
#
# [Goodhart's law](../docs/glossary.md#goodharts-law): what is optimised stops being a fair measure. A gain by the first
# judge alone would not convince.
#
# The best, the median and the worst change:

# %% tags=["slide"]
order = np.argsort(change[0])  # of the first answers
three = [int(order[i]) for i in (-1, len(order) // 2, 0)]
notes = {NAME[s]: [f"score {first[s][i]:+.2f}" for i in three] for s in NAME}
answers = {NAME[s]: [texts[s][i] for i in three] for s in NAME}
display(show.side_by_side([prompts[i] for i in three], answers, notes))
lucky = int(np.argmax(first["base"]))
beaten = np.mean(first["sft"] < first["base"][lucky])
print(f"The base's best answer scores above {beaten:.0%} of SFT's: it reads")
print(repr(texts["base"][lucky]))

# %% [markdown]
# Is the last row worse? If not, the judge is wrong there. Is the base's best text an answer? No judge was trained on
# such texts: read what scores high.
#
# ## 3. Could it be luck?
#
# Other prompts would have given another mean. The **[bootstrap](../docs/glossary.md#bootstrap)** asks how different:
# draw as many prompts, with replacement, and take the mean again.

# %% tags=["nbval-check-output", "slide"]
toy = np.array([2.0, 1.0, 0.9, 0.5, -0.4])  # after − before of five prompts
every_draw = np.array(list(itertools.product(toy, repeat=5)))  # (5 ** 5, 5)
low, high = np.quantile(every_draw.mean(1), [0.025, 0.975])
print(f"{len(every_draw)} draws; mean {toy.mean():.2f}; 95 %: {low:.2f} to {high:.2f}")

# Wilcoxon: rank the changes by size, add up the ranks of the negative ones.
ranks = np.argsort(np.argsort(np.abs(toy))) + 1
minus = ranks[toy < 0].sum()
# If nothing had changed, each sign would be a coin toss: 2 ** 5 equally likely cases.
every_sign = np.array(list(itertools.product([0, 1], repeat=5)))  # (2 ** 5, 5)
p = 2 * np.mean(every_sign @ ranks <= minus)
print(f"ranks {ranks}, sum of the negative ones {minus}: p = {p:.4f}")
assert math.isclose(p, stats.wilcoxon(toy).pvalue)

# %% [markdown] tags=["teaching"]
# - **What it is for.** What an interval is, by listing every draw, before a function gives one.
# - **Ask.** Five prompts, four rose. Are you convinced? How many would you want?
# - **The usual wrong answer.** "The interval leaves out zero, so yes." With five prompts it is too
#   narrow, and the rank test cannot say so at all.

# %% [markdown]
# The interval leaves out zero, and the rank test ([Wilcoxon](../docs/glossary.md#wilcoxon-signed-rank-test)) is not
# convinced: with five prompts its [p-value](../docs/glossary.md#p-value) cannot go below 0.0625. So the rule asks both.
#
# Now ours. Two answers to one prompt are not independent, so whole prompts are drawn. **Predict first:** how
# much narrower is the interval of all prompts than that of ten?

# %%
rng = np.random.default_rng(1)
by_hand = rng.choice(per_prompt, (10_000, len(per_prompt))).mean(1)
low, high = np.quantile(by_hand, [0.025, 0.975])
print(f"by hand        {low:+.2f} to {high:+.2f}")
whole = compare_rewards(first["sft"], first["ppo"], groups)
for n in (min(10, len(prompts)), len(prompts)):
    low, high = bootstrap_interval(per_prompt[:n])
    print(f"{n:>4} prompts   {low:+.2f} to {high:+.2f}, width {high - low:.2f}")
assert np.allclose((whole.low, whole.high), (low, high), atol=0.5 * by_hand.std())
print(f"This many prompts would have shown a change of {whole.detectable:.2f} or more.")
for judge, found in gain.items():
    print(f"effect size by the {judge} {found.effect_size:+.2f}")

# %% [markdown]
# The [effect size](../docs/glossary.md#effect-size) is the mean change in standard deviations *of the change*. The
# spread of section 2 was tested by [Levene's test](../docs/glossary.md#levenes-test). Twelve times the prompts narrow
# an interval about √12 = 3.5 times; ten estimate their own spread badly. All this is about one trained model; in
# our run the median of 03's five seeds.
#
# ## 4. Is it just longer?
#
# A judge may like longer answers (02). So fit a line to change of reward against change of length, and read it at no
# change of length.

# %% tags=["slide"]
mean = {s: np.reshape(lengths[s], (2, -1)).mean(0) for s in ("sft", "ppo")}
matched = {}
for judge, of in scores.items():
    mine = [of[stage].reshape(2, -1).mean(0) for stage in ("sft", "ppo")]
    matched[judge] = m = evaluation.length_matched(*mine, mean["sft"], mean["ppo"])
    said = evaluation.verdict(m.adjusted_low, m.adjusted_high)
    print(f"{judge:>11}: gain {gain[judge].difference:+.2f}; at equal length", end=" ")
    print(f"{m.adjusted:+.2f} [{m.adjusted_low:+.2f}, {m.adjusted_high:+.2f}]: {said}")
m, longer = matched["first judge"], mean["ppo"] - mean["sft"]
print(f"mean length {mean['sft'].mean():.1f} → {mean['ppo'].mean():.1f} tokens")
by_length = per_prompt.mean() - m.adjusted
print(f"Length accounts for {by_length:+.2f} of the gain.")
plots.save(
    drawings.change_against_length(longer, per_prompt, m.slope, m.adjusted),
    figures,
    "change_against_length",
    {"longer": longer, "change": per_prompt},
)

# %% [markdown]
# *A point a prompt, change of length across and change of reward up, a fitted dashed line, and a diamond at no
# change of length.*
#
# In our run the gain at equal length is 0.63 by the first judge and 0.60 by the gold judge: length explains next
# to nothing.
#
# ## 5. What did PPO never see?
#
# PPO was paid the first judge's score, less a price for distance from SFT and a fine (not drawn) for endless answers.
# Any other measure can be a witness. The judges are tested, too: on held-out pairs of both sets, beside a judge that
# sees only the surface of a text (02).

# %%
first_rows = data.load_preferences(profile.preferences, profile.limit)
first_train, first_held = data.split_rows(pairs_that_fit(profile, first_rows), 0.2)
sets = {"first": (first_train, first_held), "gold": (gold_train, gold_held)}
trial = {}  # (judge, whose pairs) -> share right, low, high
for whose, (learn, held) in sets.items():
    exam = data.pairs(held)
    its = {judge: differences(by, exam) for judge, by in judges.items()}
    its["the surface"] = surface.surface(learn, exam)
    for judge, gaps in its.items():
        found = evaluation.share_right(gaps, [pair.id for pair in exam])  # a tie: half
        trial[f"{judge} on {whose}"] = found
        shown = "{:.3f} [{:.3f}, {:.3f}]".format(*found)
        print(f"{judge:>11} on the held-out pairs of the {whose:<5} set: {shown}")
plots.save(plots.rl_loop(), figures, "rl_loop")

# %% [markdown]
# *A prompt goes to the policy, its answer to the reward model, score and distance from the frozen SFT copy to the
# PPO update, which changes the policy.*
#
# Only what a judge gets right beyond "the surface" can come from reading.
#
# In our run the first judge is right on 0.735 of the gold set's pairs, the gold judge itself on 0.670: “gold” means
# that PPO never met it, not that it judges better.
#
# Both judges stand on the same frozen models: what these cannot see (facts, above all), neither sees.
#
# Witnesses that need no training:
# - **[repetition](../docs/glossary.md#repetition)**: three-word runs that a text has said before;
# - **[distinct-2](../docs/glossary.md#distinct-2)**: different word pairs, as a share of all pairs in *all*
#   answers;
# - **[similarity](../docs/glossary.md#similarity)** of answer and question; an echo has 1, so more is better only
#   within reason;
# - **surprise of the base**, the log of its [perplexity](../docs/glossary.md#perplexity): high for word salad, low for
#   the blandest phrase, and no side is good;
# - **share finished**: half a witness, for there is a fine.

# %%
similarity = evaluation.Similarity(profile.encoder)
precision = runtime.choose_precision(profile.precision)
autocast = precision.compute if precision.autocast else None
near, surprised, distance = {}, {}, {}
plain = [choices.PLAIN.format(question=prompt) for prompt in prompts]
for stage in NAME:
    near[stage] = similarity(prompts * len(rounds[stage]), texts[stage])
    said = [f" {text}\n" for text in rounds[stage][0].responses]  # never empty
    with models.using(model, "base"):
        requests = list(zip(plain, said))
        nats = likelihood.loglikelihoods(model, tokenizer, requests, compute=autocast)
    sizes = [len(tokenizer(t, add_special_tokens=False).input_ids) for t in said]
    surprised[stage] = -np.array(nats) / np.array(sizes)
with runtime.stopwatch(seconds, "kl"):
    for stage, before in (("sft", "base"), ("ppo", "sft")):
        with models.using(model, stage):
            one = rounds[stage][0]
            distance[stage] = evaluation.kl_to_reference(
                model, one, before, precision.compute
            )
print(f"KL of SFT to the base {np.mean(distance['sft']):.1f} nats an answer,")
print(f"of SFT + RLF to SFT   {np.mean(distance['ppo']):.1f}")
echo = similarity(prompts[:1], prompts[:1])[0]
print(f"A question echoed back has a similarity of {echo:.2f}.")

# %%
repeats = {s: list(map(evaluation.repetition, texts[s])) for s in NAME}
measures = {  # name: (is higher better? None: neither, {stage: a number an answer})
    "reward": (True, first),
    "gold reward": (True, gold),
    "similarity to the question": (True, near),
    "repetition": (False, repeats),
    "share finished": (True, finished),
    "length (tokens)": (None, lengths),
    "surprise of the base (nats a token)": (None, surprised),
}
means = {m: [np.mean(each[s]) for s in NAME] for m, (_, each) in measures.items()}
means["distinct-2"] = [evaluation.distinct_n(rounds[s][0].responses) for s in NAME]
means = pd.DataFrame(means, index=NAME.values()).T
assert means.notna().all(axis=None)
means.round(3).replace(-0.0, 0.0)

# %% [markdown]
# The [KL](../docs/glossary.md#kl-divergence) is how far each stage moved the model; only PPO was fined for it.
#
# ## 6. Is it cleverer?
#
# Two small [benchmarks](../docs/glossary.md#benchmark), which language models wrote: common
# misconceptions and world religions. (`SAWYER_QUESTIONS` adds yours.) The choice that the
# model finds likeliest wins. **Predict first:** does PPO change the accuracy?

# %%
own = os.environ.get("SAWYER_QUESTIONS")
questions = {}
for source in [*profile.benchmarks, *([own] if own else [])]:
    asked = choices.load_questions(source, profile.eval_questions)
    name = os.path.basename(source).removesuffix(".jsonl")
    questions[name] = [row for row in asked if "label" in row]  # one right choice
last = list(questions)[-1]
correct = {}  # (benchmark, stage) -> (questions,) of True and False
score = partial(choices.score_choices, model, tokenizer, compute=autocast)
with runtime.stopwatch(seconds, "benchmarks"):
    for stage in NAME:
        with models.using(model, stage):
            for name, asked in questions.items():
                found = score(asked)
                correct[name, stage] = found.correct.to_numpy()
print(questions[last][0]["question"])
for nats, choice in zip(found.logliks[0], questions[last][0]["choices"]):
    print(f"  {nats:7.2f} nats  {choice}")

# %% tags=["slide"]
bars = []
for (name, stage), right in correct.items():
    low, high = evaluation.wilson_interval(right.sum(), len(right))
    bar = {"benchmark": name, "stage": stage, "accuracy": right.mean()}
    bar |= {"low": low, "high": high, "n": len(right)}
    chance = np.mean([1 / len(q["choices"]) for q in questions[name]])
    bars.append(bar | {"chance": chance})
bars = pd.DataFrame(bars).sort_values("benchmark", kind="stable", ascending=False)
for bar in bars.itertuples():
    found = f"{bar.accuracy:.3f} [{bar.low:.3f}, {bar.high:.3f}]"
    against = "above chance" if bar.low > bar.chance else "not shown to be above chance"
    print(f"{bar.benchmark:>15} {NAME[bar.stage]:>9} {found} {against}")
plots.save(drawings.benchmark_bars(bars), figures, "benchmark_bars", bars)

# %% [markdown]
# *For each benchmark three bars (base, SFT, SFT + RLF) with intervals and a dashed line at chance.*
#
# In our run SFT and SFT + RLF are both right on 0.61 of the religions and 0.25 of the misconceptions (chance:
# 0.24). At chance, the misconceptions can hardly show a loss.
#
# Overlapping whiskers say nothing: the models answered the *same* questions.
# **[McNemar's test](../docs/glossary.md#mcnemars-test)** takes the questions that exactly one of the two got right:
# could a coin have divided them so unevenly?

# %% tags=["nbval-check-output"]
only_a, only_b = 3, 9  # 12 questions on which two models disagree
p = 2 * sum(math.comb(12, i) for i in range(only_a + 1)) / 2**12
print(f"3 against 9: p = {p:.3f}")
a = np.array([True] * 3 + [False] * 9 + [True] * 98)
b = np.array([False] * 3 + [True] * 9 + [True] * 98)
print(f"accuracy {a.mean():.3f} and {b.mean():.3f}: {b.mean() - a.mean():+.3f}")
assert math.isclose(p, evaluation.mcnemar_p(a, b))


# %%
def compare_shares(a, b) -> dict:
    """Two shares of the same items: difference, interval, p, and a verdict by both."""
    difference, low, high = evaluation.paired_shares_interval(a, b)
    p, said = evaluation.mcnemar_p(a, b), evaluation.verdict(low, high)
    found = {"difference": difference, "low": low, "high": high, "mcnemar_p": p}
    found["verdict"] = said if p < 0.05 else "no difference shown"
    found["detectable"] = evaluation.detectable_difference(len(a), np.mean(a != b))
    return found


shares = []
for name in questions:
    for before, after in (("base", "sft"), ("sft", "ppo")):
        step = {"benchmark": name, "from": NAME[before], "to": NAME[after]}
        pair = correct[name, before], correct[name, after]
        shares.append(step | compare_shares(*pair))
pd.DataFrame(shares).round(3)

# %% [markdown] tags=["slide"]
# Such five points on 110 questions come up by chance one time in seven. **How to say it:** *no difference shown*, and
# not "knowledge is preserved". `detectable` is the smallest true difference that so many questions show in four runs of
# five.
#
# A model can also *write* the letter of its choice. **Predict first:** higher or lower than by
# [likelihood](../docs/glossary.md#likelihood)?

# %% [markdown] tags=["teaching"]
# - **What it is for.** The one sentence that the class should take home.
# - **Ask.** What is wrong with "PPO preserved the knowledge of the model (p = 0.6)"?
# - **The usual wrong answer.** "No difference shown means no difference." With few questions nearly
#   everything goes unseen: say what you could have seen.

# %%
letters, readable = [], {}
with runtime.stopwatch(seconds, "letters"):
    for name, asked in questions.items():
        wrote = {}
        for stage in ("sft", "ppo"):
            with models.using(model, stage):
                found = choices.ask_for_letter(model, tokenizer, asked[::2])
            row = {"benchmark": name, "stage": NAME[stage], "n": len(found)}
            row["by likelihood"] = correct[name, stage][::2].mean()
            row["by letter"] = found.correct.mean()
            letters.append(row | {"unreadable": (~found.readable).mean()})
            wrote[stage] = found.readable.to_numpy()
        readable[name] = compare_shares(wrote["sft"], wrote["ppo"])
        readable[name] |= {stage: float(share.mean()) for stage, share in wrote.items()}
print("SFT + RLF wrote, for example:", *map(repr, found.answer[:3]))
pd.DataFrame(letters).round(3)

# %% [markdown]
# In our run it is lower, for unreadable answers count as wrong: state how you asked.
#
# ## 7. Is PPO worth more than sampling more?
#
# The rival: sample n answers of SFT and keep the one that the first judge likes best
# (**[best of n](../docs/glossary.md#best-of-n)**). No training, but n times the work at every question. Its KL to SFT
# is at most log n − (n − 1)/n nats. **Predict first:** which n is as good as PPO?

# %% tags=["slide"]
N, few = 8, prompts[::3]
with runtime.stopwatch(seconds, "best of n"), models.using(model, "sft"):
    many = evaluation.answer(model, tokenizer, few, profile, seed=2, samples=N)
rows = np.arange(len(prompts))[::3]
grid, ppo, at = {}, {}, {}  # of each judge: (P, N) SFT, (P,) SFT + RLF, SFT's mean
for judge, by in judges.items():
    unit = raw[judge]["sft"].std(ddof=1) or 1.0
    its = np.array(by.score(many.prompts, many.responses)) - raw[judge]["sft"].mean()
    grid[judge] = its.reshape(-1, N) / unit
    ppo[judge] = scores[judge]["ppo"].reshape(2, -1).mean(0)[rows]
    at[judge] = grid[judge].mean(1)
best = []
for n in (1, 2, 4, N, "PPO"):
    kl = np.mean(distance["ppo"]) if n == "PPO" else evaluation.best_of_n_kl(n)
    row = {"n": n, "kl": kl}
    for judge in judges:  # chosen by the first judge, graded by each
        drawn = (grid["first judge"], n, grid[judge])
        value = ppo[judge] if n == "PPO" else evaluation.best_of_n(*drawn)
        low, high = bootstrap_interval(value - at[judge])
        row |= {judge: (value - at[judge]).mean(), f"{judge}_low": low}
        row[f"{judge}_high"] = high
    best.append(row)
table = pd.DataFrame(best)
best, path = table[:-1], table[-1:].rename(columns={"n": "step"})
table.round(2).replace(-0.0, 0.0)

# %% tags=["slide"]
titles = {
    "first judge": "the judge both aim at",
    "gold judge": "the judge neither knows",
}
for judge in judges:
    mine = float(path[judge].iloc[0])
    enough = best.n[best[judge] >= float(path[f"{judge}_low"].iloc[0])]
    enough = f"best of {enough.iloc[0]}" if len(enough) else f"more than {N} samples"
    print(f"{judge:>11}: PPO's {mine:+.2f}; the first n inside its interval: {enough}")
figure = drawings.frontier(best, path, titles)
plots.save(figure, figures, "frontier", table)

# %% [markdown] tags=["teaching"]
# - **What it is for.** A method is only as good as its laziest rival.
# - **Ask.** You answer a million questions a day. When is training cheaper than sampling eight
#   answers each?
# - **The usual wrong answer.** "PPO gains more, so it is better." At which price: look at the KL
#   and at the samples per question.

# %% [markdown]
# *Two panels with one scale, gain over SFT against KL. Dashed: best of n, each point with its n; the single point:
# PPO.*
#
# In our run the best of 8 gains 0.97 by the first judge and 0.70 by the gold judge, for 1.20 nats; PPO gains 0.72
# and 0.69 (on these 40 prompts), for 7.50 nats. The best of 4 (0.71 and 0.56) lies in PPO's
# intervals. Choosing changes only *which* answer is shown; PPO pays once, in training.
#
# ## 8. What improved, what did not, what got worse?
#
# The table that you would sign: **all** measures, one rule. **changed** is for measures without a good side.
# (Benchmarks and letters: McNemar's test. Win rate: the sign test. At equal length, for distinct-2 and the KL: the
# interval alone; a KL is never below zero.)

# %%
def cut_alike(before, after):
    """Both texts of each pair, cut to the shorter one's number of words."""
    pairs = [(a.split(), b.split()) for a, b in zip(before, after, strict=True)]
    kept = [(a[: len(b)], b[: len(a)]) for a, b in pairs]
    return [" ".join(a) for a, _ in kept], [" ".join(b) for _, b in kept]


def verdict_table(before: str, after: str) -> pd.DataFrame:
    """One row a measure for the step from one stage to the next."""
    rows = []

    def add(measure, a, b, interval, found, scale=None):
        rows.append([measure, *map(float, (a, b, *interval)), found, scale])

    for measure, (better, values) in measures.items():
        n = min(len(values[before]), len(values[after]))  # the base answered once
        a, b = (np.asarray(values[s][:n], dtype=float) for s in (before, after))
        one = compare_rewards(a, b, groups[:n])
        interval = one.difference, one.low, one.high
        found = one.verdict_if(better)
        add(measure, a.mean(), b.mean(), interval, found, one.before_std or 1.0)
    alike = cut_alike(*(rounds[s][0].responses for s in (before, after)))
    a, b = map(evaluation.distinct_n, alike)
    *interval, scale = evaluation.jackknife_difference(*alike, evaluation.distinct_n)
    said = evaluation.verdict(*interval[1:])
    add("distinct-2 (equal length)", a, b, interval, said, scale or 1.0)
    kl = distance[after]
    interval = np.mean(kl), *bootstrap_interval(kl)
    said = evaluation.verdict(*interval[1:], None)
    add("KL to the stage before (nats)", 0, np.mean(kl), interval, said)
    for name in questions:
        a, b = (correct[name, stage] for stage in (before, after))
        one = compare_shares(a, b)
        interval = one["difference"], one["low"], one["high"]
        scale = float(a.std(ddof=1)) or 1.0
        add(name, a.mean(), b.mean(), interval, one["verdict"], scale)
    names = ["measure", "before", "after", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "verdict", "scale"])


# %%
more = []
for name, judge in (("reward", "first judge"), ("gold reward", "gold judge")):
    m = matched[judge]
    ends = m.adjusted, m.adjusted_low, m.adjusted_high
    said = evaluation.verdict(*ends[1:])
    more.append([f"{name} at equal length", 0.0, m.adjusted, *ends, said, 1.0])
share, low, high = wins["gold judge"]
said = evaluation.verdict(low - 0.5, high - 0.5)
if gain["gold judge"].sign_p >= 0.05:  # its test by ranks: as many rise as fall
    said = "no difference shown"
ends = share - 0.5, low - 0.5, high - 0.5  # against a coin
more.append(["win rate by the gold judge", 0.5, share, *ends, said, 0.5])
for name, r in readable.items():
    ends = r["difference"], r["low"], r["high"]
    unit = math.sqrt(r["sft"] * (1 - r["sft"])) or 1.0
    row = [f"readable letters ({name})", r["sft"], r["ppo"], *ends, r["verdict"], unit]
    more.append(row)
verdicts = verdict_table("sft", "ppo")
parts = [verdicts[:2], pd.DataFrame(more, columns=verdicts.columns), verdicts[2:]]
verdicts = pd.concat(parts, ignore_index=True)
drawn = drawings.differences(verdicts.dropna(subset="scale"))
display(plots.save(drawn, figures, "differences", verdicts))
named = {"before": NAME["sft"], "after": NAME["ppo"]}
shown = verdicts.drop(columns="scale").rename(columns=named)
display(shown.round(3).replace(-0.0, 0.0))

# %% [markdown]
# *One line a measure, the difference of SFT + RLF from SFT in standard deviations with its interval; colour and
# marker give the verdict. KL is left out. Of repetition, left of zero is the good side.*
#
# In our run *better* stands in five rows of two judges, three of them the gold judge's, and *worse* nowhere.
#
# **Predict first:** which of the two stages changed more?

# %% tags=["slide"]
def plainly(table: pd.DataFrame) -> dict[str, int]:
    """Print the measures under each verdict; returns how many there are."""
    counts = {}
    for found in ("better", "worse", "changed", "no difference shown"):
        names = list(table.measure[table.verdict == found])
        counts[found] = len(names)
        print(f"  {found}: {', '.join(names) or 'nothing'}")
    return counts


print("base → SFT")
sft_verdicts = verdict_table("base", "sft")
plainly(sft_verdicts)
print("SFT → SFT + RLF")
counts = plainly(verdicts)
rest = ("reward", "KL", "length", "share")  # what PPO was paid or fined for
unseen = verdicts[~verdicts.measure.str.startswith(rest)]
got = {found: unseen[unseen.verdict == found] for found in ("better", "worse")}
by_gold = got["better"].measure.str.contains("gold").sum()
print("Of what PPO was neither paid nor fined for,")
print(f"{len(got['better'])} got better, {by_gold} of them the gold judge's.")
print(f"{len(got['worse'])} got worse.")
tested = len(verdicts) - verdicts.measure.str.startswith("KL").sum()
print(f"Of {tested} rows up to {0.05 * tested:.1f} would move by luck alone.")

# %% tags=["slide"]
kl = {stage: float(np.mean(nats)) for stage, nats in distance.items()}
said = {
    "Data": f"01: written answers\n02: scored answers\nto {len(first_rows)} questions",
    "Training": "01 copies, 03 searches:\n"
    + f"{profile.ppo_steps} steps, {kl['ppo']:.1f} nats",
    "Evaluation": "{better} better, {worse} worse,\n".format(**counts)
    + f"{counts['changed']} changed,\n"
    + f"{counts['no difference shown']} not shown to differ",
}
display(plots.save(drawings.three_elements(said), figures, "three_elements"))
seconds["all"] = time.perf_counter() - started
stages = {"before": "sft", "after": "ppo"}
greeted = {stage: greedy[stage].responses[1] for stage in NAME}
runtime.record(
    profile,
    "eval",
    n=len(prompts),
    reward=gain["first judge"].as_dict(),
    gold=gain["gold judge"].as_dict(),
    gold_verdict=gain["gold judge"].verdict,
    gold_win_rate=wins["gold judge"],
    verdicts=verdicts.rename(columns=stages).drop(columns="scale").to_dict("records"),
    verdicts_base_to_sft=sft_verdicts.drop(columns="scale").to_dict("records"),
    judges_on_trial=trial,
    kl=kl,
    benchmarks=bars.to_dict("records"),
    benchmark_changes=shares,
    by_letter=letters,
    best_of_n=best.to_dict("records"),
    frontier=path.to_dict("records"),
    three_answers={"prompt": fixed[1], **greeted},
    seconds=seconds,
)
print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
print(f"peak memory {runtime.record_peak(profile, 'eval'):.1f} GiB")

# %% [markdown]
# *Three boxes: Data (01, 02), Training (01 to 03), Evaluation (04), with what each held in this run.*
#
# A failure in one box cannot be mended in another. "Better" is better by the taste in the data.
#
# ## 9. What do you say?
#
# All three models answer from one seed. (In bfloat16 a greedy answer can change with its batch.) **Blind vote** hides
# names and rewards until you have voted. Votes go into `votes.jsonl` in this run's folder, without the voter. The
# second cell counts all that you put there (`votes-1.jsonl`, …), with
# [Krippendorff's alpha](../docs/glossary.md#krippendorffs-alpha): how far voters agree beyond chance.

# %%
from sawyer_utils.classroom import talk, votes, widgets

adapters = {stage: stage for stage in NAME}
score = judges["first judge"].score
chat_with = talk.Talk(model, tokenizer, profile, adapters, reward=score)
display(widgets.Chat(chat_with, folder, ballots=folder / "votes.jsonl"))
few_tokens = min(40, profile.response_tokens)
poetry = ["What are your opinions on poetry?"]
widgets.compare(chat_with, poetry, temperature=0.0, tokens=few_tokens)

# %%
cast = votes.merge_votes(sorted(folder.parent.glob("*/votes*.jsonl")))  # 02's, too
voted = [p for p in votes.pairs(cast) if set(p.kinds) == {"sft", "ppo"}]
print(votes.agreement(cast))
if voted:
    won = [float(pair.kinds[0] == "ppo") for pair in voted]
    low, high = evaluation.share_interval(won, [pair.id for pair in voted])
    said = f"{np.mean(won):.0%} of {len(won)} votes [{low:.0%}, {high:.0%}]"
    print(f"SFT + RLF wins {said}")
print("by the gold judge it wins {:.0%} [{:.0%}, {:.0%}]".format(*wins["gold judge"]))

# %% [markdown] tags=["slide"]
# ## The last doubt: aligned, but to what end?
#
# If all of it holds, the model is closer to a set of preferences. Whose? Both sets were
# written and scored by language models; no person rated them. `sawyer_utils/corpus/DATACARD.md` says what they
# leave out. No interval covers that.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The end is a question and no number. Ten minutes, without the screen.
# - **Ask.** Whose preferences are in the data? Who did not write any?
# - **The usual wrong answer.** "The intervals are fine, so it is aligned." No interval here covers
#   what nobody thought of asking.

# %% [markdown]
# ## Exercises
#
# Replace `None` and run the cell: `check` says what it sees, with one hint at a time.
#
# ### 04.1 Predict the number: a placebo
#
# SFT answers section 7's prompts twice, and the first judge scores both. About how many second answers score lower,
# and what verdict does our rule give?

# %% tags=["exercise"]
### BEGIN SOLUTION
fallen = None
placebo_verdict = None
### END SOLUTION

check("04.1", (fallen, placebo_verdict))

# %% [markdown]
# ### 04.2 Write this function: how many prompts would have been enough?
# How many prompts show a true effect of this size (section 3) in four experiments of five, by a two-sided test at 5 %?


# %% tags=["exercise"]
def prompts_needed(effect_size):
    """A number of prompts, to show this effect in 80 % of all experiments."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("04.2", prompts_needed)

# %% [markdown]
# ### 04.3 Break it and diagnose: the auditor
# Somebody hands you `interval(before, after)`, for arrays (P, S) of P prompts and S samples, as a paired 95 %
# interval of the mean change over prompts. Call it on data of which you know the answer: is it sound, or has it
# one of four faults?
#
# - "wrong sign": before − after;
# - "wrong tail": 5 % outside on *each* side;
# - "unpaired": it draws the two sides separately;
# - "samples as prompts": P · S values count as so many prompts.


# %% tags=["exercise"]
def audit(interval):
    """One of sound, wrong sign, wrong tail, unpaired, samples as prompts."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("04.3", audit)

# %% [markdown]
# ### An open question: catch a cheat
#
# Write a shameful answer that the first judge prefers to SFT + RLF's. Which measure of section 5 gives it away?
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | reward up, gold reward flat | the gain is for the first judge alone | section 2 |
# | reward up, distinct-2 down | one answer for everybody | section 8 |
# | KL to SFT in the tens of nats | β too low | section 5 |
#
# ## What we simplified
#
# 1. **Two samples a prompt** (Miller 2024, arXiv 2411.00640), **one training seed** (Henderson et al. 2018, arXiv
#    1709.06560).
# 2. **A gold judge like the first.** Gao et al. use a much larger one.
# 3. **Small benchmarks**, scored as lm-eval's `acc`, which favours short choices.
# 4. **Many rows, no correction.** At 95 % up to one in twenty moves by luck.

# %% [markdown]
# ## Five questions
#
# **1. In the output of section 2, which verdict is the better evidence of a gain?**
#
# - A: The first judge's: it has the larger number.
# - B: The gold judge's: PPO was not paid by it.
# - C: The mean of the two: each sees one half.
#
# <details><summary>Answer</summary>
#
# **B** is right. No answer was trained to please it.
#
# Not A. A cheat would raise that number, too.
#
# Not C. Half of it would be optimised still.
#
# It stands in “2. Is it better, by two judges?”.
#
# </details>
#
# **2. Interval and rank test both speak for a gain. What has been shown?**
#
# - A: That PPO raises the score, whatever the training seed.
# - B: That people who read both answers prefer the new one.
# - C: That by this judge this model's answers score higher.
#
# <details><summary>Answer</summary>
#
# **C** is right. This model, this judge, such prompts: no more.
#
# Not A. Prompts were drawn again, not the training.
#
# Not B. One judge scored; no person was asked.
#
# It stands in “3. Could it be luck?”.
#
# </details>
#
# **3. Two bars of a benchmark have overlapping whiskers. Is there a difference?**
#
# - A: Ask of the questions on which the two disagree.
# - B: No: two intervals that overlap are no difference.
# - C: Yes, if the bars are five points apart or more.
#
# <details><summary>Answer</summary>
#
# **A** is right. McNemar's test holds their counts against a coin.
#
# Not B. Both models share the luck of the questions.
#
# Not C. 3 against 9 make five points: coins do that.
#
# It stands in “6. Is it cleverer?”.
#
# </details>
#
# **4. What is wrong with “PPO preserved the model's knowledge (p = 0.6)”?**
#
# - A: For that the p has to be above 0.95, and not 0.6.
# - B: A large p shows nothing: say what gap would.
# - C: Nothing, if the benchmark is about knowledge.
#
# <details><summary>Answer</summary>
#
# **B** is right. The column `detectable` says which.
#
# Not A. No p proves that two things are equal.
#
# Not C. A test that finds nothing shows nothing.
#
# It stands in “6. Is it cleverer?”.
#
# </details>
#
# **5. In section 7's table PPO's KL is far above that of the best of 8. What does that say?**
#
# - A: PPO moved the model further for its gain.
# - B: PPO's answers must be better than the best of 8.
# - C: Best of 8 costs less at every question asked.
#
# <details><summary>Answer</summary>
#
# **A** is right. Choosing changes no model, only which answer is shown.
#
# Not B. KL is the price, not the gain.
#
# Not C. It costs eight samples, PPO one.
#
# It stands in “7. Is PPO worth more than sampling more?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("04")

# %% [markdown]
# ## Next
#
# Change one thing: preferences of your own in 02, a smaller β in 03. The extras
# (05 to 10) go on from here.

# %% [markdown]
# ## Solutions
#
# Try first.

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
def prompts_needed(effect_size):
    ### BEGIN SOLUTION
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)  # 1.96 + 0.84
    return math.ceil((quantiles / effect_size) ** 2)
    ### END SOLUTION


assert check("04.2", prompts_needed).right


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


assert check("04.3", audit).right
