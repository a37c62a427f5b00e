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
# # 09 · Rewards that a program can check
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/09_checkable_rewards.ipynb)
#
# **You will pay a model for answers that a program can check, with our trainer and with TRL's `GRPOTrainer`, and see what
# such a reward buys and what it does not look at.**
#
# You will be able to
# - measure pass@k, and choose a task that a training can learn from,
# - run `GRPOTrainer` and rejection sampling beside our trainer, on equal budgets,
# - say how such a reward is won without what was meant.
#
# Needs 01 and 02 (or their shipped checkpoints). About 9 minutes on two CPU cores.
#
# In our run the share of right answers to held-out prompts went from 0.23 to 0.69 with our trainer and to 0.44 with TRL's; SFT
# on right answers reached 0.68.

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
import statistics

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from sawyer_utils import data, evaluation, losses, models, plots, ppo, reward, show
from sawyer_utils.chapters import checkable, peers, versus
from sawyer_utils.classroom.checks import check
from sawyer_utils.plumbing import trainers

folder = runtime.run_dir(profile, "checkable")
figures = folder / "figures"
GROUP, SEEDS = 4, (0, 1, 2)  # answers to each prompt; trainings of each method
pd.set_option("display.max_colwidth", None)
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *Four boxes in a row: SFT, reward model, PPO, evaluation; this chapter puts a program in the place of the second.*
#
# ## The whole thing in one picture
#
# 06 showed what a learned judge is worth once a model is trained to please it. Some questions need no judge: whether a
# sum is right, a test passes, or a list has five items, a program can say. Such a **[checkable
# reward](../docs/glossary.md#checkable-reward)** needs no labels and no second model, and models for *reasoning* have
# been trained with one since 2025 (DeepSeek-AI 2025, arXiv 2501.12948). From the same SFT model, three ways to use it:
#
# - **ours**: PPO with a [group baseline](../docs/glossary.md#group-baseline), four answers to each prompt and no critic;
# - **[GRPO](../docs/glossary.md#grpo)**, the same idea, by TRL;
# - **[rejection sampling](../docs/glossary.md#rejection-sampling)**: sample, keep what is right, fine-tune on it.
#
# **Predict first:** which of the three will be right most often on prompts that none has seen?

# %% [markdown] tags=["slide"]
# ## 1. What can a program check?
#
# Our task: "Name 3 fruits, separated by commas." An answer is right if it has exactly three items, all different, of one to
# three words each. A second reward looks at the *form* alone: two or more items of one to three words.
# **Predict first:** which of the six answers below are right, and which have the form?

# %% tags=["nbval-check-output", "slide", "show-code"]
task = checkable.own_task("list", train=8, test=4)
answers = ["Apple, pear, plum.", "Apple, pear and plum.", "Apple, apple, apple."]
answers += ["I would say apples, pears, plums.", "Table, chair, lamp."]
answers += ["Apple, pear, and apple."]
for said in answers:
    right, form = task.check(said, "3"), task.form(said)
    print(f"{said:34s} right {int(right)}   form {int(form)}")
assert [task.check(said, "3") for said in answers] == [1, 0, 0, 0, 1, 1]

# %% [markdown] tags=["teaching"]
# - **What it is for.** A reward that is a few lines long can be read whole. Nobody could do that with 02's judge.
# - **Ask.** Which of the right ones would you send to somebody who asked for fruits?
# - **The usual wrong answer.** "The program has a bug." It does what it says; it was never asked about fruits.

# %% [markdown]
# A learned judge errs on texts unlike those it was trained on, and a policy finds such texts (06). This program is not
# learned: its rule can be read. It compares strings: "pear and plum" is one item, and "and apple" differs from "apple".
#
# **What is not checked is not paid for:** "Table, chair, lamp." is right. A reward for the form alone asks for even less;
# section 6 trains on that one, too.
#
# ## 2. Can the model do it at all?
#
# A training can only make more frequent what the model sometimes says. So measure first: sample N = 8 answers to a
# prompt. If c of them are right, then k of them, drawn without putting back, hold at least one right answer with the
# chance 1 − C(N − c, k) / C(N, k). Its mean over prompts is **[pass@k](../docs/glossary.md#passk)** (Chen et al. 2021,
# arXiv 2107.03374, equation 1). For rewards of 0 and 1 it is the mean best reward of k answers, which 03 computes:

# %% tags=["nbval-check-output"]
right = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]])  # (prompts, N)
for k in (1, 4, 8):
    by_hand = [1 - math.comb(8 - c, k) / math.comb(8, k) for c in right.sum(1)]
    mean = statistics.mean(by_hand)
    print(f"pass@{k}: {mean:.3f}, of the first prompt {by_hand[0]:.3f}")
    assert np.allclose(by_hand, evaluation.best_of_n(right, k))

# %% [markdown]
# Now five tasks, on prompts of the *training* side (no choice may look at the test). The last column counts what the
# training will see: groups of four answers of which some are right and some are not. **Predict first:** on which task is
# pass@8 nearly 1 without the model knowing anything?

# %% tags=["slide"]
ready = "adapter/adapter_model.safetensors"
sft = runtime.find_stage(profile, "sft", ready) / "adapter"
sizes = checkable.settings(profile)  # this chapter's steps and lengths
tasks = checkable.tasks(sizes, GROUP)
pass_at = {}
for name, task in tasks.items():
    said = checkable.answers(sizes, sft, sft, task.train[:24], 8)
    right = np.reshape(task.reward(said["prompt"], said["response"]), (-1, 8))
    of_four = right.reshape(-1, GROUP).sum(1)
    best = {k: evaluation.best_of_n(right, k).mean() for k in (1, 4, 8)}
    pass_at[name] = {f"pass@{k}": float(share) for k, share in best.items()}
    differ = (of_four > 0) & (of_four < GROUP)
    pass_at[name]["groups that differ"] = float(differ.mean())
    print(f"{name:10s}{said['prompt'][0].splitlines()[0]}\n    {said['response'][0]}")
pd.DataFrame(pass_at).T.round(2)

# %% [markdown] tags=["teaching"]
# - **What it is for.** It is the cheapest experiment of all, and it decides whether the dear one makes sense.
# - **Ask.** "backwards" has pass@8 near 0. What would a training on it learn in an hour?
# - **The usual wrong answer.** "The hardest task has the most to learn from." Where nothing is ever right, nothing is
#   ever paid for.

# %% [markdown]
# In our run *list* has a pass@1 of 0.23 and a pass@8 of 0.67: seldom right, but not never, and 0.50 of its groups differ.
# *larger* has 0.39 and 0.88: some answers name neither number.
#
# With *backwards* and *sorted* a training would be paid hardly anything. For *larger*, whoever guesses is right half
# the time, and eight guesses hold a right one in 255 of 256 cases. **pass@k counts luck**, so a task needs a low chance
# of guessing. *sentence* would do as well; *list* has a form that can be paid alone.
#
# ## 3. What does a group teach?
#
# Without a critic the other answers to the same prompt say what was to be expected: the
# [leave-one-out baseline](../docs/glossary.md#leave-one-out-baseline) of 05. GRPO takes the mean of all four and *divides by their spread*
# (Shao et al. 2024, arXiv 2402.03300). **Predict first:** which rows of four rewards teach nothing? And what does the division make
# of the last row, from a judge whose marks hardly differ?

# %% tags=["nbval-check-output", "slide", "show-code"]
rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
rewards = torch.cat([rewards, torch.tensor([[0.51, 0.5, 0.5, 0.5]])])  # (groups, 4)
others = (rewards.sum(1, keepdim=True) - rewards) / (GROUP - 1)
centred = rewards - rewards.mean(1, keepdim=True)
divided = centred / (rewards.std(1, keepdim=True) + 1e-4)
for row, loo, by_std in zip(rewards, rewards - others, divided):
    shown = ["".join(f"{x:6.2f}" for x in of.tolist()) for of in (row, loo, by_std)]
    print("rewards{}  leave one out{}  GRPO{}".format(*shown))
column = rewards.reshape(-1, 1)  # answers of one token each
grpo = divided * GROUP / (GROUP - 1)  # ours has it larger, by n/(n − 1)
for scale, by_hand in ((False, rewards - others), (True, grpo)):
    found = losses.group_advantages(column, column > -1, GROUP, scale)
    assert torch.allclose(found.reshape(-1, GROUP), by_hand, atol=1e-3)

# %% [markdown]
# A group that is all right or all wrong gives exactly zero: the reward does not push, only the KL does. The division
# makes of a difference of 0.01 as much as of one of 1: groups that nearly agree are blown up (Dr. GRPO, Liu et al.
# 2025, arXiv 2503.20783, leaves it out). For a reward of 0 and 1 it matters little, for a judge's marks it may. Our
# trainer leaves it out, unless asked (`group_scale=True`).
#
# ## 4. What is an equal budget?

# %% tags=["slide"]
chosen = tasks.get("list") or tasks["gsm8k"]
PENALTY = 1.0  # what an answer that does not end loses
rate, beta, per_step = 1e-3, profile.kl_coef, sizes.ppo_batch // GROUP
learns = f"{sizes.ppo_steps} × {per_step} prompts × {GROUP}"
steps = sizes.ppo_steps * sizes.ppo_minibatches
plan = {
    "ours": [learns, f"{steps}", f"{rate:g}", "nothing", "in the reward"],
    "TRL's GRPO": [learns, f"{steps}", f"{rate:g}", "the spread", "in the loss (k3)"],
    "SFT on right answers": [learns, "3 epochs", f"{profile.sft_lr:g}", "", "none"],
    "SFT on random answers": [learns, "3 epochs", f"{profile.sft_lr:g}", "", "none"],
}
what = ["sampled answers", "gradient steps", "learning rate"]
what += ["advantage divided by", f"KL, β = {beta}"]
pd.DataFrame(plan, index=what).T

# %% [markdown]
# Start, LoRA, prompts and number of answers are equal. Rejection sampling keeps one right answer of four; a prompt with
# none drops out. Its **control** is fine-tuned on the prompts that are left, with *any* of their four answers: what it
# gains does not come from picking right ones. k3 is 03's estimate of the KL.
#
# ## 5. Train
#
# Three seeds of each, ours and TRL's by turns. Ours first; new beside 03 is `baseline`, with its group size:


# %% tags=["show-code"]
def ours(seed, reward_fn, name="ours"):
    """Our trainer with a group baseline: its log, and its peak of memory in GiB."""
    run = folder / f"{name}-{seed}"
    tokenizer, model = models.load_actor(profile, sft)
    config = ppo.PPOConfig.from_profile(
        sizes,
        baseline="group",  # leave one out, no critic
        group_size=GROUP,
        epochs=1,  # each answer is used once
        learning_rate=rate,
        kl_coef=beta,
        missing_stop_penalty=PENALTY,
        seed=seed,
    )
    trainer = ppo.PPOTrainer(model, tokenizer, reward_fn, config, run)

    def train():
        log = trainer.train(chosen.train)
        models.save_adapter(model, run / "adapter", models.POLICY)
        return log

    return checkable.with_peak(train, run)


# %% [markdown]
# TRL's takes the same reward function, in a wrapper that hands it texts and subtracts the penalty. It samples
# with transformers, as ours does.

# %%
from trl import GRPOConfig, GRPOTrainer


def asked(prompts):
    return [{"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts]


def by_grpo(seed):
    """The same by TRL."""
    run = folder / f"grpo-{seed}"
    micro = min(sizes.ppo_micro_batch, sizes.ppo_batch // sizes.ppo_minibatches)
    tokenizer, model = peers.start(profile, sft)
    config = GRPOConfig(
        num_generations=GROUP,
        num_iterations=1,  # each answer is used once
        beta=beta,
        learning_rate=rate,
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=sizes.ppo_batch // sizes.ppo_minibatches // micro,
        steps_per_generation=sizes.ppo_batch // micro,  # counted in micro-batches
        max_completion_length=sizes.response_tokens,
        temperature=sizes.temperature,
        top_k=0,  # sample from the whole distribution
        disable_dropout=True,
        **peers.arguments(profile, run) | {"seed": seed},
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=peers.TextReward(chosen.reward, tokenizer, PENALTY),
        args=trainers.one_gpu(config),
        train_dataset=Dataset.from_list(asked(chosen.train)),
        processing_class=tokenizer,
    )
    return checkable.with_peak(lambda: peers.train(trainer, profile, run), run)


# %%
logs, peaks = {"ours": [], "TRL's GRPO": []}, {"ours": [], "TRL's GRPO": []}
for seed in SEEDS:
    by_ours, by_trl = ours(seed, chosen.reward), by_grpo(seed)
    for name, (log, peak) in (("ours", by_ours), ("TRL's GRPO", by_trl)):
        logs[name].append(log)
        peaks[name].append(peak)
logs["form alone"] = [ours(0, chosen.form_alone, "form")[0]]
curves = {  # the mean reward of each batch, over the seeds
    name: np.mean([[x["reward"] for x in log if "reward" in x] for log in of], 0)
    for name, of in logs.items()
}
curves = {name: of.tolist() for name, of in curves.items()}
figure = plots.probe_lines(curves, "batches trained on before", "reward of the batch")
plots.save(figure, figures, "reward", curves)

# %% [markdown]
# *Three lines over the batches: the mean reward with our trainer and with TRL's GRPO, three trainings each, and of the one
# training that is paid for the form alone. TRL's counts the penalty, ours does not.*
#
# In our run the batch's reward went from 0.18 to 0.72 with ours and from 0.22 to 0.47 with TRL's, means of three seeds.
#
# Rejection sampling: four answers to each training prompt, then SFT as in 01.

# %% tags=["show-code"]
from trl import SFTConfig, SFTTrainer


def tuned(seed, right):
    """SFT on one right answer a prompt, or on any of the four."""
    run = folder / f"sft-{'right' if right else 'random'}-{seed}"
    said = checkable.answers(sizes, sft, sft, chosen.train, GROUP, seed)
    rows = checkable.picked(chosen, said, seed, right)
    micro = min(profile.sft_micro_batch, len(rows))
    tokenizer, model = peers.start(profile, sft)
    config = SFTConfig(
        learning_rate=profile.sft_lr,
        num_train_epochs=3,
        per_device_train_batch_size=micro,
        assistant_only_loss=True,
        **peers.arguments(profile, run) | {"seed": seed},
    )
    trainer = SFTTrainer(
        model=model,
        args=trainers.one_gpu(config),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return peers.train(trainer, profile, run)


for name, right in (("SFT on right answers", True), ("SFT on random answers", False)):
    logs[name] = [tuned(seed, right) for seed in SEEDS]
    ends = [statistics.mean(log[i]["loss"] for log in logs[name]) for i in (0, -1)]
    print(f"{name:22s} {len(logs[name][0])} steps, loss {ends[0]:.2f} → {ends[1]:.2f}")

# %% [markdown]
# ## 6. Who is right more often?
#
# All answer the held-out prompts, which are about things that no training prompt names. Each interval draws seeds and
# prompts (03, section 9): three seeds make it wide. *form alone* has one seed: its interval leaves out how seeds differ.

# %%
runs = {"ours": "ours", "TRL's GRPO": "grpo", "form alone": "form"}
runs |= {"SFT on right answers": "sft-right", "SFT on random answers": "sft-random"}


def test(adapter):
    return checkable.answers(sizes, sft, adapter, chosen.test, profile.versus_samples)


def by_prompt(said, pay):
    """(prompts,) mean of a reward over the answers to each."""
    return evaluation.group_means(pay(said["prompt"], said["response"]), said["prompt"])


before = test(sft)
after = {
    name: [test(folder / f"{run}-{i}" / "adapter") for i in range(len(logs[name]))]
    for name, run in runs.items()
}
pays = chosen.reward, chosen.form_alone
found = {}
for name, of in after.items():
    for pay in pays:
        gains = [by_prompt(said, pay) - by_prompt(before, pay) for said in of]
        found.setdefault(name, {})[pay.__name__] = evaluation.over_seeds(gains)
    for key in ("kl", "length", "finished"):
        found[name][key] = statistics.mean(statistics.mean(said[key]) for said in of)
start = {pay.__name__: float(by_prompt(before, pay).mean()) for pay in pays}
start |= {"length": statistics.mean(before["length"])}


# %% tags=["slide"]
def interval(mean, low, high):
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


table = {}
for name, row in found.items():
    table[name] = {
        "trainings": len(after[name]),
        "right": f"{start['reward']:.2f} → {start['reward'] + row['reward'][0]:.2f}",
        "gain": interval(*row["reward"]),
        "gain of form": interval(*row["form_alone"]),
        "KL to SFT, nats": f"{row['kl']:.1f}",
        "tokens": f"{start['length']:.0f} → {row['length']:.0f}",
        "finished": f"{row['finished']:.0%}",
    }
pd.DataFrame(table)

# %% tags=["slide"]
columns = list(zip(*(row["reward"] for row in found.values())))
size = len(set(before["prompt"]))
label = "gain in the share of right answers"
figure = plots.score_changes(list(found), *columns, size, label)
figure.axes[0].margins(y=0.12)
plots.save(figure, figures, "gains", [{"run": n} | r for n, r in found.items()])

# %% [markdown]
# *A row a method: how much larger the share of right answers to held-out prompts became, with a 95 % interval; a grey dot
# where it includes zero, an orange triangle where it lies above.*
#
# In our run the gain is 0.45 with ours, 0.21 with TRL's, 0.44 with SFT on right answers and 0.11 with its control. The run
# that was paid for the form gained 0.45 of form, from 0.49, and 0.16 of right answers: mostly form without substance.
#
# Now the methods against each other, seed by seed, and the answers to three prompts.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The control is the row that most reports leave out.
# - **Ask.** What would you say if SFT on random answers had gained as much as SFT on right ones?
# - **The usual wrong answer.** "Then the reward does not work." Then this table cannot show that it does.

# %% tags=["slide"]
duels = {}
pairs = [("ours", "TRL's GRPO"), ("ours", "SFT on right answers")]
for one, two in [*pairs, ("SFT on right answers", "SFT on random answers")]:
    sides = [[by_prompt(said, chosen.reward) for said in after[n]] for n in (one, two)]
    pair = f"{one} less {two}"
    duels[pair] = evaluation.over_seeds(np.subtract(*sides))
    print(f"{pair:48s}", interval(*duels[pair]))

# %%
few = [chosen.test[0], chosen.test[len(chosen.test) // 2], chosen.test[-1]]
few = [prompt for prompt in few if prompt in before["prompt"]]
stand = {"SFT": before} | {name: of[0] for name, of in after.items()}
rows = {name: [said["prompt"].index(p) for p in few] for name, said in stand.items()}
texts = {n: [said["response"][i] for i in rows[n]] for n, said in stand.items()}
marks = {n: ["✗✓"[int(x)] for x in chosen.reward(few, of)] for n, of in texts.items()}
show.side_by_side(few, texts, marks)

# %% [markdown]
# In our run no pair shows a difference: ours less TRL's 0.25 [−0.14, 0.61], ours less SFT on right answers 0.01
# [−0.35, 0.29], right less random answers 0.33 [−0.01, 0.59]. Which method is best, three seeds cannot say.
#
# In the texts, look for items that were not asked for, and for one repeated after "and".
#
# ## 7. What did it cost?
#
# First the chat. 02's judge reads each model's answers to the course's test prompts; 1 is one standard deviation of
# the SFT model's. **Predict first:** which method has lost most?

# %% tags=["slide"]
ready = "model/adapter_model.safetensors"
judge = reward.RewardModel.load(runtime.find_stage(profile, "reward", ready) / "model")
rows = data.load_prompts("test", profile.prompts, profile.versus_prompts)
prompts = [row["prompt"] for row in rows]
talks = {"SFT": checkable.answers(profile, sft, sft, prompts, kl=False)}
for name, run in runs.items():
    adapter = folder / f"{run}-0" / "adapter"
    talks[name] = checkable.answers(profile, sft, adapter, prompts, kl=False)
scored = {n: judge.score(said["prompt"], said["response"]) for n, said in talks.items()}
spread = statistics.stdev(scored["SFT"])
scored = {name: [x / spread for x in of] for name, of in scored.items()}
chat = {}
for name in runs:
    c = evaluation.compare_rewards(scored["SFT"], scored[name])
    chat[name] = {"difference": c.difference, "low": c.low, "high": c.high}
    length = statistics.mean(talks[name]["length"])
    print(f"{name:22s}{interval(c.difference, c.low, c.high)}: {c.verdict};", end=" ")
    print(f"{statistics.mean(talks['SFT']['length']):.0f} → {length:.0f} tokens")

# %% [markdown]
# In our run the judge's reward changed by −0.08 with ours (seed 0), −0.17 with TRL's and 0.19 with SFT on right answers: no
# difference is shown. But the answers became shorter.
#
# Then the machine: seconds of an iteration (sample 32 answers, grade, update), and the process's peak of memory, ours and
# TRL's by turns in this one run.

# %% tags=["slide"]
cost = {}
for name, of in peaks.items():
    seconds = [60 * versus.minutes(log) / sizes.ppo_steps for log in logs[name]]
    cost[name] = {"seconds": statistics.median(seconds), "least": min(seconds)}
    cost[name] |= {"most": max(seconds), "GiB": statistics.median(of)}
ratio = cost["TRL's GRPO"]["seconds"] / cost["ours"]["seconds"]
print(f"TRL's iteration takes {ratio:.1f} times as long as ours on this machine.")
pd.DataFrame(cost).T.round(2)

# %% [markdown]
# TRL is made for GPUs, with vLLM: one small CPU gives no verdict on those.
#
# ## 8. When one card is not enough
#
# Our trainer runs in several processes, but it cuts no model into pieces. TRL's runs under Accelerate with everything that
# Accelerate can do, and **prompts and reward function stay as they are**: `grpo_launch.py` beside this notebook holds the cell of section 5
# as a script.
#
# ```
# accelerate launch --num_processes 2 --multi_gpu notebooks/grpo_launch.py
# accelerate launch --num_processes 4 --use_deepspeed --zero_stage 2 notebooks/grpo_launch.py
# ```
#
# The first line was run for this release, by a test and with two CPU processes (there, too, it wants `--multi_gpu`). **Not
# run:** several GPUs, DeepSpeed (the second line), FSDP, and `use_vllm=True`. `accelerate config` writes such settings into
# a file.
#
# What has to stay the same is the reward. For eight texts, every second one a right answer that we wrote:

# %% tags=["slide"]
tokenizer = models.load_tokenizer(profile)
some, texts = before["prompt"][:8], before["response"][:8]
keys = [chosen.keys[prompt] for prompt in some[::2]]
is_list = chosen.name == "list"
texts[::2] = [", ".join("abcde"[: int(k)]) if is_list else f"#### {k}" for k in keys]
ids = [[*tokenizer(t).input_ids, tokenizer.eos_token_id] for t in texts]
talk = [row["prompt"] for row in asked(some)]
by_trl = peers.TextReward(chosen.reward, tokenizer, PENALTY)(talk, None, ids)
by_ours = chosen.reward(some, texts)
print("ours ", by_ours, "\nTRL's", by_trl)
assert by_ours == by_trl
assert set(by_ours[::2]) == {1.0}

# %% [markdown]
# **Doubt.** A small model (here of 135 million parameters), one easy task, 192 answers to a training, three seeds. That a training
# raises pass@1 does not say that it taught anything new: it may say more often what the model could say before (Yue et
# al. 2025, arXiv 2504.13837).

# %%
runtime.record(
    profile,
    "checkable",
    task=chosen.name,
    pass_at=pass_at,
    start=start,
    right={name: start["reward"] + row["reward"][0] for name, row in found.items()},
    found=found,
    duels=duels,
    curves={name: [of[0], of[-1]] for name, of in curves.items()},
    chat=chat,
    cost=cost,
    seconds_train=60 * sum(versus.minutes(log) for of in logs.values() for log in of),
)
print(f"peak memory {runtime.record_peak(profile, 'checkable'):.1f} GiB")

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`: `check` gives one hint at a time. Solutions stand at the end. (`SOLUTION` is
# for teachers who use nbgrader.)
#
# ### 09.1 Predict the number: pass@4
#
# Of ten sampled answers to a prompt three are right. What is this prompt's pass@4?

# %% tags=["exercise"]
### BEGIN SOLUTION
pass_at_4 = None
### END SOLUTION

check("09.1", pass_at_4)

# %% [markdown]
# ### 09.2 Why is my loss 0?
#
# Given a batch's rewards, say which prompts give no gradient (β is 0).


# %% tags=["exercise"]
def silent(rewards):
    """(P, n) rewards, n answers to each of P prompts -> (P,) True: no gradient."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("09.2", silent)

# %% [markdown]
# ### 09.3 Write this function: how often will a group be silent?
#
# A prompt's answers are right with chance `p`, each by itself. How likely do all `n` of a group get the same
# reward?


# %% tags=["exercise"]
def chance_of_silence(p, n):
    """Chance of a right answer (pass@1), answers in a group -> chance."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("09.3", chance_of_silence)

# %% [markdown]
# ### 09.4 Break it: form without substance
#
# Write one text that `form` pays for and that is wrong for *every* number from 2 to 5.

# %% tags=["exercise"]
### BEGIN SOLUTION
empty_form = None
### END SOLUTION

check("09.4", empty_form)

# %% [markdown]
# ### An open question: pay for the kind, too
#
# Write a reward that also looks whether the items *are* fruits. What would you check against, and how would a policy win that one?
#
# <details><summary>Answer</summary>
#
# A list of fruits: then it names the same five for ever, and other fruits count as wrong. A learned judge: then 06 begins again.
#
# </details>
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | the loss is 0, nothing moves | all answers of each group score the same | section 2, groups that differ |
# | the reward is 0 for ever | the model never does it: pass@8 is 0 | section 2 |
# | reward up, answers useless | what is useful is not checked | section 6, the answers |
# | the loss wanders around 0 while the reward rises | a group's advantages add up to 0: this loss measures no progress | the reward |
#
# ## What we simplified
#
# 1. **Few settings tried.** Learning rate and β come from one pilot of each trainer on training prompts; both use the same.
# 2. **One easy task.** Under `colab` the same cells take GSM8K; `SAWYER_CHECKABLE` names a file or Hub id with `question` and
#    `answer` (ending in `#### 42`).
# 3. **Each answer is used once.** 03 uses it twice.
# 4. **One answer to each chat prompt,** of seed 0 alone, and one judge.

# %% [markdown]
# ## Five questions
#
# **1. “Table, chair, lamp.” gets the full reward for “Name 3 fruits”. What follows?**
#
# - A: The program is wrong and will be exploited.
# - B: What is not checked is not paid for.
# - C: A judge should have been trained instead.
#
# <details><summary>Answer</summary>
#
# **B** is right. A policy need not name fruits, only three different strings. The program did what it says.
#
# Not A. It counts three different strings, and there are three. It was asked nothing else.
#
# Not C. It would look at the fruits, and could then be pleased in ways that nobody foresees (06).
#
# It stands in “1. What can a program check?”.
#
# </details>
#
# **2. Look at “larger” in section 2. Suppose such a task has a pass@1 of 0.5 and a pass@8 near 1, and its prompts offer two choices. What does it show?**
#
# - A: Little: that is what guessing gives.
# - B: That it could do it with more answers.
# - C: That training will bring it to 1 soon.
#
# <details><summary>Answer</summary>
#
# **A** is right. Half of all guesses are right, and eight of them nearly always hold one. Compare with the chance of guessing.
#
# Not B. More answers find a right one by luck, and a learner of luck learns nothing.
#
# Not C. There is something to be paid for, but nothing yet says that the model can tell the two apart.
#
# It stands in “2. Can the model do it at all?”.
#
# </details>
#
# **3. With β = 0, TRL logs a loss of 0 and no gradient for a batch. Its rewards are 1, 1, 1, 1 for each prompt. Why?**
#
# - A: The learning rate has fallen to zero.
# - B: A reward of 1 is too small to matter.
# - C: All answers of a group score the same.
#
# <details><summary>Answer</summary>
#
# **C** is right. Each equals the mean of the others, so every advantage is exactly zero, be the answers good or bad.
#
# Not A. Then the weights would stay, but the gradient would be there.
#
# Not B. Its size is irrelevant: a thousand for all would give the same zero.
#
# It stands in “3. What does a group teach?”.
#
# </details>
#
# **4. Look at the figure of gains in section 6. Suppose SFT on random answers lay level with SFT on right ones. What would the reward have bought?**
#
# - A: As much as the upper of the two shows.
# - B: Nothing that this comparison can show.
# - C: Half of it, since both share the prompts.
#
# <details><summary>Answer</summary>
#
# **B** is right. Whatever both gained comes from more SFT on the model's own answers, not from picking right ones.
#
# Not A. All of that came without picking as well: the control's answers were drawn at random.
#
# Not C. There is no half: the two differ in the picking alone, and it made no difference.
#
# It stands in “6. Who is right more often?”.
#
# </details>
#
# **5. Look at the row “form alone” in section 6. If its form rose and its right answers did not, what was missing?**
#
# - A: More steps: substance follows the form later.
# - B: A smaller β, so that it may move further.
# - C: A part of the reward that asks for it.
#
# <details><summary>Answer</summary>
#
# **C** is right. The number of items was not in that reward. What you want has to be in the check.
#
# Not A. Nothing pays for the number of items, however long it runs.
#
# Not B. It moved to what it was paid for. Moving further would bring more of that.
#
# It stands in “6. Who is right more often?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("09")

# %% [markdown]
# ## Next
#
# Write a check of a few lines for a task of your own (`checkable.OWN` holds ours). Then
# [10 · AI feedback](10_ai_feedback.ipynb): a language model in the place of the voter.

# %% [markdown]
# ## Solutions
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
pass_at_4 = 1 - math.comb(7, 4) / math.comb(10, 4)
### END SOLUTION

assert check("09.1", pass_at_4).right


# %% tags=["solution"]
def silent(rewards):
    ### BEGIN SOLUTION
    return rewards.max(1).values == rewards.min(1).values
    ### END SOLUTION


assert check("09.2", silent).right


# %% tags=["solution"]
def chance_of_silence(p, n):
    ### BEGIN SOLUTION
    return p**n + (1 - p) ** n
    ### END SOLUTION


assert check("09.3", chance_of_silence).right

# %% tags=["solution"]
### BEGIN SOLUTION
empty_form = "one, one"
### END SOLUTION

assert check("09.4", empty_form).right
