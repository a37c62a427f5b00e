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
# # 05 · Why PPO, why not, and what it buys later
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/05_ppo_vs_dpo.ipynb)
#
# **You will give one preference set to four methods, with budgets as equal as they get, and say which to use when.**
#
# You will be able to
# - compute DPO's loss from four numbers, and say what it does not ask for,
# - compare trainings fairly: the same start, data, judge, answers and steps,
# - say what each can do when new topics come without labels.
#
# Needs 01, 03 and the second judge of 04 (or their shipped checkpoints). About 22 minutes on two CPU cores.
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
import inspect
import math
import time

import pandas as pd
import torch

from sawyer_utils import data, evaluation, losses, plots, reward, show
from sawyer_utils.chapters import drawings, peers
from sawyer_utils.chapters import versus, versus_results

folder = runtime.run_dir(profile, "versus")
figures = folder / "figures"
started = time.perf_counter()
NAMES = versus_results.NAMES
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## The whole thing in one picture

# %%
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *In words: four boxes in a row (SFT, reward model, PPO, evaluation); this chapter puts other things into
# the third.*
#
# In 2023 a paper said in its title that "your language model is secretly a reward model", and many have left
# out the second box since. TRL, the library that this course builds on, dropped its PPO trainer in 2026.
# So why does this course still teach it?
#
# Four ways to use the same [preference pairs](../docs/glossary.md#preference-pair), from the same SFT model:
#
# - **PPO**: a reward model learns from the pairs, the model learns from its grades (ours, from 03);
# - **[DPO](../docs/glossary.md#dpo)**: the model learns from the pairs themselves (`trl.DPOTrainer`);
# - **RLOO**: as PPO, but the [mean of the other answers](../docs/glossary.md#leave-one-out-baseline) to the same prompt stands in the critic's place
#   (`trl.RLOOTrainer`);
# - **[best of n](../docs/glossary.md#best-of-n)**: nothing learns; of n answers the reward model picks one.
#
# **Predict first:** write them down in the order in which a second judge, which none of them ever sees,
# will rank them. Put a cross beside the one that you would use yourself.

# %% [markdown] tags=["slide"]
# ## 1. What does DPO minimise?
# It needs four numbers of a pair: how likely the model finds the chosen and the rejected answer, and
# how likely the frozen SFT model found them. Each is a *sum* of log-probs over the answer, in nats.
# From them come two **[implicit rewards](../docs/glossary.md#implicit-reward)**, β · (log π − log π_ref): an answer is worth as much as it has
# become likelier. The rest is 02's loss on the difference of two rewards.

# %% tags=["nbval-check-output", "slide", "show-code"]
chosen, rejected = -4.3, -6.5  # log π of the two answers, by the model that learns
ref_chosen, ref_rejected = -5.0, -6.0  # log π_ref, by the frozen one
beta = 0.5
r_chosen = beta * (chosen - ref_chosen)
r_rejected = beta * (rejected - ref_rejected)
loss = -math.log(1 / (1 + math.exp(-(r_chosen - r_rejected))))
print(f"implicit rewards {r_chosen:+.2f} and {r_rejected:+.2f}, loss {loss:.4f}")
four = [torch.tensor([x]) for x in (chosen, rejected, ref_chosen, ref_rejected)]
assert math.isclose(float(losses.dpo_loss(*four, beta)), loss, rel_tol=1e-6)
start = float(losses.dpo_loss(four[2], four[3], four[2], four[3], beta))
print(f"at the start, where both models are one: {start:.4f} = log 2")
assert math.isclose(start, math.log(2), rel_tol=1e-6)

# %% [markdown] tags=["teaching"]
# - **What it is for.** The whole of DPO with a pocket calculator, before any library.
# - **Ask.** Which of the four numbers change during the training? (Two. The reference's could be written
#   down once for all.)
# - **The usual wrong answer.** "The loss makes the chosen answer likelier." It asks for a difference; the
#   next cell but one shows both falling.

# %% [markdown]
# In the package it is one line (Rafailov et al. 2023, arXiv 2305.18290, equation 7):

# %%
print(inspect.getsource(losses.dpo_loss))

# %% [markdown]
# **Predict first:** training makes *both* answers less likely, the chosen one by 2 nats, the rejected one
# by 5. Does the loss rise or fall?

# %% tags=["nbval-check-output"]
for by_chosen, by_rejected in ((+2, -1), (-2, -5), (-2, +1)):
    both = four[2] + by_chosen, four[3] + by_rejected
    loss = float(losses.dpo_loss(*both, four[2], four[3], beta))
    print(f"chosen {by_chosen:+d}, rejected {by_rejected:+d}: {loss:.4f}")
assert losses.dpo_loss(four[2] - 2, four[3] - 5, four[2], four[3], beta) < math.log(2)

# %% [markdown]
# It falls, and to the same number as in the first line. DPO asks for a *difference*. What the model says
# instead of two answers that have both become rare, no pair has judged. Keep that for the log below.
#
# Is it TRL's loss, too? We do not retype theirs, we run it: its trainer on four pairs, with 03's adapter
# as the model that learns and the SFT adapter as the frozen one.

# %%
sft = runtime.find_stage(profile, "sft", versus.ADAPTER) / "adapter"
moved = runtime.find_stage(profile, "ppo", versus.ADAPTER) / "adapter"
few = data.pairs(data.load_preferences("embedded"))[::500][:4]
options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
trainer = peers.dpo_trainer(profile, few, moved, sft, folder / "four", **options)
by_trl, parts = peers.opened(trainer)
by_hand = float(losses.dpo_loss(*parts, profile.dpo_beta).mean())
names = ("chosen", "rejected", "chosen, ref", "rejected, ref")
print(pd.DataFrame(dict(zip(names, (p.tolist() for p in parts)))).round(1))
print(f"TRL {by_trl:.6f}, by hand {by_hand:.6f}")
assert abs(by_trl - by_hand) < 1e-4
del trainer

# %% [markdown]
# TRL's trainers run as they come, and all methods here see the same log-probs (`tests/test_peers.py`).

# %% [markdown] tags=["slide"]
# ## 2. What does each method need?
# They differ in more than the loss. What must be there before it begins, and while it runs?

# %%
needs = {
    "PPO": ["for the reward model", "yes", "1 a prompt", "yes", "yes", "1"],
    "DPO": ["yes", "no", "none", "no", "yes", "1"],
    "RLOO": ["for the reward model", "yes", "several a prompt", "no", "yes", "1"],
    "best of n": ["for the reward model", "yes, for ever", "none", "no", "no", "n"],
}
what = [
    "preference pairs",
    "a reward model",
    "samples while it trains",
    "a critic",
    "the frozen SFT model",
    "answers a question, afterwards",
]
pd.DataFrame(needs, index=what)

# %% [markdown]
# Read DPO's column: it never samples. It learns from answers that somebody else wrote, once, and does not
# hear what it says itself. That makes it simple; whether it is also quick, section 6 measures. It is also
# the reason for the second half of this chapter.
#
# RLOO's trick fits in a line. Of four answers to one prompt, each is compared with the mean of the other
# three, and no critic has to guess what was to be expected:

# %% tags=["nbval-check-output"]
rewards = torch.tensor([[1.0, 0.0, 2.0, -1.0], [0.5, 0.5, 0.5, 0.5]])  # (P, n)
others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
for row in (rewards - others).tolist():
    print([round(x, 2) for x in row])
assert torch.allclose((rewards - others).sum(1), torch.zeros(2), atol=1e-6)

# %% [markdown]
# The second prompt teaches nothing: its answers are equally good.

# %% [markdown] tags=["slide"]
# ## 3. What does nobody get to see?
# About a quarter of the topics is kept out of what the four methods learn from: preferences, reward model,
# prompts. (The SFT model and 04's second judge have seen them, the same for all.) Which ones, the hash
# of their names decides, so nobody has chosen them. They come back in section 7, without labels. The
# reward model is trained anew, for 02's has seen them all.

# %%
rows = data.load_preferences("embedded", profile.limit)
known, new = versus.split(rows)
judge_steps = profile.versus_judge_steps
live = plots.LivePlot(plots.reward_training, judge_steps, 10, folder)
common = versus.prepare(profile, live)
print("kept out:", ", ".join(sorted({row["topic"] for row in new})))
print(f"{len(known)} preference rows of known topics, {len(new)} of new ones")
print(f"{len(common.pairs)} pairs to learn from")
for name in ("known", "new"):
    train, test = common.prompts[name], common.tests[name]
    print(f"{name:5s} topics: {len(train)} prompts to train on, {len(test)} to test")
assert not {p.topic for p in common.pairs} & {row["topic"] for row in new}

# %% [markdown]
# **Predict first:** how often is this judge right on pairs of topics that it never saw? The bet on PPO rests
# on that number: on new topics the judge is all there is.

# %%
judge = reward.RewardModel.load(common.folder / "judge" / "model")
_, held = data.split_rows(known, versus.HELD_OUT)
accuracy = {}
for name, some in (("known", held), ("new", new)):
    pairs = data.pairs(some)
    right = [gap > 0 for gap in reward.differences(judge, pairs)]
    low, high = evaluation.bootstrap_interval(right, [pair.id for pair in pairs])
    accuracy[name] = {"right": sum(right) / len(right), "low": low, "high": high}
    shown = "{right:.2f} [{low:.2f}, {high:.2f}]".format(**accuracy[name])
    print(f"{name:5s} topics: right on {shown} of {len(pairs)} pairs it never saw")
overlap = accuracy["new"]["high"] >= accuracy["known"]["low"]
print("The intervals overlap." if overlap else "On new topics it is right less often.")

# %% [markdown] tags=["slide"]
# ## 4. What is an equal budget?
# There is no such thing. So we say what is equal, and report the rest. Equal are the start, the pairs that
# could be learned from, the judge, the LoRA, the gradient steps, and for PPO and RLOO also the
# number of sampled answers, the learning rate and the price of [KL](../docs/glossary.md#kl-divergence).

# %%
a_batch = profile.ppo_epochs * profile.ppo_minibatches  # gradient steps
steps = {name: profile.versus_steps * a_batch for name in ("ppo", "rloo")}
steps["dpo"] = profile.dpo_pairs // profile.dpo_batch
batches = f"{profile.versus_steps} × {profile.ppo_batch}"
judged = f"{judge_steps * profile.reward_batch}, by the judge"
plan = {
    "PPO": [f"{batches}, one a prompt", steps["ppo"], judged],
    "DPO": ["none", steps["dpo"], f"{profile.dpo_pairs}, by the model"],
    "RLOO": [f"{batches}, four a prompt", steps["rloo"], judged],
    "best of n": [f"{profile.versus_best_of} a question", 0, judged],
}
pd.DataFrame(plan, index=["sampled answers", "gradient steps", "pairs seen"]).T

# %% [markdown] tags=["teaching"]
# - **What it is for.** No comparison is fair in every respect. Say in which it is, before the results
#   are known.
# - **Ask.** Should the judge's training be on PPO's bill? And the writing of the pairs on anybody's?
# - **The usual wrong answer.** "Equal seconds would be fair." On this machine, perhaps; a faster sampler
#   turns it over.

# %% [markdown]
# The last column favours PPO, RLOO and best of n: their judge reads more pairs than DPO does in its steps.
# The bill in section 6 favours DPO: it leaves out the training of the judge, which DPO does without.

# %% [markdown] tags=["slide"]
# ## 5. Train
# What was trained before is loaded. Each method keeps its settings in all three seeds, and none was tuned
# here: PPO's are those of 03, RLOO takes PPO's.


# %%
def drawn(name):
    """A live plot of what this training's log holds."""
    new = name in versus.GONE_ON
    batches = profile.versus_new_steps if new else profile.versus_steps
    if name.startswith("ppo"):
        return plots.LivePlot(plots.ppo_dashboard, batches, 3, folder)

    def draw(log):
        key = "reward" if name == "rloo" else "loss"
        return plots.loss_curve(log, key, f"{NAMES[name]}: {key}")

    return plots.LivePlot(draw, steps.get(name, batches * a_batch), 6, folder)


budgets = {name: versus.stage(common, 0, name, drawn(name)) for name in versus.TRAINED}

# %% [markdown]
# *In words: of a training that runs now, one figure a method: PPO's six panels as in 03, DPO's loss of each
# step, RLOO's reward of each batch.* The first and the last entry of each:

# %%
own = common.folder / "seed-0"
logs = {name: runtime.read_json(own / name / "log.json") for name in versus.TRAINED}
shown = [("ppo", "reward"), ("ppo", "kl"), ("rloo", "reward"), ("dpo", "loss")]
for name, key in shown:
    values = [line[key] for line in logs[name] if key in line]
    print(f"{NAMES[name]:5s} {key:7s} {values[0]:+6.2f} → {values[-1]:+6.2f}")
shares = [line["clip_ratio/region_mean"] for line in logs["rloo"]]
clipped = sum(shares) / len(shares)
print(f"RLOO: {clipped:.0%} of the answers were clipped and had no gradient.")
assert abs(logs["dpo"][0]["loss"] - math.log(2)) < 1e-2  # it starts at its reference

# %% [markdown]
# One batch says little: RLOO's has eight prompts only, and easy or hard ones move its reward more than the
# learning does. Section 6 measures.
#
# DPO's log holds more than its loss: what became of the two answers themselves, the question of section 1.

# %%
implicit = {
    kind: [line[f"rewards/{kind}"] for line in logs["dpo"]]
    for kind in ("chosen", "rejected")
}
labels = "gradient step", "implicit reward, nats times β"
plots.save(plots.probe_lines(implicit, *labels), figures, "implicit", implicit)

# %%
last = {kind: sum(values[-5:]) / len(values[-5:]) for kind, values in implicit.items()}
fell = "less likely" if last["chosen"] < 0 else "likelier"
print("In words: at the end (mean of five steps) the implicit reward of the chosen")
print(f"answers is {last['chosen']:+.2f}, of the rejected {last['rejected']:+.2f}.")
print(f"What was chosen has become {fell} than it was for the SFT model.")

# %% [markdown] tags=["slide"]
# ## 6. Who won?
# Everybody answers the same held-out prompts with the same dice. Two judges read the answers: the one that PPO
# and RLOO were paid by, and **[gold](../docs/glossary.md#gold-reward-model)**, the second judge of 04, which none of them has ever met. Both
# speak in standard deviations of the SFT model's answers.

# %%
before = versus.answers(common, "sft")
after = {name: versus.answers(common, name, 0) for name in versus.METHODS}
found = {
    topics: {n: versus.compare(before[topics], after[n][topics]) for n in after}
    for topics in ("known", "new")
}
assert set(before["known"]["prompt"]) == set(common.tests["known"])


def with_interval(cell, share=False):
    at = 0.5 if share else 0.0
    form = "{:.0%} [{:.0%}, {:.0%}]" if share else "{:+.2f} [{:+.2f}, {:+.2f}]"
    return form.format(*(cell[key] + at for key in ("difference", "low", "high")))


def as_table(rows):
    """The one table: each measure less SFT's, with its 95 % interval."""
    columns = {"the judge's reward": "proxy", "gold reward": "gold"}
    columns |= {"length, tokens": "length", "finished": "finished"}
    columns |= {"distinct-2": "distinct_2"}
    table = {}
    for name, row in rows.items():
        cells = {label: with_interval(row[key]) for label, key in columns.items()}
        cells["gold says"] = row["gold"]["verdict"]
        cells["wins by gold"] = with_interval(row["wins"], share=True)
        cells["KL to SFT, nats"] = f"{row['kl']['after']:.1f}"
        table[NAMES[name]] = cells
    return pd.DataFrame(table)


as_table(found["known"])

# %% [markdown]
# Each prompt counts once, with the mean of its answers. A verdict needs both: the interval off zero, and a
# Wilcoxon test that agrees (04, section 3). Best of n's KL is the upper bound log n − (n − 1)/n. And what
# it took:

# %%
best = [after["best_of_n"][topics] for topics in ("known", "new")]
spent = sum(sum(part["tokens"]) for part in best) / sum(len(p["prompt"]) for p in best)
costs = {}
for name in versus.METHODS:
    cost = budgets.get(name, {"seconds": 0.0, "gradient_steps": 0})
    peak = cost.get("peak_memory_gib")
    costs[NAMES[name]] = {
        "minutes of training": f"{cost['seconds'] / 60:.1f}",
        "core minutes": f"{cost.get('cpu_seconds', 0.0) / 60:.1f}",
        "sampled answers": cost.get("answers", f"{profile.versus_best_of} a question"),
        "generated tokens": cost.get("tokens", f"{spent:.0f} a question"),
        "gradient steps": cost["gradient_steps"],
        "peak memory, GiB": f"{peak:.1f}" if peak else "not told",
    }
pd.DataFrame(costs)

# %% [markdown]
# *Core minutes* are what the processor worked, whatever else ran beside it. *Memory* is the peak of this
# process, in which one training came after the other: a later one also carries what the allocator kept.

# %% tags=["slide"]
gold = {NAMES[name]: row["gold"] for name, row in found["known"].items()}
label = "gold reward since SFT, in its standard deviations"
ends = ("difference", "low", "high")
columns = [[cell[key] for cell in gold.values()] for key in ends]
n = len(common.tests["known"])
plots.save(
    plots.score_changes(list(gold), *columns, n=n, xlabel=label),
    figures,
    "gold",
    [{"method": name, **cell} for name, cell in gold.items()],
)

# %%
better = [name for name, cell in gold.items() if cell["verdict"] == "better"]
worse = [name for name, cell in gold.items() if cell["verdict"] == "worse"]
print("In words: better than SFT by gold:", ", ".join(better) or "none of the four")
print("worse:", ", ".join(worse) or "none")
for name, row in found["known"].items():
    paid, true = row["proxy"]["difference"], row["gold"]["difference"]
    print(f"{NAMES[name]:9s} its judge says {paid:+.2f}, gold {true:+.2f}")

# %% [markdown] tags=["teaching"]
# - **What it is for.** Hold the predictions of the first page against this figure, aloud.
# - **Ask.** Whose gain by its judge is largest, and is that the one that gold likes best?
# - **The usual wrong answer.** "The longest bar has won." Only where the duels below say so.

# %% [markdown]
# Two verdicts side by side are no comparison of two methods. Here they meet directly, prompt by prompt:

# %%
duels = {}
meetings = [("dpo", "ppo"), ("rloo", "ppo"), ("best_of_n", "ppo"), ("best_of_n", "dpo")]
for one, two in meetings:
    cell = versus.compare(after[one]["known"], after[two]["known"])["gold"]
    duels[f"{NAMES[two]} less {NAMES[one]}"] = cell
    winner = {"better": f"{NAMES[two]} wins", "worse": f"{NAMES[one]} wins"}
    said = winner.get(cell["verdict"], cell["verdict"])
    print(f"{NAMES[two]} less {NAMES[one]:9s} {with_interval(cell)}: {said}")

# %% [markdown]
# After the numbers, texts. Three prompts, fixed beforehand: the first, the middle one and the last.

# %%
asked = common.tests["known"]
picked = [asked[0], asked[len(asked) // 2], asked[-1]]
stand = {"SFT": before["known"], **{NAMES[n]: a["known"] for n, a in after.items()}}
rows = {name: [a["prompt"].index(p) for p in picked] for name, a in stand.items()}
show.side_by_side(
    picked,
    {name: [a["response"][i] for i in rows[name]] for name, a in stand.items()},
    {n: [f"gold {a['gold'][i]:+.1f}" for i in rows[n]] for n, a in stand.items()},
)

# %% [markdown] tags=["slide"]
# ### Is it luck?
# An interval over prompts says how it would go with other prompts. It says nothing of another training. Two
# more seeds ran beforehand (`benchmarks/ppo_vs_dpo.py`): other dice, other pairs for DPO, the same
# judge, the same test.

# %% tags=["slide"]
saved = runtime.project_root() / "results" / "ppo_vs_dpo.json"
earlier = runtime.read_json(saved) if saved.exists() else {"seeds": [], "profile": ""}
same_size = earlier["profile"] == profile.name
others = [row for row in earlier["seeds"] if row["seed"] != 0 and same_size]
spread = versus_results.over_seeds([found, *others])
label = "gold reward since SFT, in its standard deviations (known topics)"
plots.save(
    drawings.seed_spread({NAMES[n]: of["each"] for n, of in spread.items()}, label),
    figures,
    "seeds",
    [{"method": NAMES[n], **of} for n, of in spread.items()],
)

# %%
count = 1 + len(others)
print(f"In words, gold in {count} seed(s), mean and range:")
for name, of in spread.items():
    between = f"{of['lowest']:+.2f} to {of['highest']:+.2f}"
    often = f"better than SFT in {of['better']} of {count}"
    print(f"{NAMES[name]:9s} {of['mean']:+.2f} ({between}), {often}")
most = max(spread, key=lambda n: spread[n]["mean"])
rest = max(of["highest"] for n, of in spread.items() if n != most)
apart = "above" if spread[most]["lowest"] > rest else "not above"
if others:
    print(f"Highest mean: {NAMES[most]}, {apart} every seed of every other method.")

# %% [markdown] tags=["slide"]
# ## 7. What if the world moves on?
# New topics arrive: those that were kept out. There are prompts and no labels, for labels take weeks. This
# is where the workshop sees PPO's advantage, "the longer term". First, without any further
# training: who has learned something that carries over?

# %%
as_table(found["new"])

# %% [markdown]
# Now they may go on.
# - **PPO** goes on with the reward model that it has, on the new prompts.
# - **DPO** has nothing to train on. A prompt is no pair.
# - **[Online DPO](../docs/glossary.md#online-dpo)**: unless somebody labels fresh samples. The reward model can: of two answers to each
#   new prompt, the one it likes better is "chosen" (Guo et al. 2024, arXiv 2402.04792). One round here,
#   with as many answers and gradient steps as PPO.
#
# So with a reward model DPO is back in the game; without one, PPO was never in it. **Predict first:** which
# of the two gains more over where it stood?

# %%
for name in versus.GONE_ON:
    versus.stage(common, 0, name, drawn(name))
this_run = versus.run(profile, 0, common)
assert this_run["known"] == found["known"]

# %% [markdown]
# *In words: PPO's six panels again, then the loss of online DPO.* What came of it:

# %%
went_on = this_run["went_on"]
for name, old in versus.GONE_ON.items():
    cost, cell = this_run["budgets"][name], went_on[name]
    took = (
        f"{cost['gradient_steps']} gradient steps, {cost['seconds'] / 60:.1f} minutes"
    )
    print(
        f"{NAMES[name]}: {cost['answers']} answers, {took}. Over {NAMES[old]} before:"
    )
    print(f"   gold {with_interval(cell['gold'])}, {cell['gold']['verdict']};")
    print(f"   its judge {with_interval(cell['proxy'])};", end=" ")
    print(f"KL to SFT {cell['kl']['before']:.1f} → {cell['kl']['after']:.1f} nats")
later = {name: versus.answers(common, name, 0)["new"] for name in versus.GONE_ON}
meet = versus.compare(later["dpo_online"], later["ppo_new"])["gold"]
print(f"PPO less online DPO, at the end: gold {with_interval(meet)}, {meet['verdict']}")
assert {name: len(texts["prompt"]) for name, texts in later.items()} == dict.fromkeys(
    later, profile.versus_samples * len(common.tests["new"])
)

# %%
order = ("ppo", "ppo_new", "dpo", "dpo_online")
on_new = {NAMES[name]: this_run["new"][name]["gold"] for name in order}
columns = [[cell[key] for cell in on_new.values()] for key in ends]
label = "new topics: gold since SFT, in its standard deviations"
n = len(common.tests["new"])
plots.save(
    plots.score_changes(list(on_new), *columns, n=n, xlabel=label),
    figures,
    "new_topics",
    [{"method": name, **cell} for name, cell in on_new.items()],
)

# %%
print("In words, gold on the new topics since SFT:")
for name, cell in on_new.items():
    print(f"{name:13s} {with_interval(cell)}: {cell['verdict']}")
seeds = [this_run, *others]
gains = versus_results.over_seeds(seeds, "went_on")
print(f"Over its own start, {len(seeds)} seed(s):")
for name, of in gains.items():
    between = f"{of['lowest']:+.2f} to {of['highest']:+.2f}"
    print(f"{NAMES[name]:13s} {of['mean']:+.2f} ({between}), better in {of['better']}")

# %% [markdown] tags=["teaching"]
# - **What it is for.** The workshop's claim for PPO, put to a test that it could fail.
# - **Ask.** What exactly did PPO have here that DPO had not? (A judge, not an algorithm.)
# - **The usual wrong answer.** "DPO cannot learn from new prompts." Plain DPO cannot; with the judge it can.

# %% [markdown]
# Whatever stands there, it stands on the judge, which is right on new topics as often as section 3 says.
# Both went where it points. What PPO buys "later" is really what the *reward model* buys: labels for the
# price of a forward pass. DPO can spend them, too; it only has to ask.

# %% [markdown] tags=["slide"]
# ## 8. When to use which?
# Computed from the runs above, each cell with its rule. "Good" is a method that gold finds better than SFT
# in most of the seeds; where only one is good, a row had no choice. The last row asks only what *going on*
# added, in most of the seeds. With other results the table says something else.

# %% tags=["slide"]
advice = versus_results.when_to_use(seeds)
assert len(advice) == 7
pd.DataFrame(advice).set_index("if")

# %% [markdown]
# In the runs shown here DPO has the highest gold gain, and beats PPO where they meet. Most of what PPO gained
# by its judge, gold did not see. Why might that be? Nine batches are few. In them PPO read 288 of the
# model's own answers, and a number for each, from a judge that had read 960 pairs. DPO read 288 of these
# *pairs* itself, written with care, and two whole answers tell more than two numbers. No run here tests
# that. The judge alone is not to blame: best of n asks the same one, and gold finds it better than SFT in
# every seed. Where good pairs are at hand, try DPO first: it needs neither critic nor sampling.
#
# And the longer term: on the new topics neither way of going on gained measurably over its own start in most
# of the seeds, with a judge that is as often right there as on the old ones. That does not mean that
# nothing works there: online DPO stands above SFT by gold in all three, and most of that DPO had brought
# along. **The workshop's claim for PPO is not borne out at this size**; four batches are a small test of it.
#
# A highest mean is no proven lead. Where the duels of section 6 show no difference, the cheaper of the
# two is the better answer.
#
# Two things need no run. Without a reward model, only DPO is left. And where each question may cost n
# answers, try best of n first: if that gains nothing by a second judge, suspect the reward model before you
# train on it. If it gains, PPO may still not: here it did not in most of the seeds.

# %%
runtime.record(
    profile,
    "versus",
    gold={
        topics: {NAMES[n]: row["gold"] for n, row in this_run[topics].items()}
        for topics in ("known", "new")
    },
    went_on={NAMES[n]: row["gold"] for n, row in went_on.items()},
    duels=duels,
    seeds={NAMES[n]: of for n, of in spread.items()},
    judge=accuracy,
    advice=advice,
    seconds_train=sum(cost["seconds"] for cost in budgets.values()),
    seconds=time.perf_counter() - started,
)

# %% [markdown]
# **Doubt.** One model of 135 million weights and a few hundred answers. One set of settings a method, and
# nobody tuned them: a week of work on any of the four might turn the order. Gold is a small model of
# the same family as the judge. The pairs were written for this course, far from what the SFT model
# says itself, and DPO does better on pairs closer to its own answers (Tajwar et al. 2024, arXiv
# 2404.14367). In the literature it goes both ways: Xu et al. 2024 (arXiv 2404.10719) find PPO ahead
# once it is tuned, Ahmadian et al. 2024 (arXiv 2402.14740) find RLOO enough.

# %% [markdown]
# ## Exercises
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. The solutions stand at the end of the notebook. (The comments with
# `SOLUTION` are for teachers who use nbgrader.)

# %%
from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 05.1 Predict the number: both fall
# The policy gives the chosen answer −42 nats and the rejected one −55; the reference gave −40 and −50.
# What is DPO's loss of this pair for β = 0.1?

# %% tags=["exercise"]
### BEGIN SOLUTION
loss_of_the_pair = None
### END SOLUTION

check("05.1", loss_of_the_pair)

# %% [markdown]
# ### 05.2 Write this function: leave one out
# The advantages of RLOO: each reward less the mean of the *other* rewards in its row, without a look at
# section 2.


# %% tags=["exercise"]
def leave_one_out(rewards):
    """(P, n) rewards, n answers to each of P prompts -> (P, n) advantages."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("05.2", leave_one_out)

# %% [markdown]
# ### 05.3 Write this function: when has training paid off?
# A training generated `training` tokens; its model answers each question once. Best of n trains nothing
# and answers each question n times. An answer has `tokens` tokens in both. After how many questions
# have both generated equally much?


# %% tags=["exercise"]
def pays_off(training, n, tokens):
    """Tokens of the training, answers a question, tokens an answer -> questions."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("05.3", pays_off)

# %% [markdown]
# ### 05.4 Break it: less loss, and less of what was chosen
# Give four numbers (policy chosen, policy rejected, reference chosen, reference rejected; sums of
# log-probs) with a loss below that of the start at β = 0.1, although the chosen answer is *less* likely
# than it was.

# %% tags=["exercise"]
### BEGIN SOLUTION
four_sums = None
### END SOLUTION

check("05.4", four_sums)

# %% [markdown]
# ### An open question: closer pairs
# Let DPO learn from pairs of the SFT model's own answers, ranked by the judge, in the place of the
# written ones: `peers.online_pairs` on the known prompts, then `peers.train_dpo` from the SFT adapter.
# As many pairs, as many steps. Does gold like it better?
#
# <details><summary>What to expect</summary>
#
# The implicit reward of the chosen answers falls less, or not at all: these answers are the model's own. Whether gold
# likes it better depends on the judge's labels, which are worse than the written ones. Report the
# interval.
#
# </details>

# %% [markdown]
# ## What can go wrong
# | symptom | likely cause | where it shows |
# |---|---|---|
# | DPO's loss falls, gold falls, too | both answers became rarer, and what took their place is worse | section 5, implicit rewards |
# | DPO's loss stays at log 2 | learning rate too small, or chosen and rejected hardly differ | section 5 |
# | DPO's loss does not begin at log 2 | the reference is not the start: another adapter, dropout, other tokens | the `assert` in section 5 |
# | RLOO hardly moves, most answers clipped | the ratio is the whole answer's: few steps leave the range at this learning rate | section 5, clipped share |
# | the judge gains a lot, gold nothing | the judge is being pleased ([06](06_reward_hacking.ipynb)) | section 6, figure and numbers |
# | online DPO finds few pairs | two samples are often the same text: ties are dropped | its budget, `pairs.json` |
# | going on with new topics loses | the judge is wrong on them | section 3, right or not on new topics |

# %% [markdown]
# ## What we simplified
# 1. **No settings were tuned**, for any method. PPO's are 03's; β and learning rate of DPO are first
#    guesses; RLOO takes PPO's, and usually makes one step a batch where here it makes PPO's four.
# 2. **DPO's log-probs are at temperature 1**, as the paper has them and TRL computes them; all answers, and
#    PPO's and RLOO's log-probs, are at the temperature of sampling.
# 3. **Pairs drawn at random** from the set. One could take the clearest, or each row's best and worst.
# 4. **One round of online DPO.** With many small rounds it comes closer to PPO, in what it does and in what it
#    costs.
# 5. **Best of n is not distilled.** One could fine-tune on the picked answers and pay only once
#    (rejection sampling; Touvron et al. 2023, arXiv 2307.09288).
# 6. **Seconds on a CPU.** On a GPU with a fast sampler the methods that sample look better.

# %% [markdown]
# ## Five questions
#
# **1. In a step of DPO the chosen answer lost 2 nats and the rejected one 5. What does the loss do?**
#
# - A: It rises: the chosen answer became less likely.
# - B: It stays: both became less likely.
# - C: It falls: the difference of the two changes counts, and that grew.
#
# <details><summary>Answer</summary>
#
# **C** is right. To the loss this pair is as well treated as one in which the chosen answer rose by two and the other fell by one.
#
# Not A. The loss does not look at the chosen answer alone. Nothing in it asks that one to rise.
#
# Not B. Only if both had moved by the same amount. Here the difference grew by three nats.
#
# It stands in “1. What does DPO minimise?”.
#
# </details>
#
# **2. Why is DPO left with nothing when prompts of new topics arrive without labels?**
#
# - A: It cannot sample from the model that it trains.
# - B: It learns from pairs, and a prompt alone is none.
# - C: Its reference model knows the old topics only.
#
# <details><summary>Answer</summary>
#
# **B** is right. PPO has the reward model to ask. DPO can borrow that one, and is then called online.
#
# Not A. It could, and online DPO does. But someone has to say which of two samples is the better one.
#
# Not C. The reference is the SFT model, the same for all, and it answers any prompt.
#
# It stands in “7. What if the world moves on?”.
#
# </details>
#
# **3. Two of RLOO's prompts each have four answers; at one of them all four got the same reward. What does that prompt teach?**
#
# - A: Nothing: each answer equals the mean of the others.
# - B: To repeat all four, if the reward is high.
# - C: To avoid all four, since nobody stands out.
#
# <details><summary>Answer</summary>
#
# **A** is right. All four advantages are zero, whether the four are all good or all bad.
#
# Not B. High against what? The baseline is as high as the reward.
#
# Not C. An advantage of zero pushes nowhere, neither up nor down.
#
# It stands in “2. What does each method need?”.
#
# </details>
#
# **4. PPO's verdict by gold is “better”, DPO's is “no difference shown”. What follows for PPO against DPO?**
#
# - A: PPO is better than DPO.
# - B: DPO needs more steps.
# - C: Nothing yet: they have to meet directly, prompt by prompt.
# - D: Gold is biased towards PPO.
#
# <details><summary>Answer</summary>
#
# **C** is right. That is what the duels of the section are for, each with an interval of its own.
#
# Not A. Two verdicts against SFT do not compare the two with each other: their intervals may overlap almost wholly.
#
# Not B. It may or may not. The verdicts say nothing on it.
#
# Not D. It never met either of them. A verdict that one dislikes is no sign of bias.
#
# It stands in “6. Who won?”.
#
# </details>
#
# **5. What do three seeds say that the interval over prompts cannot?**
#
# - A: How the result would differ with other prompts.
# - B: How much another training with the same settings would differ.
# - C: Whether the gold judge is right.
#
# <details><summary>Answer</summary>
#
# **B** is right. Other dice in sampling, another order, other pairs. Three are few: they show a range, not a distribution.
#
# Not A. That is exactly what the interval over prompts says.
#
# Not C. All seeds are read by the same gold judge. Its mistakes are the same in all of them.
#
# It stands in “Is it luck?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("05")

# %% [markdown]
# ## Next
# A judge that is paid attention to need not stay right. [06 · Reward hacking](06_reward_hacking.ipynb) lets
# a run please one until it goes wrong, on purpose.

# %% [markdown]
# ## Solutions
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
change = (-42 - -40) - (-55 - -50)
loss_of_the_pair = math.log1p(math.exp(-0.1 * change))
### END SOLUTION

assert check("05.1", loss_of_the_pair).right


# %% tags=["solution"]
def leave_one_out(rewards):
    ### BEGIN SOLUTION
    others = rewards.sum(1, keepdim=True) - rewards
    return rewards - others / (rewards.shape[1] - 1)
    ### END SOLUTION


assert check("05.2", leave_one_out).right


# %% tags=["solution"]
def pays_off(training, n, tokens):
    ### BEGIN SOLUTION
    return training / ((n - 1) * tokens)
    ### END SOLUTION


assert check("05.3", pays_off).right

# %% tags=["solution"]
### BEGIN SOLUTION
four_sums = (-31.0, -47.0, -30.0, -40.0)
### END SOLUTION

assert check("05.4", four_sums).right
