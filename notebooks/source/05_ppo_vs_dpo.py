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
# **You will give one preference set to five methods, three of them by TRL's trainers, and say which to use when.**
#
# You will be able to
# - compute DPO's loss from four numbers, and say what it does not ask for,
# - run `SFTTrainer`, `DPOTrainer` and `RLOOTrainer` from one adapter, and say where their budgets differ,
# - say what one training of each method can show, and what it cannot.
#
# Needs 01 and the second judge of 04 (or their shipped checkpoints). About 11 minutes on two CPU cores.
#
# In our run the second judge finds DPO and best of n better than the SFT model; the highest gain is best of n's, 0.76
# standard deviations of the SFT model's answers.

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
import math
import random
from functools import partial

import pandas as pd
import torch
from datasets import Dataset

from sawyer_utils import evaluation, losses, models, plots, ppo, reward, show
from sawyer_utils.chapters import drawings, peers, versus
from sawyer_utils.classroom.checks import check
from sawyer_utils.plumbing import trainers

folder = runtime.run_dir(profile, "versus")
figures = folder / "figures"
pd.set_option("display.max_colwidth", None)
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation; this chapter compares other methods for the third.*
#
# ## The whole thing in one picture
#
# A paper of 2023 says in its title that "your language model is secretly a reward model". So why does this
# course still teach PPO? Five ways to use the same
# [preference pairs](../docs/glossary.md#preference-pair), from the same SFT model:
#
# - **SFT on the chosen** answers: the baseline, which sees no rejected answer;
# - **[DPO](../docs/glossary.md#dpo)**: the model learns from the pairs themselves;
# - **RLOO** (REINFORCE leave-one-out): a reward model learns from the pairs, the model from its grades; the
#   [mean of the other answers](../docs/glossary.md#leave-one-out-baseline) to the same prompt takes the critic's place;
# - **PPO**: the same with a critic;
# - **[best of n](../docs/glossary.md#best-of-n)**: nothing learns; of n answers the reward model picks one.
#
# **Predict first:** in which order will a second judge, which none of them ever sees, rank them?

# %% [markdown] tags=["slide"]
# ## 1. What does DPO minimise?
#
# It needs four numbers of a pair: how likely the model that learns, π, finds the chosen and the rejected answer, and how
# likely the frozen SFT model, π_ref, found them, each a *sum* of log-probs over the answer, in nats. From them come two
# **[implicit rewards](../docs/glossary.md#implicit-reward)**, β · (log π − log π_ref): β times how much likelier an answer
# has become. The rest is 02's loss on the difference of two rewards (Rafailov et al. 2023, arXiv 2305.18290,
# equation 7). **Predict first:** training makes *both* answers less likely, the chosen one by 2 nats, the rejected one
# by 5. Does the loss rise or fall?

# %% tags=["nbval-check-output", "slide", "show-code"]
ref_chosen, ref_rejected = -5.0, -6.0  # log π_ref of the two answers, by the frozen one
beta = 0.5


def dpo_by_hand(chosen, rejected):
    """The loss of one pair, from log π of its answers by the model that learns."""
    r_chosen = beta * (chosen - ref_chosen)
    r_rejected = beta * (rejected - ref_rejected)
    return -math.log(1 / (1 + math.exp(-(r_chosen - r_rejected))))


for by_chosen, by_rejected in ((0, 0), (+2, -1), (-2, -5), (-2, +1)):
    pair = ref_chosen + by_chosen, ref_rejected + by_rejected
    loss = dpo_by_hand(*pair)
    print(f"chosen {by_chosen:+d}, rejected {by_rejected:+d}: {loss:.4f}")
    four = [torch.tensor([x]) for x in (*pair, ref_chosen, ref_rejected)]
    assert math.isclose(float(losses.dpo_loss(*four, beta)), loss, rel_tol=1e-6)
assert dpo_by_hand(ref_chosen - 2, ref_rejected - 5) < math.log(2)

# %% [markdown] tags=["teaching"]
# - **What it is for.** The whole of DPO with a pocket calculator, before any library.
# - **Ask.** Which of the four numbers change during the training? (Two. The reference's could be written
#   down once for all.)
# - **The usual wrong answer.** "The loss makes the chosen answer likelier." It asks for a difference; the
#   third line shows both falling.

# %% [markdown]
# It begins at log 2 = 0.693 and is in the third line as low as in the second: DPO asks for a *difference*. If both answers
# become rarer, the model says something else instead, which no pair has judged.
#
# ## 2. What does each method need?
#
# What must be there before it begins, and while it runs?

# %% tags=["slide"]
needs = {
    "SFT on the chosen": ["good answers", "no", "none", "no", "no", "1"],
    "DPO": ["pairs", "no", "none", "no", "yes", "1"],
    "RLOO": ["prompts", "yes", "several a prompt", "no", "yes", "1"],
    "PPO": ["prompts", "yes", "1 a prompt", "yes", "yes", "1"],
    "best of n": ["nothing", "yes, for ever", "none", "no", "no", "n"],
}
what = ["it learns from", "a reward model", "samples while it trains", "a critic"]
what += ["the frozen SFT model", "answers to a question, afterwards"]
pd.DataFrame(needs, index=what)

# %% [markdown]
# DPO never samples: it learns from answers that somebody else wrote. RLOO in a line: of four answers to one prompt, each
# is compared with the mean of the other three.

# %% tags=["nbval-check-output"]
rewards = torch.tensor([[1.0, 0.0, 2.0, -1.0], [0.5, 0.5, 0.5, 0.5]])  # (P, n)
others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
for row in (rewards - others).tolist():
    print([round(x, 2) for x in row])
assert torch.allclose((rewards - others).sum(1), torch.zeros(2), atol=1e-6)

# %% [markdown]
# The second prompt teaches nothing: its answers are equally good.
#
# ## 3. What is kept apart?
#
# About a quarter of the topics is kept out of preferences, reward model and prompts. (The SFT model and 04's second
# judge have seen them.) The reward model is trained anew, as in 02. **Predict first:** how often is it right on pairs of
# topics that it never saw?

# %%
common = versus.prepare(profile)
train, known, new = common.prompts, common.tests["known"], common.tests["new"]
print(f"{len(common.pairs)} pairs to learn from, {len(train)} prompts to train on,")
print(f"{len(known)} to test on known topics, {len(new)} on new ones")
accuracy = {}
for name, pairs in versus.unseen_pairs(profile).items():
    gaps = reward.differences(common.judge, pairs)
    share = evaluation.share_right(gaps, [pair.id for pair in pairs])
    accuracy[name] = dict(zip(("right", "low", "high"), share))
    shown = "{right:.2f} [{low:.2f}, {high:.2f}]".format(**accuracy[name])
    print(f"{name:5s} topics: the judge is right on {shown} of {len(pairs)} pairs")
    learned = {pair.topic for pair in common.pairs}
    assert name == "known" or not learned & {pair.topic for pair in pairs}

# %% [markdown]
# In our run the judge is right on 0.75 of the pairs of known topics, and on 0.72 of those of new ones: little is lost.
#
# ## 4. What is an equal budget?
#
# **Only PPO's settings were ever tuned** (for 03). The others run at first guesses, so a gap between PPO and another
# method may be one of tuning. Equal are the start, the LoRA's size, the judge and the pool of pairs. What is not
# (`8 × 32`: batches × answers):

# %% tags=["slide"]
batches = f"{profile.versus_steps} × {profile.ppo_batch}"
steps = {"SFT": profile.dpo_pairs // profile.dpo_batch}
steps |= {"PPO": profile.versus_steps * profile.ppo_epochs * profile.ppo_minibatches}
steps |= {"RLOO": profile.versus_steps * profile.ppo_minibatches}
few, all_pairs = f"{profile.dpo_pairs}", f"{len(common.pairs)}, by the judge"
lr, ppo_lr = f"{profile.dpo_lr:g}", f"{profile.ppo_lr:g}"
plan = {
    "SFT on the chosen": [few, "none", steps["SFT"], lr, "DPO's"],
    "DPO": [few, "none", steps["SFT"], lr, "a first guess"],
    "RLOO": [all_pairs, f"{batches}, 4 a prompt", steps["RLOO"], ppo_lr, "PPO's"],
    "PPO": [all_pairs, f"{batches}, 1 a prompt", steps["PPO"], ppo_lr, "tuned, for 03"],
    "best of n": [all_pairs, f"{profile.versus_best_of} a question", 0, "-", "none"],
}
what = ["pairs read", "sampled answers", "gradient steps", "learning rate", "settings"]
pd.DataFrame(plan, index=what).T

# %% [markdown] tags=["teaching"]
# - **What it is for.** No comparison is fair in every respect. Say in which it is, before the results
#   are known.
# - **Ask.** Should the judge's training be on PPO's bill? And the writing of the pairs on anybody's?
# - **The usual wrong answer.** "Equal seconds would be fair." On this machine, perhaps; a faster sampler
#   turns it over.

# %% [markdown]
# RLOO uses each answer once (TRL's default), in half of PPO's gradient steps: it clips the ratio of a whole answer, and
# at a second use many answers would lose their gradient.
#
# ## 5. Train
#
# Each training starts from the SFT adapter; what was done before is loaded. First the baseline: SFT once more, on the
# chosen answers of the same pairs that DPO will get.

# %%
from trl import SFTConfig, SFTTrainer

runs, logs = common.folder, {}
count = min(profile.dpo_pairs, len(common.pairs))
pairs = random.Random(0).sample(common.pairs, count)


def said(role, text):
    return [{"role": role, "content": text}]


rows = [said("user", p.prompt) + said("assistant", p.chosen) for p in pairs]
micro = min(profile.sft_micro_batch, profile.dpo_batch)  # rows in memory at once
tokenizer, model = peers.start(profile, common.sft)
config = SFTConfig(
    learning_rate=profile.dpo_lr,  # DPO's: the two differ in the loss alone
    num_train_epochs=1,
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=profile.dpo_batch // micro,
    assistant_only_loss=True,
    **peers.arguments(profile, runs / "sft_chosen"),  # precision, folder, logging
)
trainer = SFTTrainer(
    model=model,
    args=trainers.one_gpu(config),
    train_dataset=Dataset.from_dict({"messages": rows}),
    processing_class=tokenizer,
)
live = plots.LivePlot(plots.loss_curve, steps["SFT"], 6, name="SFT on the chosen")
logs["sft_chosen"] = peers.train(trainer, profile, runs / "sft_chosen", live)
first, last = (logs["sft_chosen"][i]["loss"] for i in (0, -1))
print(f"{len(rows)} chosen answers; loss {first:.2f} first, {last:.2f} last")

# %% [markdown]
# *In words: SFT's loss on the chosen answers, step by step.* It is far above 01's, for these answers are unlike the
# model's own.
#
# Now DPO. TRL copies the adapter, as the frozen reference. After the training we ask it for the four numbers of section 1
# and compute its loss by hand.

# %% tags=["slide", "show-code"]
from trl import DPOConfig, DPOTrainer

rows = [
    {
        "prompt": said("user", p.prompt),
        "chosen": said("assistant", p.chosen),
        "rejected": said("assistant", p.rejected),
    }
    for p in pairs
]
micro = max(1, min(profile.dpo_batch, profile.ppo_micro_batch // 2))  # each is two rows
tokenizer, model = peers.start(profile, common.sft)
config = DPOConfig(
    beta=profile.dpo_beta,  # β: how dear it is to leave the SFT model
    learning_rate=profile.dpo_lr,
    num_train_epochs=1,
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=profile.dpo_batch // micro,
    **peers.arguments(profile, runs / "dpo"),
)
trainer = DPOTrainer(
    model=model,
    args=trainers.one_gpu(config),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
)
draw = partial(plots.loss_curve, ylabel="loss (nats per pair)")
live = plots.LivePlot(draw, steps["SFT"], 6, name="DPO")
logs["dpo"] = peers.train(trainer, profile, runs / "dpo", live)
by_trl, parts = peers.opened(trainer)  # of one batch, after the training
by_hand = float(losses.dpo_loss(*parts, config.beta).mean())
print(f"loss {logs['dpo'][0]['loss']:.4f} first; now, of a batch it has seen:")
print(f"{by_trl:.4f} by TRL, {by_hand:.4f} by hand")
assert abs(by_trl - by_hand) < 1e-3
assert abs(logs["dpo"][0]["loss"] - math.log(2)) < 1e-2  # it starts at its reference

# %% [markdown]
# *In words: DPO's loss, step by step, from log 2.* A step averages eight pairs; the value by hand is of a few.
#
# Its log also holds what became of the two answers themselves.

# %%
implicit = {
    kind: [line[f"rewards/{kind}"] for line in logs["dpo"]]
    for kind in ("chosen", "rejected")
}
end = {kind: sum(values[-5:]) / len(values[-5:]) for kind, values in implicit.items()}
print("implicit reward, mean of the last five steps:", end="  ")
print(", ".join(f"{kind} {value:+.3f}" for kind, value in end.items()))
labels = "gradient steps before", "implicit reward, nats times β"
plots.save(plots.probe_lines(implicit, *labels), figures, "implicit", implicit)

# %% [markdown]
# *Two lines over the gradient steps, the implicit reward of the chosen and of the rejected answers; both begin at 0.*
#
# In our run the chosen answers end at an implicit reward of −0.13: what was chosen has become *less* likely than it was
# for the SFT model, and what was rejected (−0.34) still less.
#
# RLOO samples, so it needs a reward for texts: the judge.

# %%
from trl import RLOOConfig, RLOOTrainer

micro = min(profile.ppo_micro_batch, profile.ppo_batch // profile.ppo_minibatches)
tokenizer, model = peers.start(profile, common.sft)
penalty = profile.missing_stop_penalty  # for an answer that does not end, as in PPO
config = RLOOConfig(
    num_generations=4,
    num_iterations=1,  # each answer is used once
    beta=profile.kl_coef,  # the price of a nat of KL
    learning_rate=profile.ppo_lr,
    max_steps=steps["RLOO"],
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=profile.ppo_batch // profile.ppo_minibatches // micro,
    steps_per_generation=profile.ppo_batch // micro,  # counted in micro-batches
    max_completion_length=profile.response_tokens,
    temperature=profile.temperature,
    top_k=0,  # sample from the whole distribution
    disable_dropout=True,  # the same log-probs twice from the same weights
    **peers.arguments(profile, runs / "rloo"),
)
trainer = RLOOTrainer(
    model=model,
    reward_funcs=peers.TextReward(common.reward_fn, tokenizer, penalty),
    args=trainers.one_gpu(config),
    train_dataset=Dataset.from_list([{"prompt": said("user", p)} for p in train]),
    processing_class=tokenizer,
)
draw = partial(drawings.reward_by_batch, steps=profile.ppo_minibatches)
live = plots.LivePlot(draw, steps["RLOO"], name="RLOO")
logs["rloo"] = peers.train(trainer, profile, runs / "rloo", live)
shares = [line["clip_ratio/region_mean"] for line in logs["rloo"]]
clipped = sum(shares) / len(shares)
print(f"{clipped:.0%} of the answers were clipped and had no gradient.")

# %% [markdown]
# *In words: RLOO's mean reward, batch by batch, the penalty taken off.*
#
# In our run it does not rise. A batch has eight prompts only, and which ones they are moves it most. Only the second of a
# batch's two steps can clip. Last, PPO as in 03, with fewer steps and this
# chapter's judge:

# %%
trainer = None  # memory
tokenizer, model = models.load_actor(profile, common.sft)
config = ppo.PPOConfig.from_profile(profile, steps=profile.versus_steps, seed=0)
trainer = ppo.PPOTrainer(model, tokenizer, common.reward_fn, config, runs / "ppo")
live = plots.LivePlot(plots.ppo_dashboard, profile.versus_steps, 3)
logs["ppo"] = trainer.train(train, live)
models.save_adapter(model, runs / "ppo" / "adapter", models.POLICY)
trainer = model = None
start, end_kl = (logs["ppo"][i]["kl"] for i in (0, -1))
print(f"{len(logs['ppo'])} batches, KL to SFT {start:.1f} → {end_kl:.1f} nats")

# %% [markdown]
# *In words: PPO's six panels, as in 03.*
#
# ## 6. Who won?
#
# All answer the same held-out prompts; best of n picks among the SFT model's answers. Two judges read them: the one that
# PPO, RLOO and best of n used, and **[gold](../docs/glossary.md#gold-reward-model)**, the second judge of 04, which no method
# used. Both scores are in standard deviations of the SFT model's answers.

# %% tags=["slide"]
before = versus.answers(common, common.sft, profile.versus_best_of)
named = {"sft_chosen": "SFT on the chosen", "dpo": "DPO", "rloo": "RLOO", "ppo": "PPO"}
after = {
    name: versus.answers(common, runs / run / "adapter", profile.versus_samples)
    for run, name in named.items()
}
after["best of n"] = versus.best_of_n(before)
found = {name: versus.compare(before, its) for name, its in after.items()}


def interval(cell):
    return "{difference:+.2f} [{low:+.2f}, {high:+.2f}]".format(**cell)


minutes = {named[run]: versus.minutes(log) for run, log in logs.items()}
settings = dict(zip(named.values(), ("untuned", "untuned", "untuned", "tuned for 03")))
table = {}
for name, row in found.items():
    table[name] = {
        "settings": settings.get(name, "none"),
        "its judge, since SFT": interval(row["proxy"]),
        "gold, since SFT": interval(row["gold"]),
        "gold says": row["gold"]["verdict"],
        "tokens": "{before:.0f} → {after:.0f}".format(**row["length"]),
        "finished": "{before:.0%} → {after:.0%}".format(**row["finished"]),
        "KL to SFT, nats": f"{row['kl']['after']:.1f}",
        "minutes of training": f"{minutes.get(name, 0):.1f}",
    }
pd.DataFrame(table)

# %% [markdown]
# The verdicts are by the course's **one rule**: *better* or *worse* where the 95 % interval leaves out zero **and** the
# Wilcoxon test has p < 0.05 (04, section 2). Each prompt counts once, with the mean of its answers. Best of n's KL is the
# upper bound log n − (n − 1)/n.

# %% tags=["slide"]
gold = {name: row["gold"] for name, row in found.items()}
ends = "difference", "low", "high"
columns = [[cell[key] for cell in gold.values()] for key in ends]
verdicts = [cell["verdict"] for cell in gold.values()]
label = "gold reward since SFT, in its standard deviations"
figure = plots.score_changes(list(gold), *columns, len(known), label, verdicts)
plots.save(figure, figures, "gold", [{"method": name} | c for name, c in gold.items()])

# %% [markdown]
# *In words: a row a method, its gain by gold with a 95 % interval; grey where the rule shows no difference.*
#
# In our run gold finds DPO and best of n better than SFT, by 0.29 and 0.76, and shows no difference for SFT on the chosen,
# RLOO and PPO.
#
# Two verdicts side by side do not compare two methods. Here they meet directly. But each is **one training with one
# seed**. How far apart do seeds of one method lie? For 03, PPO was trained five times.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Hold the predictions of the first page against this figure, aloud.
# - **Ask.** Whose gain by its judge is largest, and is that the one that gold likes best?
# - **The usual wrong answer.** "The longest bar has won." Only where they meet directly, and only for these trainings.

# %% tags=["slide"]
duels = {}
meetings = [("DPO", "SFT on the chosen"), ("PPO", "DPO"), ("PPO", "RLOO")]
for one, two in [*meetings, ("PPO", "best of n")]:
    cell = versus.compare(after[two], after[one])["gold"]
    duels[f"{one} less {two}"] = cell
    print(f"{one} less {two:18s}{interval(cell)}: {cell['verdict']}")
seeds = runtime.read_json(runtime.project_root() / "results" / "ppo_seeds.json")
of_seeds = [row["gold"][0] for row in seeds["rows"]]
low, high = min(of_seeds), max(of_seeds)
print(f"\n{len(of_seeds)} seeds of PPO in 03, gold since SFT:")
print(f"from {low:+.2f} to {high:+.2f}, so {high - low:.2f} apart;", end=" ")
together = seeds["together"]["gold"]
print("seeds and prompts together {:+.2f} [{:+.2f}, {:+.2f}]".format(*together))

# %% [markdown]
# 03's PPO ran three times as long under another judge, so only the distance of its seeds counts here. Where two methods
# differ by less, another seed may turn the order, whatever the interval over prompts says.
#
# In our run DPO less SFT on the chosen is 0.42, less than the distance of those seeds. PPO is 0.58 behind best of n, which
# trains nothing.
#
# Now the texts, for the first, the middle and the last prompt. Gold does not check facts: see the last row.

# %%
picked = [known[0], known[len(known) // 2], known[-1]]
stand = {"SFT": before, **after}
rows = {name: [its["prompt"].index(p) for p in picked] for name, its in stand.items()}
show.side_by_side(
    picked,
    {name: [its["response"][i] for i in rows[name]] for name, its in stand.items()},
    {n: [f"gold {its['gold'][i]:+.1f}" for i in rows[n]] for n, its in stand.items()},
)

# %% [markdown] tags=["slide"]
# ## 7. What does the judge know of new topics?
#
# Prompts of new topics arrive, without labels. This is where the workshop sees PPO's advantage. DPO has
# nothing to train on: a prompt is no pair. PPO, RLOO and best of n can go on, for they have a judge to ask. But DPO can ask
# it, too: of two fresh answers the one that the judge likes better is "chosen" ([online DPO](../docs/glossary.md#online-dpo), Guo et al. 2024,
# arXiv 2402.04792). So the advantage is the *reward model's*. Does it pick the better of the model's **own** answers there?

# %% tags=["slide"]
mine = versus.answers(common, common.sft, profile.versus_best_of, "new")
chosen = {"known": found["best of n"]}
chosen["new"] = versus.compare(mine, versus.best_of_n(mine))
print(f"The judge's pick of {profile.versus_best_of}, less their mean, by gold:")
for name, row in chosen.items():
    cell = row["gold"]
    print(f"{name:5s} topics (n = {cell['n']}): {interval(cell)}: {cell['verdict']}")

# %% [markdown]
# In our run its pick on new topics gains 0.62 by gold (0.76 on known ones): there, too, its grades can serve as labels.
#
# Whether PPO or online DPO gains more from such labels, this chapter does not say.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The workshop's claim for PPO, taken apart: what is the algorithm's, what the judge's.
# - **Ask.** What exactly does PPO have here that DPO has not? (A judge, not an algorithm.)
# - **The usual wrong answer.** "DPO cannot learn from new prompts." Plain DPO cannot; with the judge it can.

# %% [markdown] tags=["slide"]
# ## 8. When to use which?
#
# | if | then | because |
# |---|---|---|
# | there is no reward model | DPO, beside SFT on the chosen | the baseline says what the pairs add |
# | a question may cost n answers | best of n first | if gold sees no gain, suspect the judge before you train on it |
# | the reward is a rule, or changes | PPO, RLOO | they take any number for a text |
# | prompts come without labels | any, with a judge | the judge is what labels |
# | two show no difference | the cheaper one | a higher mean is no proven lead |
#
# **Doubt.** A small model, a few hundred answers, one seed, and only PPO was tuned. Gold is of the same family as the
# judge. The pairs were written by language models, and are far from what the SFT model says itself; DPO does better on closer
# ones (Tajwar et al. 2024, arXiv 2404.14367). In the literature it goes both ways: Xu et al. 2024 (arXiv 2404.10719) find PPO
# ahead once it is tuned, Ahmadian et al. 2024 (arXiv 2402.14740) find RLOO enough.

# %%
runtime.record(
    profile,
    "versus",
    gold={"known": gold, "new": {"best of n": chosen["new"]["gold"]}},
    duels=duels,
    judge=accuracy,
    implicit=end,
    rloo_clipped=clipped,
    seconds_train=60 * sum(minutes.values()),
)
print(f"{sum(minutes.values()):.1f} minutes of training, in {len(minutes)} runs")

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`: `check` gives one hint at a time. Solutions stand at the end. (`SOLUTION` is
# for teachers who use nbgrader.)
#
# ### 05.1 Predict the number: both fall
#
# The policy gives the chosen answer −42 nats and the rejected one −55; the reference gave −40 and −50.
# What is DPO's loss of this pair for β = 0.1?

# %% tags=["exercise"]
### BEGIN SOLUTION
loss_of_the_pair = None
### END SOLUTION

check("05.1", loss_of_the_pair)

# %% [markdown]
# ### 05.2 Write this function: leave one out
#
# The advantages of RLOO: each reward less the mean of the *other* rewards in its row.


# %% tags=["exercise"]
def leave_one_out(rewards):
    """(P, n) rewards, n answers to each of P prompts -> (P, n) advantages."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("05.2", leave_one_out)

# %% [markdown]
# ### 05.3 Write this function: when has training paid off?
#
# A training generated `training` tokens; its model answers each question once, best of n answers it n times, each
# time with `tokens` tokens. After how many questions have both generated equally much?


# %% tags=["exercise"]
def pays_off(training, n, tokens):
    """Tokens of the training, answers a question, tokens an answer -> questions."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("05.3", pays_off)

# %% [markdown]
# ### 05.4 Break it: less loss, and less of what was chosen
#
# Give four sums of log-probs (policy chosen, policy rejected, reference chosen, reference rejected) with a loss below that
# of the start at β = 0.1, although the chosen answer is *less* likely than it was.

# %% tags=["exercise"]
### BEGIN SOLUTION
four_sums = None
### END SOLUTION

check("05.4", four_sums)

# %% [markdown]
# ### An open question: tune DPO
#
# Change `learning_rate` or `beta` in DPO's cell and run it and section 6 again: a changed training does not load the old one.
# Why choose by the judge on *training* prompts, not by gold on the test prompts?
#
# <details><summary>Answer</summary>
#
# The best of several tries is partly the luckiest, and gold would no longer be a judge that no method has met.
#
# </details>
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | DPO's loss and gold both fall | what took the place of both answers is worse | section 5, implicit rewards |
# | DPO's loss does not begin at log 2 | the reference is not the start: another adapter, dropout, other tokens | the `assert` in section 5 |
# | the judge gains a lot, gold nothing | the answers please this judge only ([06](06_reward_hacking.ipynb)) | section 6, the table |
#
# ## What we simplified
#
# 1. **One set of settings and one seed a method.** Five of each would take hours here.
# 2. **Pairs drawn at random.** One could take the clearest, or each row's best and worst.
# 3. **Best of n is not distilled.** One could fine-tune on the picked answers and pay only once
#    (rejection sampling; Touvron et al. 2023, arXiv 2307.09288).
# 4. **Minutes on a CPU.** On a GPU with a fast sampler the methods that sample cost less.

# %% [markdown]
# ## Five questions
#
# **1. In a step of DPO the chosen answer lost 2 nats and the rejected one 5. What does the loss do?**
#
# - A: It rises: the chosen answer got rarer.
# - B: It stays: both answers became rarer.
# - C: It falls: their difference grew.
#
# <details><summary>Answer</summary>
#
# **C** is right. To the loss it is as good as one up by two and the other down by one.
#
# Not A. The loss does not look at the chosen answer alone.
#
# Not B. It would, had both moved by the same amount.
#
# It stands in “1. What does DPO minimise?”.
#
# </details>
#
# **2. Two of RLOO's prompts have four answers each; at one of them all four got the same reward. What does that prompt teach?**
#
# - A: Nothing: each equals the others' mean.
# - B: To repeat all four, if the reward is high.
# - C: To avoid all four, since nobody stands out.
#
# <details><summary>Answer</summary>
#
# **A** is right. All four advantages are zero, be the answers good or bad.
#
# Not B. The baseline is then as high as the reward.
#
# Not C. An advantage of zero pushes neither up nor down.
#
# It stands in “2. What does each method need?”.
#
# </details>
#
# **3. Look at the figure of DPO's implicit rewards. Why do both lines begin at 0?**
#
# - A: The first learning rate is zero.
# - B: The policy still is its reference.
# - C: The two answers are equally likely.
#
# <details><summary>Answer</summary>
#
# **B** is right. Both adapters are equal there, so log π − log π_ref is zero.
#
# Not A. The first value is measured before any step, whatever its size.
#
# Not C. They are not; each is held against its own chance by the reference.
#
# It stands in “5. Train”.
#
# </details>
#
# **4. Look at the last lines below the duels: how far five seeds of PPO lie apart. Two methods, one seed each, lie less far apart, and the interval leaves out zero. What follows?**
#
# - A: These two models differ; the methods may not.
# - B: One method is better than the other by that much.
# - C: Nothing at all, since the interval must be wrong.
#
# <details><summary>Answer</summary>
#
# **A** is right. Another seed of either may turn the order.
#
# Not B. The interval is over prompts, of these two trainings alone.
#
# Not C. It is right about these two models, on prompts like these.
#
# It stands in “6. Who won?”.
#
# </details>
#
# **5. Look at the output of section 7. If the pick on new topics is worth something by gold, which part earned it?**
#
# - A: PPO's: it alone can use such prompts.
# - B: Best of n's: it has seen the new topics.
# - C: The judge's: it ranks answers there.
#
# <details><summary>Answer</summary>
#
# **C** is right. Any method that asks a judge can live on it.
#
# Not A. Nothing was trained; online DPO and RLOO can use the pick as well.
#
# Not B. It learns nothing, and has seen nothing.
#
# It stands in “7. What does the judge know of new topics?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("05")

# %% [markdown]
# ## Next
#
# A judge need not stay right once a model is trained to please it: [06 · Reward hacking](06_reward_hacking.ipynb).

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
