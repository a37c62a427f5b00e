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
# - look for the cheap explanations, and ask a judge that PPO never met;
# - say what improved, what did not and what got worse, and what your test could not have seen.
#
# In our run a second judge sees a gain of 0.60 standard deviations, no measure got worse, and the best
# of eight samples gains more than PPO by the first judge and the same by the second.
#
# Needs the adapters of 01 and 03 and the judge of 02; shipped ones are used if you have none. About 9
# minutes on two CPU cores.

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
# You are in the fourth box. **Write down three ways in which a higher mean reward could still be nothing.**
# Ours: the wrong judge, for PPO was trained to please this very one (sections 2 and 5); luck (3); a cheap
# trick, such as longer answers (4).

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
# One base in memory plays three models. With no adapter it is the **base**; with notebook 01's adapter it is
# **SFT**; with notebook 03's it is **SFT + RLF** (reinforcement learning from feedback). This is all
# that it takes, in plain PEFT and transformers:

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
# From here on helpers do the same in batches. Which questions? Whoever picks them after seeing the answers can
# prove anything. So five were fixed before any training (`data.FIXED_PROMPTS`), and answered greedily. To
# these come the held-out test prompts, **sampled** as in training: by SFT and SFT + RLF twice each, by the base
# once. **Predict first:** which of the three models stops by itself?

# %%
NAME = {stage: plots.STAGES[stage][0] for stage in ("base", "sft", "ppo")}
fixed = list(data.FIXED_PROMPTS)
rows = chat.that_fit(
    tokenizer, data.load_prompts("test", profile.prompts), profile.prompt_tokens
)
prompts = [row["prompt"] for row in rows[: profile.eval_prompts]]
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
shown = {stage: greedy[stage].responses for stage in NAME}
plots.save(
    drawings.three_answers(fixed, shown),
    figures,
    "three_answers",
    [{"prompt": p, **{s: shown[s][i] for s in NAME}} for i, p in enumerate(fixed)],
)

# %%
for stage in NAME:
    ended = np.mean(greedy[stage].finished)
    print(f"{NAME[stage]:>9}: {ended:.0%} of the answers above end by themselves")
earlier = ppo_folder / "answers.json"
earlier = runtime.read_json(earlier) if earlier.exists() else {}
if earlier.get("prompts") == prompts:
    for stage in ("sft", "ppo"):
        pairs = zip(earlier[stage], rounds[stage][0].responses, strict=True)
        same = np.mean([a == b for a, b in pairs])
        print(f"{NAME[stage]:>9}: {same:.0%} of the first answers are those of 03")
else:
    print("Notebook 03 has saved no answers to these prompts: nothing to compare with.")

# %% [markdown]
# *Five rows of three boxes: to each fixed question the answers of base, SFT and SFT + RLF.*
#
# The base is a chat model that was never shown our tokens, and it rambles. From there to SFT is the large
# step, which needs no statistics. The workshop's own question, the president, fails all the same: a model
# of this size knows few facts, and neither stage teaches them. Whether the last step is there at all is what
# the rest is about.
#
# ## 2. Is it better, by two judges?
#
# The first judge is the one that PPO was paid by. The second is one that PPO has never met, a
# **[gold](../docs/glossary.md#gold-reward-model)** judge (Gao et al. 2022, arXiv 2210.10760). It is trained here as in 02, on *other* preferences:
# other prompts, answers and scores, written by other language models under the same rules.
#
# Two judges have two scales. So both are read in **one unit**: the mean of SFT's answers is 0, their
# standard deviation 1. Each answer of SFT + RLF is held against SFT's to the same prompt, a
# [paired comparison](../docs/glossary.md#paired-comparison). **Predict first:** will the gold judge like it as much as the first?

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
scores, raw = {}, {}  # judge -> stage -> one number an answer
for judge, its in judges.items():
    raw[judge] = {
        stage: np.array(its.score(prompts * len(rounds[stage]), texts[stage]))
        for stage in NAME
    }
    centre, unit = raw[judge]["sft"].mean(), raw[judge]["sft"].std(ddof=1) or 1.0
    scores[judge] = {s: (values - centre) / unit for s, values in raw[judge].items()}

gain, wins = {}, {}
for judge, of in scores.items():
    gain[judge] = compare_rewards(of["sft"], of["ppo"], groups)
    wins[judge] = evaluation.win_rate(of["sft"], of["ppo"], groups)
    g, w = gain[judge], "{:.0%} [{:.0%}, {:.0%}]".format(*wins[judge])
    said = f"{g.difference:+.2f} [{g.low:+.2f}, {g.high:+.2f}]: {g.verdict}"
    print(f"{judge:>11}: {said}")
    print(f"{'':>13}Wilcoxon p = {g.wilcoxon_p:.2g}; SFT + RLF wins {w}")
first, gold = scores.values()
runtime.record(
    profile,
    "eval",
    reward=gain["first judge"].as_dict(),
    reward_verdict=gain["first judge"].verdict,
    gold=gain["gold judge"].as_dict(),
    gold_verdict=gain["gold judge"].verdict,
    gold_win_rate=wins["gold judge"],
)
shown = {stage: first[stage] for stage in ("sft", "ppo")}
plots.save(plots.reward_histograms(shown), figures, "reward_histograms", shown)

# %%
a, b = gain.values()
print(f"In our run the gold judge's verdict is: {b.verdict}.")
if a.verdict == "better":
    print(f"It sees {b.difference / a.difference:.0%} of the first judge's gain.")
change = (first["ppo"] - first["sft"]).reshape(2, -1)  # (2 samples, prompts)
per_prompt = change.mean(0)
print(f"{a.share_worse:.0%} of the {a.n} prompts fell by the first judge.")
print(f"spread of the answers 1 → {a.after_std:.2f}, p = {a.levene_p:.2g}")
assert math.isclose(per_prompt.mean(), a.difference, abs_tol=1e-9)

# %% [markdown]
# *Two overlapping histograms of the first judge's scores, SFT and SFT + RLF, with a line at each mean.*
#
# **One rule** gives every verdict: *better* or *worse* where the 95 % interval leaves out zero **and** the
# rank test has p < 0.05; otherwise *[no difference shown](../docs/glossary.md#no-difference-shown)*. The [win rate](../docs/glossary.md#win-rate) beside it asks
# on how many prompts it is better, not by how much.
#
# Where the gold judge sees less, the rest of the gain is for the first judge alone. That is
# [Goodhart's law](../docs/glossary.md#goodharts-law): what is optimised stops being a fair measure.
#
# Here are the best, the median and the worst change, by rule and not by choice.

# %% tags=["slide"]
order = np.argsort(change[0])  # of the first answers
three = [int(order[i]) for i in (-1, len(order) // 2, 0)]
notes = {NAME[s]: [f"score {first[s][i]:+.2f}" for i in three] for s in NAME}
answers = {NAME[s]: [texts[s][i] for i in three] for s in NAME}
display(show.side_by_side([prompts[i] for i in three], answers, notes))
examples = {}
for name, i in zip(("best", "median", "worst"), three):
    found = {"prompt": prompts[i], "change": float(change[0, i])}
    found |= {stage: texts[stage][i] for stage in NAME}
    examples[f"{name}_example"] = found
runtime.record(profile, "eval", **examples)
lucky = int(np.argmax(first["base"]))
beaten = np.mean(first["sft"] < first["base"][lucky])
print(f"The base's best answer scores above {beaten:.0%} of SFT's: it reads")
print(repr(texts["base"][lucky]))

# %% [markdown]
# Read the last row aloud. Do you agree that it is worse? If not, the judge is wrong there; if you do, PPO
# is.
#
# Then the last lines. The base answers nothing, yet one text of it beats that share of SFT's answers: the
# judge was never shown such texts, and its score of them is a guess. A high score is a reason to read.
#
# ## 3. Could it be luck?
#
# Other prompts would have given another mean. The **[bootstrap](../docs/glossary.md#bootstrap)** asks how different: draw as many
# prompts, with replacement, and take the mean again. On five changes every draw can be listed.

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
# The interval leaves out zero, and the rank test ([Wilcoxon](../docs/glossary.md#wilcoxon-signed-rank-test)) is not convinced: with five prompts its
# [p-value](../docs/glossary.md#p-value) cannot go below 0.0625. That is why the rule asks both. (Of few values the package takes wider quantiles:
# Hesterberg 2015, arXiv 1411.5279.)
#
# Now ours. The two answers to a prompt are not independent, so whole prompts are drawn. **Predict first:** how
# much narrower is the interval with all prompts than with the first ten?

# %%
rng = np.random.default_rng(1)
by_hand = rng.choice(per_prompt, (10_000, len(per_prompt))).mean(1)
low, high = np.quantile(by_hand, [0.025, 0.975])
print(f"by hand        {low:+.2f} to {high:+.2f}")
whole = compare_rewards(first["sft"], first["ppo"], groups)
for n in (10, len(prompts)):
    low, high = bootstrap_interval(per_prompt[:n])
    print(f"{n:>4} prompts   {low:+.2f} to {high:+.2f}, width {high - low:.2f}")
assert np.allclose((whole.low, whole.high), (low, high), atol=0.2 * by_hand.std())
print(f"This many prompts would have shown a change of {whole.detectable:.2f} or more.")
for judge, found in gain.items():
    print(f"effect size by the {judge} {found.effect_size:+.2f}")

# %% [markdown]
# The [effect size](../docs/glossary.md#effect-size) is the mean change in standard deviations *of the change*. The spread of section 2
# was tested by [Levene's test](../docs/glossary.md#levenes-test).
#
# All this is about one trained model. Another **training seed** gives another one. Notebook 03 shows five;
# the one judged here has the median gain. With prompts and seeds both drawn:

# %% tags=["slide"]
of_seeds = runtime.read_json(runtime.project_root() / "results" / "ppo_seeds.json")
together = of_seeds["together"]
above = sum(row["reward"][1] > 0 for row in of_seeds["rows"])
print(f"{above} of {together['seeds']} training seeds: reward up, interval above zero")
for name, judge in (("reward", "the judge that was paid for"), ("gold", "gold")):
    found = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*together[name])
    print(f"gain over seeds and prompts by {judge}: {found}")

# %% [markdown]
# ## 4. Is it just longer?
#
# In the workshop two more sentences raised a score from −5.18 to +7.61. So fit a line to change of reward
# against change of length, and read it where the length did not change.

# %% tags=["nbval-check-output"]
x = np.array([10.0, 4.0, 0.0, -2.0])  # tokens more than before
y = np.array([1.5, 0.9, 0.5, 0.3])  # reward more than before
slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
at_equal = y.mean() - slope * x.mean()
print(f"mean gain {y.mean():.2f}, of which length explains {slope * x.mean():.2f}")
print(f"reward per token {slope:.2f}; gain at equal length {at_equal:.2f}")

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
print(f"In our run length accounts for {by_length:+.2f} of the gain.")
plots.save(
    drawings.change_against_length(longer, per_prompt, m.slope, m.adjusted),
    figures,
    "change_against_length",
    {"longer": longer, "change": per_prompt},
)

# %% [markdown]
# *A point a prompt, change of length across and change of reward up, a fitted dashed line, and a diamond where it
# crosses "no change of length".*
#
# A line misses a **preferred length**, up and then down, which a judge can learn, too. So compare inside
# bands of length, and weight the bands as SFT fills them.

# %%
edges = [5, 10, 20, 30, 45]  # words
band = {s: np.digitize([len(t.split()) for t in texts[s]], edges, True) for s in NAME}


def within_bands(rows: np.ndarray) -> float:
    """Mean gain inside the bands that both models use, weighted by SFT's answers."""
    gains, weights = [], []
    for b in range(len(edges) + 1):
        mine, theirs = (rows[band[stage][rows] == b] for stage in ("sft", "ppo"))
        if len(mine) and len(theirs):
            gains.append(first["ppo"][theirs].mean() - first["sft"][mine].mean())
            weights.append(len(mine))
    return float(np.average(gains, weights=weights)) if gains else 0.0


n = len(prompts)
picks = rng.integers(0, n, (2000, n))
drawn = [within_bands(np.concatenate([pick, pick + n])) for pick in picks]
ends = map(float, np.quantile(drawn, [0.025, 0.975]))
banded = [within_bands(np.arange(2 * n)), *ends]
print("gain inside bands of length {:+.2f} [{:+.2f}, {:+.2f}]".format(*banded))
runtime.record(profile, "eval", gain_within_bands=banded)

# %% [markdown]
# A caveat: a longer answer may be longer *because* it is better.
#
# ## 5. What did PPO never see?
#
# Everything in the loop below has been optimised: the first judge's score, the distance from SFT, and the fine
# for answers that never stop. What stands outside can be a witness. The gold judge is on trial itself: each
# judge on the held-out pairs of both sets, beside a judge that sees only the surface of a text (02).

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
        right = (np.sign(gaps) + 1) / 2  # a tie counts half
        ends = bootstrap_interval(right, [pair.id for pair in exam])
        trial[f"{judge} on {whose}"] = found = (float(right.mean()), *ends)
        shown = "{:.3f} [{:.3f}, {:.3f}]".format(*found)
        print(f"{judge:>11} on the held-out pairs of the {whose:<5} set: {shown}")
agree = {s: float(stats.spearmanr(first[s], gold[s]).statistic) for s in NAME}
print("rank correlation:", {NAME[s]: round(r, 2) for s, r in agree.items()})
runtime.record(profile, "eval", judges_on_trial=trial, judges_agree=agree)
plots.save(plots.rl_loop(), figures, "rl_loop")

# %% [markdown]
# *A prompt goes to the policy, its answer to the reward model, the score and the distance from the frozen SFT copy
# to the PPO update, and the update changes the policy.*
#
# What the gold judge gets right beyond "the surface" is the most that can be reading. And both judges stand
# on the same frozen models: what these cannot see (facts, above all), neither judge sees.
#
# Now witnesses that need no training:
# - **[repetition](../docs/glossary.md#repetition)**: the share of three-word runs that a text has said before;
# - **[distinct-2](../docs/glossary.md#distinct-2)**: the share of word pairs that are unique over *all* answers, cut to equal length;
# - **[similarity](../docs/glossary.md#similarity)** of answer and question. Half a witness: both judges look at it, too;
# - **[perplexity](../docs/glossary.md#perplexity) under the base**: how surprised the raw model is by each token. High for word salad, low for
#   the blandest phrase: no side is the good one;
# - **share finished**. Half a witness as well, for the fine asks for it.

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
means.round(3)

# %% [markdown]
# Verdicts need intervals, and come in section 8. An echo has a similarity of 1, so higher is better only within
# reason. The [KL](../docs/glossary.md#kl-divergence) is how far each stage moved the model.
#
# ## 6. Is it cleverer?
#
# A kinder manner is not more knowledge. Two small [benchmarks](../docs/glossary.md#benchmark), written for this course by language models: common
# misconceptions and world religions, after those of the workshop. (`SAWYER_QUESTIONS` adds a JSONL of your own.)
# The model writes nothing: the choice that it finds likeliest wins. **Predict first:** PPO was graded far more on
# manner than on facts. What should happen?

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
runtime.record(profile, "eval", benchmarks=bars.to_dict("records"))
plots.save(drawings.benchmark_bars(bars), figures, "benchmark_bars", bars)

# %% [markdown]
# *For each benchmark three bars (base, SFT, SFT + RLF) with intervals and a dashed line at chance.*
#
# Whether whiskers overlap says nothing here: the models answered the *same* questions, so only those count on
# which they disagree. **[McNemar's test](../docs/glossary.md#mcnemars-test)**: of the questions that only one of the two got right, is it one
# of them more often than a coin would have it?

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
runtime.record(profile, "eval", benchmark_changes=shares)
pd.DataFrame(shares).round(3)

# %% [markdown] tags=["slide"]
# Five points on 110 questions are still what coins do one time in seven. **How to say it:** *no difference
# shown*, and not "knowledge is preserved". Then say what could have been seen: `detectable` is the smallest true
# difference that this many questions would show in four runs out of five.
#
# The workshop asked in another way: the model sees lettered choices and has to *write* a letter. Nobody trained
# for that. **Predict first:** higher or lower than by [likelihood](../docs/glossary.md#likelihood)?

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
runtime.record(profile, "eval", by_letter=letters, readable_letters=readable)
print("SFT + RLF wrote, for example:", *map(repr, found.answer[:3]))
pd.DataFrame(letters).round(3)

# %% [markdown]
# An accuracy without the way of asking is half a number; answers that cannot be read have to be counted.
#
# ## 7. Is PPO worth more than sampling more?
#
# The lazy rival: sample n answers of SFT and keep the one that the first judge likes best
# (**[best of n](../docs/glossary.md#best-of-n)**). No training; but n times the work at every question for ever. Its distance from SFT is known:
# log n − (n − 1)/n nats. **Predict first:** which n is as good as PPO, by the judge that both aim at?

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
rivals = {"best_of_n": best.to_dict("records"), "frontier": path.to_dict("records")}
runtime.record(profile, "eval", **rivals)
table.round(2)

# %% tags=["slide"]
titles = {
    "first judge": "the judge both aim at",
    "gold judge": "the judge neither knows",
}
for judge in judges:
    mine = float(path[judge].iloc[0])
    enough = best.n[best[judge] >= mine]
    enough = f"best of {enough.iloc[0]}" if len(enough) else f"more than {N} samples"
    print(f"{judge:>11}: PPO's {mine:+.2f} would take {enough}")
figure = drawings.frontier(best, path, titles)
plots.save(figure, figures, "frontier", table)

# %% [markdown]
# *Two panels with one scale, gain over SFT against KL. The dashed line is best of n, each point with its n; the
# single point is PPO.*
#
# In each panel, hold the gain against the distance paid for it. Choosing changes only *which* of SFT's answers
# is shown. PPO pays once, in training, and then answers with one sample.

# %% [markdown] tags=["teaching"]
# - **What it is for.** A method is only as good as its laziest rival.
# - **Ask.** You answer a million questions a day. When is training cheaper than sampling eight
#   answers each?
# - **The usual wrong answer.** "PPO gains more, so it is better." At which price: look at the KL
#   and at the samples per question.

# %% [markdown]
# ## 8. What improved, what did not, what got worse?
#
# The table that you would sign: **all** measures, one rule. **changed** is for measures without a good
# side. (At equal length, of distinct-2 and of the KL there is no rank test: there the interval alone decides.)


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
display(verdicts.drop(columns="scale").rename(columns=named).round(3))

# %% [markdown]
# *One line a measure, the difference of SFT + RLF from SFT in standard deviations with its interval; colour and
# marker give the verdict. KL is left out. Of repetition, left of zero is the good side.*
#
# In words, computed from the table, and the step before it beside it. **Predict first:** which of the two
# stages changed more?


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
got = {found: int((unseen.verdict == found).sum()) for found in ("better", "worse")}
print("In our run, of what PPO was neither paid nor fined for,")
print(f"{got['better']} measures got better and {got['worse']} worse.")
print(f"Of {len(verdicts)} rows {0.05 * len(verdicts):.1f} would move by luck alone.")

# %% tags=["slide"]
kl = float(np.mean(distance["ppo"]))
said = {
    "Data": f"01: written answers\n02: scored answers\nto {len(first_rows)} questions",
    "Training": f"01 copies, 03 searches:\n{profile.ppo_steps} steps, {kl:.1f} nats",
    "Evaluation": "{better} better, {worse} worse,\n".format(**counts)
    + f"{counts['changed']} changed,\n"
    + f"{counts['no difference shown']} not shown to differ",
}
display(plots.save(drawings.three_elements(said), figures, "three_elements"))
names = {"before": "sft", "after": "ppo"}
kept = verdicts.drop(columns="scale").rename(columns=names).to_dict("records")
shown = {stage: greedy[stage].responses[1] for stage in NAME}
runtime.record(
    profile,
    "eval",
    verdicts=kept,
    verdicts_base_to_sft=sft_verdicts.drop(columns="scale").to_dict("records"),
    n=len(prompts),
    kl={stage: float(np.mean(nats)) for stage, nats in distance.items()},
    base_beats=float(beaten),
    three_answers={"prompt": fixed[1], **shown},
)
seconds["all"] = time.perf_counter() - started
runtime.record(profile, "eval", seconds=seconds)
print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
print(f"peak memory {runtime.record_peak(profile, 'eval'):.1f} GiB")

# %% [markdown]
# *Three boxes: Data (01, 02), Training (01, 03), Evaluation (04), with what each held in this run.*
#
# A failure in one of the three cannot be mended in another. "Better" is better by the taste in the data, and
# this notebook found what it looked for, only where it looked.
#
# ## 9. What do you say?
#
# One question goes to all three models, from one seed; under each answer stand its reward and its KL to the stage
# before. Tick **blind vote** first: names and rewards stay hidden until you have voted. (The table is for pages
# without widgets.) Votes go into `votes.jsonl` in this run's folder, without the voter. Put everybody's file
# there (`votes-1.jsonl`, …), and the second cell counts them, with [Krippendorff's alpha](../docs/glossary.md#krippendorffs-alpha): how far
# voters agree beyond chance. The interval draws prompts: nine people who read the same answers are not nine
# pieces of evidence.

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
cast = votes.merge_votes(sorted(folder.glob("votes*.jsonl")))
voted = [p for p in votes.pairs(cast) if set(p.kinds) == {"sft", "ppo"}]
print(votes.agreement(cast))
if voted:
    won = [float(pair.kinds[0] == "ppo") for pair in voted]
    low, high = bootstrap_interval(won, [pair.id for pair in voted])
    said = f"{np.mean(won):.0%} of {len(won)} votes [{low:.0%}, {high:.0%}]"
    print(f"SFT + RLF wins {said}")
print("by the gold judge it wins {:.0%} [{:.0%}, {:.0%}]".format(*wins["gold judge"]))

# %% [markdown]
# ## Take it away
#
# Merged into its base, an adapter is a plain model that `transformers` loads alone. This writes half a gigabyte,
# so it is off. What is printed is Ollama's description of it, for after llama.cpp's `convert_hf_to_gguf.py`. We
# have run the conversion, not Ollama; there, a user who types the end token does end the turn.

# %%
from sawyer_utils.chapters import export, report

TAKE_AWAY = False
if TAKE_AWAY:
    model_folder = export.merge(profile, ppo_folder / "adapter", folder / "sawyer")
    results = report.collect(profile, {})  # every number that 01 to 04 recorded
    export.save_card(model_folder, profile, results, "sawyer")
    export.write_modelfile(model_folder, profile)
    export.push_to_hub(model_folder, "you/sawyer")  # a dry run: nothing is sent
print(export.modelfile(tokenizer.eos_token))

# %% [markdown] tags=["slide"]
# ## The last doubt: aligned, but to what end?
#
# Say that all of it came out well. Then the model is closer to a set of preferences. Whose? Both sets here were
# written and scored by language models; no person rated them. `sawyer_utils/corpus/DATACARD.md` says who wrote
# what, and what it leaves out. No interval in this notebook covers that.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The end is a question and no number. Ten minutes, without the screen.
# - **Ask.** Whose preferences are in the data? Who did not write any?
# - **The usual wrong answer.** "The intervals are fine, so it is aligned." No interval here covers
#   what nobody thought of asking.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, and run the cell: `check` says what it sees, with one hint at a
# time. The solutions stand at the end. (`SOLUTION` is for teachers who use nbgrader.)
#
# ### 04.1 Predict the number: a placebo
#
# SFT answers the same 40 prompts twice, from two seeds, and the first judge scores both sets. On how many
# prompts does the second answer score lower, and what verdict does our rule give? (The solution then looks at
# your own samples.)

# %% tags=["exercise"]
### BEGIN SOLUTION
fallen = None
placebo_verdict = None
### END SOLUTION

check("04.1", (fallen, placebo_verdict))

# %% [markdown]
# ### 04.2 Write this function: McNemar's test
#
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
#
# Write an answer that scores higher than SFT + RLF on the first judge and that you would be ashamed of. Which
# measure of section 5 gives it away? (Echoes show as similarity near 1, loops as repetition, one text for every
# prompt as low distinct-2. A fluent falsehood is caught by none of them.)
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | reward up, gold reward flat or down | the gain is for the first judge alone | section 2 |
# | reward up, gain at equal length near zero | length is what is paid for | section 4's diamond |
# | reward up, similarity down | a text that pleases without answering | section 8, worst example |
# | reward up, distinct-2 down | one good answer for everybody | section 8 |
# | both histograms the same, KL near 0 | the policy has not moved: too few steps, β too high | section 2 |
# | KL in the tens of nats | the policy has run away: β too low | section 5 |
# | 03's answers are not reproduced | another machine or number format | section 1 |
#
# ## What we simplified
#
# 1. **Two samples a prompt.** More would tell the noise of sampling from that of prompts (Miller 2024, arXiv
#    2411.00640).
# 2. **A gold judge like the first.** Other preferences, but the same frozen models below. Gao et al. use a much
#    larger one.
# 3. **One training seed** is judged here, the median of five (Henderson et al. 2018, arXiv 1709.06560).
# 4. **No people.** Language models wrote both sets of preferences; no person has compared these answers.
# 5. **Small benchmarks** of our own, scored by summed log-likelihood as lm-eval's `acc`, which favours short
#    choices.
# 6. **Many rows, no correction.** At 95 % one row in twenty moves by luck.

# %% [markdown]
# ## Five questions
#
# **1. Look at the output of section 2. One of its two verdicts is the one to report. Which, and why?**
#
# - A: The first judge's: it has the larger number.
# - B: The gold judge's: PPO was not paid by it.
# - C: The mean of the two: each sees one half.
#
# <details><summary>Answer</summary>
#
# **B** is right. PPO could not learn what that judge alone likes, so what it sees of the gain carries over.
#
# Not A. A larger gain by the judge that was paid for is what one would see of a cheat, too.
#
# Not C. The mean would mix a measure that was optimised with one that was not.
#
# It stands in “2. Is it better, by two judges?”.
#
# </details>
#
# **2. The interval of a mean change leaves out zero, and the rank test agrees. What has been shown?**
#
# - A: That PPO raises the score, whatever seed it is given.
# - B: That people who read both answers prefer the new one.
# - C: That this model scores higher, by this judge, on such prompts.
#
# <details><summary>Answer</summary>
#
# **C** is right. Each part is a limit: this model, this judge, these prompts. The other sections try the other ones.
#
# Not A. Prompts were drawn again; the training was not. Only other training seeds can answer that.
#
# Not B. No person was asked. It is one judge's score.
#
# It stands in “3. Could it be luck?”.
#
# </details>
#
# **3. Two bars of a benchmark have overlapping whiskers. Is there a difference?**
#
# - A: Ask of those questions on which the two disagree.
# - B: No: two intervals that overlap are no difference.
# - C: Yes, if the bars are five points apart or more.
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
# - A: For that the p has to be above 0.95, not 0.6.
# - B: A large p shows nothing: say what n would show.
# - C: Nothing, if the benchmark is about knowledge.
#
# <details><summary>Answer</summary>
#
# **B** is right. The column `detectable` is that: the smallest true difference that would show in four runs of five.
#
# Not A. No p proves equality, however large: with few questions a test finds nothing nearly always.
#
# Not C. A test that finds nothing has found nothing. What is missing is the difference that it could have found.
#
# It stands in “6. Is it cleverer?”.
#
# </details>
#
# **5. Look at the table of section 7. PPO's KL is far larger than that of the best of 8. What does that say?**
#
# - A: PPO moved the model further for its gain.
# - B: PPO's answers must be better than the best of 8.
# - C: Best of 8 costs less at every question asked.
#
# <details><summary>Answer</summary>
#
# **A** is right. Choosing only changes which of SFT's answers is shown; PPO moves the model, and much moves with it.
#
# Not B. KL is the price, not the gain. The gain stands in the other columns.
#
# Not C. It costs eight samples a question; PPO answers with one.
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
# Go round once more and change one thing: preferences of your own in 02, a smaller β in 03. Then see whether
# your verdict table agrees with you. The extras (05 to 08) go on from here.

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
