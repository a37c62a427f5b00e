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
# # 03 · PPO: learning from a grade
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/03_ppo.ipynb)
#
# **You will train SAWYER with a grade instead of an example, and know what every curve means.**
#
# You will be able to
# - compute KL, per-token reward, advantage and clipped loss by hand,
# - run PPO step by step and say what each step did to which token,
# - tell a healthy run from a sick one.
#
# In our run the reward rose by 0.53 of SFT's standard deviations on 120 unseen questions, by 0.52 at equal length. Five
# trainings rose by 0.34 to 0.61.
#
# | In our run | SFT | SFT + RLF |
# |---|---:|---:|
# | mean reward | −0.01 | 0.52 |
# | KL to SFT, nats | 0 | 7.50 |
# | tokens | 21.29 | 23.30 |
#
# RLF: reinforcement learning from feedback. Needs 01 and 02 (or their shipped checkpoints). About 6 minutes on two
# CPU cores.

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
# Now the model of 01 learns from the judge of 02.

# %% tags=["slide"]
import inspect
import re
import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from sawyer_utils import chat, data, evaluation, health, losses
from sawyer_utils import models, plots, ppo, reward, rollout, show
from sawyer_utils.classroom import snapshots
from sawyer_utils.classroom.checks import check

folder = runtime.run_dir(profile, "ppo")
figures = folder / "figures"
started = time.perf_counter()
display(plots.save(plots.four_stages(here="ppo"), figures, "stages"))
plots.save(plots.rl_loop(), figures, "rl_loop")

# %% [markdown] tags=["teaching"]
# - **What it is for.** The whole algorithm with four people: one writes, one grades, one remembers
#   how the first used to write, one nudges. Let them do one round on paper.
# - **Ask.** What would happen without the one who remembers?
# - **The usual wrong answer.** "It would learn faster." It would, to please the judge: section 8
#   shows such a run.

# %% [markdown]
# *Four boxes: SFT, reward model, PPO (here), evaluation. Below, its loop: prompt,
# [policy](../docs/glossary.md#policy) (1), answer to the reward model (2); the score (3) and the KL to a frozen copy
# of the SFT model go into the update (4).*
#
# ## Why not simply keep the best answer?
#
# The simplest use of a judge: sample eight answers and keep the one it likes most. **Predict first:** how much better
# than the average is it, and at what cost?
#
# One base carries the SFT adapter twice: `policy` learns, `ref` never does.

# %% tags=["slide"]
sft_folder = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
reward_folder = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors")
# PeftModel.from_pretrained(base, adapter, adapter_name="policy", is_trainable=True)
# and then model.load_adapter(adapter, adapter_name="ref"), for any profile's device:
tokenizer, model = models.load_actor(profile, sft_folder / "adapter")
judge = reward.RewardModel.load(reward_folder / "model")
prompts = {"train": data.load_prompts("train", profile.prompts, profile.limit)}
prompts["test"] = data.load_prompts("test", profile.prompts)
for split, rows in prompts.items():
    fitting = chat.that_fit(tokenizer, rows, profile.prompt_tokens)
    prompts[split] = [row["prompt"] for row in fitting]
train_prompts = prompts["train"]
test_prompts = data.spread(prompts["test"], profile.eval_prompts)  # over all topics
assert not set(train_prompts) & set(test_prompts)
trainable, total = models.count_parameters(model)
print(type(model).__name__, "with the adapters", *model.peft_config)
print(f"{trainable / 1e6:.1f} of {total / 1e6:.0f} million weights learn.")
print(f"{len(train_prompts)} prompts to practise on, {len(test_prompts)} for later\n")

tried = train_prompts[:4]
torch.manual_seed(0)
with models.merged(model):
    repeated = [prompt for prompt in tried for _ in range(8)]
    size = profile.response_tokens, profile.temperature
    eight = rollout.sample(model, tokenizer, repeated, *size)
scores = torch.tensor(judge.score(eight.prompts, eight.responses)).view(len(tried), 8)
for i, prompt in enumerate(tried):
    best = int(scores[i].argmax())
    print(f"{prompt}\n   {scores[i, best]:+.2f}: {eight.responses[8 * i + best]}")
gain = float((scores.max(1).values - scores.mean(1)).mean())
print(f"\nThe best of eight scores {gain:.2f} above the average of its eight.")
assert gain >= 0  # a maximum is never below its mean

# %% [markdown] tags=["teaching"]
# - **What it is for.** The rival that needs no training. Come back to it in 04, section 7.
# - **Ask.** How much better is the best of eight than the average, and who pays for it, when?
# - **The usual wrong answer.** "Eight times better." The best of eight gains about 1.4
#   standard deviations, if the scores are bell-shaped.

# %% [markdown]
# In our run that is, on four prompts, about 1 on section 5's scale. PPO gains about half of it (section 9), but pays
# once, not eight answers at every question.
#
# ## 1. How far has the policy drifted?
#
# The policy gave an answer's four tokens these [log-probabilities](../docs/glossary.md#log-probability), the
# [reference](../docs/glossary.md#reference-model) those. The difference, `k1`, estimates the [KL
# divergence](../docs/glossary.md#kl-divergence). One value is negative, although a KL divergence never is. **Predict
# first:** is that a mistake? With three words the exact KL can be summed, and the means of `k1` and another
# estimator, `k3`.

# %% tags=["nbval-check-output", "slide", "show-code"]
# Letters: B batch, P prompt tokens, R response tokens, T = P + R, V vocabulary.
logprobs = torch.tensor([[-0.5, -1.2, -0.3, -0.1]])  # (B, R) log π of the tokens
ref_logprobs = torch.tensor([[-0.7, -1.0, -0.9, -0.1]])  # (B, R) log π_ref of the same
k1 = logprobs - ref_logprobs  # (B, R)
print("k1 per token ", [round(v, 4) for v in k1[0].tolist()])
print("k1 in all    ", round(float(k1.sum()), 4))
assert torch.equal(k1, losses.kl_k1(logprobs, ref_logprobs))

pi = torch.tensor([0.7, 0.2, 0.1])  # (V,) the policy over three words
ref = torch.tensor([0.5, 0.25, 0.25])  # (V,) the reference
exact = float((pi * (pi / ref).log()).sum())  # the definition
ratio = ref / pi  # (V,)
each = {"k1": -ratio.log(), "k3": ratio - 1 - ratio.log()}  # if this word is sampled
for name, values in each.items():
    mean = float((pi * values).sum())
    words = "  ".join(f"{v:+.4f}" for v in values.tolist())
    print(f"{name}, three words: {words}   mean {mean:.4f}   exact KL {exact:.4f}")
    assert abs(mean - exact) < 1e-6
assert torch.allclose(each["k3"], losses.kl_k3(pi.log(), ref.log()))

# %% [markdown]
# No mistake: where the reference likes a token more, one sample's estimate is below zero. Both are right on average.
# `k3` is never negative ([Schulman's note](http://joschu.net/blog/kl-approx.html)). `k1` goes into the reward: so the
# update follows, on average, the KL's own gradient.
#
# ## 2. What is each token paid?
#
# The grade comes once, at the end; the KL is charged at every token. Token t earns −β · k1, the last one the score on
# top (Ziegler et al. 2019, equation 2). **Predict first:** the four numbers for β = 0.1 and a score of 1.

# %% tags=["nbval-check-output", "slide", "show-code"]
mask = torch.ones(1, 4, dtype=torch.bool)  # (B, R) all four tokens are real
score = torch.tensor([1.0])  # (B,)
rewards = losses.token_rewards(score, k1, mask, kl_coef=0.1)  # (B, R)
by_hand = torch.tensor([[-0.02, 0.02, -0.06, 0.0 + 1.0]])
print([round(v, 4) for v in rewards[0].tolist()])
assert torch.allclose(rewards, by_hand, atol=1e-6)

# %% [markdown]
# The second token is paid: the reference likes it more.
#
# ## 3. Who earned it?
#
# A grade at the end does not say which token deserved it. The [critic](../docs/glossary.md#critic) guesses, before
# each token, what is still to come: `values`. An *[advantage](../docs/glossary.md#advantage)* is how much better
# things went than guessed; λ sets how far later surprises count (generalised advantage estimation, GAE). By hand,
# backwards, then by the package:

# %% tags=["nbval-check-output"]
values = torch.tensor([[0.5, 0.55, 0.6, 0.8]])  # (B, R) V(s_t)


def advantages_by_hand(rewards, values, gamma=1.0, lam=0.95):
    advantage, found = 0.0, []
    for t in reversed(range(4)):
        next_value = values[t + 1] if t < 3 else 0.0  # after the stop there is nothing
        delta = rewards[t] + gamma * next_value - values[t]  # δ_t: the surprise
        advantage = delta + gamma * lam * advantage  # A_t
        found.insert(0, advantage)
    return found


hand = advantages_by_hand(rewards[0].tolist(), values[0].tolist())
rows = {}
for lam in (0.0, 0.5, 0.95, 1.0):
    advantages, returns = losses.gae(rewards, values, mask, gamma=1.0, lam=lam)
    rows[f"λ = {lam}"] = [round(v, 4) for v in advantages[0].tolist()]
    if lam == 0.95:
        assert torch.allclose(advantages[0], torch.tensor(hand), atol=1e-6)
print(pd.DataFrame(rows, index=[f"token {t}" for t in range(1, 5)]).to_string())

# %% [markdown]
# At λ = 0 a token answers only for the surprise right after it, at 1 for everything that followed, with
# all its noise.
#
# What if the critic has no guesses yet? Two answers, of 4 tokens and of 20, are both graded 1. **Predict first:** for
# which λ does the first token earn the same in both?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A setting that is rarely questioned can favour short answers.
# - **Ask.** Two answers get the same grade, one is five times as long. For which λ does the first
#   token earn the same?
# - **The usual wrong answer.** "λ only sets the noise." Below 1, without a critic that helps, it
#   also pays for being brief.

# %% tags=["nbval-check-output", "slide"]
for lam in (0.95, 1.0):
    earned = {}
    for length in (4, 20):
        paid = torch.zeros(1, length)  # (B, R)
        paid[0, -1] = 1.0
        silent = torch.zeros_like(paid)
        found, _ = losses.gae(paid, silent, torch.ones_like(paid).bool(), lam=lam)
        earned[length] = float(found[0, 0])
    print(f"λ = {lam:.2f}: first of 4 tokens {earned[4]:.3f}, of 20 {earned[20]:.3f}")
assert earned[4] == earned[20] == 1.0

# %% [markdown]
# Below 1 a grade is worth less the later it comes: **short answers are paid for, although nobody asked for it.** A
# good critic would mend that; ours starts from nothing, so λ is 1.
#
# ## 4. How big a step?
#
# An update makes tokens with a positive advantage likelier. Repeated on the same samples, which came from the *old*
# policy, it overshoots. So PPO looks at the [ratio](../docs/glossary.md#probability-ratio) π/π_old: once it has gone
# 20 % in the direction that pays, that token has no gradient. This [clip](../docs/glossary.md#clipping) is no
# bound: other tokens move the same weights.
#
# **Predict first:** of four cases, ratio 1.5 or 0.5 with advantage +1 or −1, which have no gradient?

# %% [markdown] tags=["teaching"]
# - **What it is for.** The clip ends a gradient; it is no bound.
# - **Ask.** Which of the four cases have no gradient? Vote on each before the cell runs.
# - **The usual wrong answer.** "Every ratio outside 0.8 to 1.2." Only those that already went
#   further in the direction that pays.

# %% tags=["slide"]
ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
new = ratio.log().requires_grad_()  # log π, with log π_old = 0
loss = losses.policy_loss(new, torch.zeros(4), advantage, clip=0.2)
loss.sum().backward()
for r, a, value, slope in zip(ratio, advantage, -loss.detach(), new.grad):
    held = "clipped, no gradient" if slope == 0 else "still pushed"
    print(f"ratio {r:.1f}, advantage {a:+.0f}: surrogate {value:+.1f}   {held}")
assert torch.allclose(-loss.detach(), torch.tensor([1.2, 0.5, -1.5, -0.8]))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
r = torch.linspace(0, 2, 201)
for ax, sign in zip(axes, (1.0, -1.0)):
    same = torch.zeros_like(r), torch.full_like(r, sign)
    surrogate = -losses.policy_loss(r.log(), *same)
    ax.plot(r, r * sign, ":", color="#767676", lw=2, label="unclipped")
    ax.plot(r, surrogate, color="#D55E00", lw=2.4, label="PPO")
    ax.axvline(1, color="#333333", lw=1, label="nothing moved")
    ax.set(xlabel="ratio π / π_old", title=f"advantage {sign:+.0f}")
    ax.set_xticks([0, 0.5, 0.8, 1, 1.2, 1.5, 2])
axes[0].set_ylabel("surrogate to maximise")
axes[1].legend(loc="upper right")  # no curve is there
plots.save(figure, figures, "clip", {"ratio": r, "surrogate_minus": surrogate})

# %% [markdown]
# *Two panels: PPO's curve is flat above 1.2 for a good token (left), below 0.8 for a bad one (right).*
#
# A good token that became rarer, or a bad one that became likelier, is still pushed back.
#
# ## 5. What does one real step do?
#
# The reward gets a scale: 0 is the SFT model's average answer, 1 is one [standard
# deviation](../docs/glossary.md#standard-deviation) better. Then a **[rollout](../docs/glossary.md#rollout)**:
# answers to eight prompts, and what policy and reference think of them. Nothing has been updated, so the KL is
# exactly zero. Then **score** and **advantages**: orange is better than the batch's average, blue worse.

# %% tags=["slide"]
models.restart(model)  # the policy is SFT, however often this cell runs
torch.manual_seed(1)
calibration_prompts = train_prompts[:64]
calibration = evaluation.answer(model, tokenizer, calibration_prompts, profile, seed=1)
reward_fn, sft_mean, sft_std = reward.standardised(
    judge.score, calibration_prompts, calibration.responses
)
n = len(calibration_prompts)
print(f"raw reward of {n} SFT answers: {sft_mean:.2f} ± {sft_std:.2f}")
rescaled = torch.tensor(reward_fn(calibration_prompts, calibration.responses))
assert abs(float(rescaled.mean())) < 1e-4

once = ppo.PPOConfig.from_profile(profile, micro_batch=8, minibatches=1)
slow = ppo.PPOTrainer(model, tokenizer, reward_fn, once)
torch.manual_seed(2)
batch = slow.rollout(train_prompts[:8])
B, R = batch.response_mask.shape
kl = losses.kl_k1(batch.logprobs, batch.ref_logprobs)  # (B, R)
print(f"{B} answers of up to {R} tokens; largest |KL| of any: {float(kl.abs().max())}")
assert float(kl.abs().max()) == 0.0
assert float(batch.values.abs().max()) == 0.0  # the critic starts by saying nothing
slow.advantages(slow.score(batch))
lines = []
for i in range(min(B, 5)):
    own = batch.response_mask[i]
    tokens = [tokenizer.decode([t]) for t in batch.response_ids[i][own]]
    shades = batch.advantages[i][own].tolist()
    lines.append(([f"[{batch.scores[i]:+.2f}] ", *tokens], [0.0, *shades]))
show.shaded_tokens(lines, "score of the answer, then its tokens and their advantages")

# %% [markdown]
# All tokens of an answer have one shade: critic and KL are zero and λ is 1, so each earns the score at the end
# (scaled to mean 0 and variance 1 over the batch's tokens).
#
# **Update:** two passes over the eight answers. Which tokens moved most?

# %% tags=["slide"]
models.restart(model)
before = batch.logprobs.clone()
stats = slow.update(batch)
after, _ = slow._evaluate(batch)
real = batch.response_mask
assert stats["ratio_error"] < 1e-2  # the first ratio is 1: nothing had moved
change = (after - before).masked_fill(~real, 0.0)
agree = (change[real].sign() == batch.advantages[real].sign()).float().mean()
print(f"{agree:.0%} of the tokens moved in the direction of their advantage.")
outside = ((change[real].exp() - 1).abs() > 0.2).float().mean()
print(f"{outside:.0%} have a ratio outside 0.8 to 1.2; the largest is", end=" ")
print(f"{float(change[real].exp().max()):.1f}.")
drift = float(-change.sum(1).mean())  # sampled by SFT: mean of log π_SFT − log π
print(f"KL(SFT ‖ updated policy), estimated on these answers: {drift:.2f} nats")
moved = []
for name, sign in (("up", 1), ("down", -1)):
    for flat in (sign * change).flatten().topk(4).indices.tolist():
        i, t = divmod(flat, R)
        token = tokenizer.decode([int(batch.response_ids[i, t])])
        chance = f"{before[i, t].exp():.4f} → {after[i, t].exp():.4f}"
        credit = f"{batch.advantages[i, t]:+.2f}"
        moved.append((name, token, chance, credit, batch.prompts[i][:48]))
names = ["moved", "token", "probability", "advantage", "in the answer to"]
pd.DataFrame(moved, columns=names)

# %% [markdown]
# Not all tokens follow their advantage, and some go far beyond 20 %: so PPO samples afresh before each step. This KL
# is from SFT, which wrote these answers, to the policy; section 7's is the reverse.
#
# ## 6. What does the trainer look like inside?
#
# `step` calls the four methods that you have just called. Three of them, and where the trainer differs from the
# papers:

# %%
# Look for section 2 in `score`, for section 3 in `advantages`; skip the rest at first.
for method in (ppo.PPOTrainer.score, ppo.PPOTrainer.advantages, ppo.PPOTrainer.update):
    print(inspect.getsource(method))
text = inspect.getdoc(ppo)
print(text[text.index("Where this differs") :])

# %% [markdown]
# ## 7. Train
#
# From the SFT model again: first the settings, then six curves.
#
# | curve | formula | when it drifts |
# |---|---|---|
# | reward | mean score | flat: steps too small |
# | KL | Σ log π − log π_ref | runs away: raise β |
# | length | tokens | climbs: the judge likes length |
# | finished | share that stopped | falls: length pays more |
# | clipped | ratios outside 0.8 to 1.2 | stays above 0.2: steps too big |
# | [explained variance](../docs/glossary.md#explained-variance) | 1 − Var(returns − values)/Var(returns) | 0: no help |

# %% tags=["slide"]
models.activate(model, models.POLICY)
models.load_policy_weights(model, sft_folder / "adapter")
SEED = 0  # the median of five, see section 9
config = ppo.PPOConfig.from_profile(profile, seed=SEED)
why = {
    "steps": "few, to fit a lesson; published runs take thousands",
    "batch_size": "answers a step; with fewer, the mean score is too noisy to follow",
    "epochs": "passes over the same answers; after many they no longer fit the policy",
    "minibatches": "optimizer updates a pass: epochs × minibatches of them a step",
    "learning_rate": "high, as LoRA bears it; falls to a tenth by the end",
    "kl_coef": "β: the price of a nat of drift, in standard deviations of the reward",
    "clip": "ε of section 4, as in the PPO paper",
    "lam": "λ of section 3: below 1, short answers would be paid for",
    "missing_stop_penalty": "taken off an answer that does not stop in time",
}
for name, reason in why.items():
    print(f"{name:21s}{getattr(config, name):<8g}{reason}")

# %% tags=["slide"]
trainer = ppo.PPOTrainer(model, tokenizer, reward_fn, config, folder)
live = plots.LivePlot(plots.ppo_dashboard, config.steps, folder=folder)
frozen = next(p for n, p in model.named_parameters() if ".ref." in n)
ref_weights = frozen.detach().clone()
half = max(1, config.steps // 2)
watch = snapshots.Watch(trainer, train_prompts[:4], half, folder / "watch.json")
watch.start()


def keep(log):
    """Draw the log; keep some answers, and each quarter an adapter for notebook 04."""
    live(log)
    watch(log)
    if len(log) % max(1, config.steps // 4) == 0:
        saved = folder / "milestones" / f"step-{len(log):02d}"
        models.save_adapter(model, saved, models.POLICY)


log = trainer.train(train_prompts, on_step=keep)
models.save_adapter(model, folder / "adapter", models.POLICY)
runtime.write_json(folder / "log.json", log)
phases = ("rollout", "score", "update")
spent = {p: sum(line[f"seconds_{p}"] for line in log) for p in phases}  # resumed, too
seconds_train = sum(spent.values())
minutes = seconds_train / 60
print(f"{len(log)} steps of {config.batch_size} answers, {minutes:.1f} minutes.")
print("time:", ", ".join(f"{p} {s / seconds_train:.0%}" for p, s in spent.items()))
assert log[0]["kl"] == 0.0  # it started exactly at SFT
assert torch.equal(ref_weights, frozen)  # and the reference never moved

# %% [markdown]
# *Six curves over the steps, each with its healthy range below it; band: one standard deviation.*
#
# A stopped training goes on from its last [checkpoint](../docs/glossary.md#checkpoint), on a CPU identically.
# Below, a new trainer finds the whole run. Then read: four prompts before, halfway and at the end.

# %% tags=["slide"]
again = ppo.PPOTrainer(model, tokenizer, reward_fn, config, folder)
assert again.load_checkpoint()
assert again.log == log
print(f"found {again.steps_done} steps, {config.steps - again.steps_done} to go\n")
third = max(1, len(log) // 3)
units = {"reward": "SFT standard deviations", "kl": "nats", "length": "tokens"}
thirds = {}
for key, unit in units.items():
    ends = log[:third], log[-third:]
    thirds[key] = [statistics.mean(line[key] for line in end) for end in ends]
    start, end = thirds[key]
    print(f"{key:7s} first third {start:6.2f}   last third {end:6.2f}   {unit}")
findings = health.diagnose(log) if len(log) > 3 else ["too few steps to judge"]
print(*(findings or ["rules of thumb: nothing stands out"]), sep="\n")
show.rollouts(watch.taken)

# %% [markdown]
# In our run the mean reward went from −0.11 in the first third of the steps to 0.42 in the last, the KL from 2.57 to
# 7.21 nats: the gain was paid for with drift. Length climbs, too (section 9).
#
# ## 8. Is this run healthy?
#
# Four saved runs, three of them made sick on purpose; B and D had other rewards, so compare shapes, not heights.
# **Write down a diagnosis for each** before you open the answers.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Reading curves is what is left when PPO has become a call to a library. In
#   pairs, ten minutes, before the answers are opened.
# - **Ask.** Which curve told you first? What would you change, and which curve would show that it
#   worked?
# - **The usual wrong answer.** "The reward rises, so the run is fine." It rises in the sick runs as
#   well.

# %% tags=["slide"]
saved = runtime.project_root() / "results" / "ppo_runs.json"
runs = runtime.read_json(saved) if saved.exists() else {}
for name, run in runs.items():
    print(f"{name} says at its last step:")
    for sample in run["log"][-1]["samples"][:2]:
        print(f"   {sample['prompt'][:60]}  ->  {sample['response'][:110]!r}")
figure, axes = plt.subplots(2, 2, figsize=(10, 6.8), sharex=True)
colours = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
looks = zip(colours, "osD^", ("-", "--", "-.", ":"))
drawn = [(run["log"], name, look) for (name, run), look in zip(runs.items(), looks)]
for ax, (key, title, unit, _) in zip(axes.flat, plots.PANELS):
    for lines, name, (colour, mark, style) in drawn:
        steps, values = [x["step"] for x in lines], [x[key] for x in lines]
        ax.plot(steps, values, color=colour, marker=mark, ls=style, lw=2, label=name)
    ax.set(title=title, ylabel=unit)
for ax in axes[1]:
    ax.set_xlabel("step")
axes[0, 0].legend(ncols=2, fontsize=11)
plots.save(figure, figures, "four_runs")

# %% [markdown]
# *Four panels. A's KL goes to 38 nats, then its answers shrink; B's shrink to four tokens at 8 nats; C stays near its
# start; D's reward and length climb, and hardly an answer finishes.*
#
# <details><summary>The four diagnoses</summary>
#
# - **Run A, KL running away.** No KL penalty, a learning rate five times too large. Remedy: β, smaller steps.
# - **Run B, collapse.** Brevity is paid for, and nothing holds the policy. Remedy: pay nothing for silence; β.
# - **Run C, healthy.** Reward up a little, KL bounded, answers end.
# - **Run D, forgetting to stop.** Length is paid for, stopping is not. Remedy: a larger missing-stop penalty.
#
# </details>
#
# ## 9. Before and after
#
# Prompts that no stage has seen, one sampled answer each, the same seed. **Predict first:** do all of them gain?

# %% tags=["slide"]
models.load_policy_weights(model, folder / "adapter")
with models.using(model, models.REF):
    sft_answers = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
ppo_answers = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
sft_rewards = reward_fn(test_prompts, sft_answers.responses)
ppo_rewards = reward_fn(test_prompts, ppo_answers.responses)
comparison = evaluation.compare_rewards(sft_rewards, ppo_rewards)
print(comparison)  # notebook 04 explains the tests in it
print(f"\nIn words, by interval and rank test: {comparison.verdict}.")
both = {"sft": sft_rewards, "ppo": ppo_rewards}
table = {"prompt": test_prompts, **both}
plots.save(plots.reward_histograms(both), figures, "rewards", table)

# %% [markdown]
# *Two overlapping histograms of the reward; lines at the means.*
#
# In our run the mean rose by 0.53 [0.35, 0.71], and the reward fell on a share of 0.26 of the prompts.
#
# What did it cost? Then the best change, the median, the worst; and of the other answers that *gained*, the one with
# most new figures and names. Check its facts.

# %% tags=["slide"]
kl = evaluation.kl_to_reference(model, ppo_answers, models.REF, config.compute)
low, high = evaluation.bootstrap_interval(kl)
lengths = sft_answers.lengths, ppo_answers.lengths
# Regression of the change in reward, read where the length did not change:
matched = evaluation.length_matched(sft_rewards, ppo_rewards, *lengths)
print(f"KL to SFT   {statistics.mean(kl):.2f} nats an answer [{low:.2f}, {high:.2f}]")
for name, answers in (("SFT", sft_answers), ("SFT + RLF", ppo_answers)):
    mean, ended = map(statistics.mean, (answers.lengths, answers.finished))
    print(f"{name:10s}  length {mean:.1f} tokens, finished {ended:.0%}")
gain = matched.adjusted, matched.adjusted_low, matched.adjusted_high
print("gain at equal length: {:+.2f} [{:+.2f}, {:+.2f}]".format(*gain), end=" ")
print(f"of {comparison.difference:+.2f}")


def claims(i):
    """Figures, and names inside a sentence, that the question does not have."""
    found = re.findall(r"\d[\d,.]*|(?<=[a-z,] )[A-Z]\w+", ppo_answers.responses[i])
    return sum(one.lower() not in test_prompts[i].lower() for one in found)


order = sorted(range(len(test_prompts)), key=lambda i: ppo_rewards[i] - sft_rewards[i])
picked = [order[-1], order[len(order) // 2], order[0]]
rest = [i for i in order if i not in picked]
rose = [i for i in rest if ppo_rewards[i] > sft_rewards[i]] or rest
picked.append(max(rose, key=claims))
columns = {"SFT": (sft_answers, sft_rewards), "SFT + RLF": (ppo_answers, ppo_rewards)}
show.side_by_side(
    [test_prompts[i] for i in picked],
    {name: [a.responses[i] for i in picked] for name, (a, _) in columns.items()},
    {n: [f"reward {r[i]:+.2f}" for i in picked] for n, (_, r) in columns.items()},
)

# %% [markdown]
# In our run the drift is 7.50 nats; at equal length 0.52 of 0.53 is left: length explains little.
#
# A judge that knows few facts can like a made-up name as well as a true one: **reward can rise while truth falls.**
#
# ### Would another seed say the same?
#
# `benchmarks/ppo_seeds.py` trained five times; only the training's seed differed. This notebook's run has the
# **median** gain, by a rule fixed beforehand. PPO never met the second judge, notebook 04's.

# %% tags=["slide"]
seeds_file = runtime.project_root() / "results" / "ppo_seeds.json"
seeds = runtime.read_json(seeds_file)


def interval(numbers):
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*numbers)


shown = {
    f"seed {row['seed']}": {
        "gain": interval(row["reward"]),
        "at equal length": f"{row['at_equal_length'][0]:+.2f}",
        "by the second judge": interval(row["gold"]),
        "wins, second judge": f"{row['gold_wins'][0]:.0%}",
        "KL, nats": f"{row['kl']:.1f}",
        "tokens": "{:.0f} → {:.0f}".format(*row["tokens"]),
        "finished": "{:.0%} → {:.0%}".format(*row["finished"]),
    }
    for row in seeds["rows"]
}
all_seeds = seeds["together"]
print("median seed:", all_seeds["median_seed"])
print("gain over seeds and prompts   ", interval(all_seeds["reward"]))
print("by the second judge, likewise ", interval(all_seeds["gold"]))
pd.DataFrame(shown).T

# %% [markdown]
# In our run with five seeds the gain lies between 0.34 and 0.61. With prompts *and* seeds drawn it is 0.49 [0.22,
# 0.77], covering another training, too.
#
# ## 10. A baseline without a critic
#
# A critic has to be learned, and in a few dozen steps it learns little. A simpler baseline: answer each prompt four
# times, and compare each answer with the [mean score of the *others*](../docs/glossary.md#leave-one-out-baseline)
# (RLOO: Ahmadian et al. 2024, arXiv 2402.14740). GRPO (Shao et al. 2024, arXiv 2402.03300) also divides by the
# group's spread. **Predict first:** what does that do to scores 2 apart, 0.02 apart, and equal?

# %% [markdown] tags=["teaching"]
# - **What it is for.** What a critic is for, seen by leaving it out; and the step from PPO to GRPO.
# - **Ask.** Two prompts: the judge is sure in one, and hardly sees a difference in the other. Which one should teach more?
# - **The usual wrong answer.** "Dividing only sets the scale." One scale for the whole batch would; one for each group
#   makes near ties as loud as clear wins.


# %% tags=["nbval-check-output", "slide", "show-code"]
def group_baseline(scores, scale=False):
    """(G,) advantages of G answers to one prompt, each paid its score alone."""
    others = (scores.sum() - scores) / (len(scores) - 1)  # (G,) mean without its own
    advantages = scores - others
    return advantages / (scores.std() + 1e-4) if scale else advantages


groups = {"2 apart": [1.0, 2, 2, 3], "0.02 apart": [1.99, 2, 2, 2.01]}
groups |= {"equal": [2.0] * 4}
for name, scores in groups.items():
    scores = torch.tensor(scores)  # (G,)
    for scale in (False, True):
        found = group_baseline(scores, scale)
        words = "  ".join(f"{value + 0:+.2f}" for value in found.tolist())
        print(f"{name:11s}{'divided' if scale else 'plain':9s}{words}")
        one_token = scores[:, None], torch.ones(4, 1).bool()  # (B, R), B = G
        ours = losses.group_advantages(*one_token, 4, scale)
        assert torch.allclose(ours[:, 0], found, atol=1e-3)

# %% [markdown]
# Divided, a difference of 0.02 counts as much as one of 2: where the judge hardly sees a difference, its noise is
# learned (Liu et al. 2025, arXiv 2503.20783). So `group_scale` is off here. Equal scores teach nothing.
#
# Five saved trainings each, of 24 steps of 32 answers: to 32 prompts with the critic, to eight prompts four times with
# the group (`PPOConfig.from_profile(profile, baseline="group")`). Difference: group minus critic.

# %%
paths = {"critic": seeds_file, "group": seeds_file.with_name("ppo_group_seeds.json")}
sides = {k: runtime.read_json(p)["rows"] for k, p in paths.items() if p.exists()}
if "group" not in sides:
    print("The group's runs are not in results/, so the critic stands alone.")


def gains(rows):
    """Gains, (seeds, prompts) by each judge, and (seeds, 1) at equal length."""
    found = {"judge": [row["gains"]["reward"] for row in rows]}
    found["second judge"] = [row["gains"]["gold"] for row in rows]
    return found | {"equal length": [row["at_equal_length"][:1] for row in rows]}


gained = {side: gains(rows) for side, rows in sides.items()}
if "group" in sides:  # seed by seed, prompt by prompt
    both = [(k, gained["group"][k], gained["critic"][k]) for k in gained["critic"]]
    gained["difference"] = {k: np.subtract(group, critic) for k, group, critic in both}
baselines, table = {}, {}
for side, by in gained.items():
    baselines[side] = {k: evaluation.over_seeds(values) for k, values in by.items()}
    table[side] = {k: interval(found) for k, found in baselines[side].items()}
for side, rows in sides.items():
    cost = {"KL, nats": statistics.mean(row["kl"] for row in rows)}
    cost["tokens"] = statistics.mean(row["tokens"][1] for row in rows)
    baselines[side] |= cost
    table[side] |= {k: f"{mean:.1f}" for k, mean in cost.items()}
assert np.allclose(baselines["critic"]["judge"], all_seeds["reward"])
pd.DataFrame(table).T.fillna("")

# %% tags=["slide"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6))
looks = {"critic": ("#0072B2", "-", "s"), "group": ("#D55E00", "--", "^")}
measures = list(gained["critic"])
for k, (name, rows) in enumerate(sides.items()):
    colour, line, mark = looks[name]
    curves = np.array([row["curve"] for row in rows])  # (seeds, steps)
    steps = range(1, curves.shape[1] + 1)
    left.plot(steps, curves.T, line, color=colour, lw=0.8, alpha=0.5)
    left.plot(steps, curves.mean(0), line, color=colour, lw=2.8, label=name)
    middle, *ends = np.array([baselines[name][what] for what in measures]).T
    at, reach = np.arange(3) + 0.24 * k - 0.12, plots.whiskers(middle, *ends)
    look = {"fmt": mark, "color": colour, "capsize": 4, "ms": 8, "label": name}
    right.errorbar(middle, at, xerr=reach, **look)
left.set(xlabel="step", ylabel="reward, SFT standard deviations")
left.legend()
right.axvline(0, color="#333333", lw=1)
right.set_yticks(range(3), measures)
right.set(xlabel="gain, SFT standard deviations", ylim=(2.5, -0.5))
right.legend(loc="lower left", bbox_to_anchor=(0.06, 0))
plots.save(figure, figures, "baselines")

# %% [markdown]
# *Left, the reward by step: each training (thin) and the mean of five (thick). Right, three gains with intervals over
# seeds and prompts (at equal length: over seeds alone).*
#
# In our run the group gained 0.63 [0.35, 0.92] by the judge, 0.63 [0.30, 0.94] by the second judge and 0.65 [0.52,
# 0.80] at equal length. The difference is 0.13 [−0.07, 0.36], 0.12 [−0.16, 0.45] and 0.16 [0.03, 0.25]: the first
# two intervals hold zero, the third leaves out the choice of prompts. The group drifts further; the course keeps the
# critic.
#
# ## 11. What would you pay for?
#
# PPO asks one thing of a reward: `reward_fn(prompts, responses)` gives a number for each response, by a rule, as
# here, or a classifier from the Hub (notebook 07). **Predict first:** how can this rule be satisfied without
# answering?


# %%
def shorter_than_30(prompts, responses):
    """1 for an answer of 1 to 29 words, else 0."""
    return [float(0 < len(text.split()) < 30) for text in responses]


for who, (answers, _) in columns.items():
    mean = statistics.mean(shorter_than_30(test_prompts, answers.responses))
    print(f"{who:10s} {mean:.2f} have 1 to 29 words")
assert shorter_than_30([""] * 3, ["No.", "word " * 30, ""]) == [1.0, 0.0, 0.0]

mixture = reward.Mixture(liked=(reward_fn, 1.0), short=(shorter_than_30, 0.5))
models.restart(model)  # the SFT model again
few = ppo.PPOConfig.from_profile(profile, steps=3, batch_size=8)
for line in ppo.PPOTrainer(model, tokenizer, mixture, few).train(train_prompts):
    parts = [f"{key} {line[key]:+.2f}" for key in line if key.startswith("reward")]
    print(f"step {line['step']}: ", "  ".join(parts))
models.load_policy_weights(model, folder / "adapter")  # the run of section 7 again

# %% [markdown]
# Any short text satisfies the rule, so it stands *beside* the judge, in `reward.Mixture`. Three steps show that it
# runs.
#
# ## In short
#
# PPO samples, grades, compares with a baseline and nudges, while the KL is charged for. Next, [notebook
# 04](04_eval.ipynb) asks whether anyone else would agree.

# %% tags=["slide"]
texts = {"sft": sft_answers.responses, "ppo": ppo_answers.responses}
answers = {"prompts": test_prompts, **texts, "seed": 0}
runtime.write_json(folder / "answers.json", answers)
numbers = {
    "reward": comparison.as_dict(),
    "kl": statistics.mean(kl),
    "kl_interval": [low, high],
    "length": dict(zip(texts, map(statistics.mean, lengths))),
    "finished": {
        "sft": statistics.mean(sft_answers.finished),
        "ppo": statistics.mean(ppo_answers.finished),
    },
    "gain_at_equal_length": list(gain),
    "thirds": thirds,
    "baselines": baselines,
    "sft_mean": sft_mean,
    "sft_std": sft_std,
    "steps": len(log),
    "seconds_train": seconds_train,
    "seconds": time.perf_counter() - started,
}
runtime.record(profile, "ppo", **numbers)
peak = runtime.record_peak(profile, "ppo")
print(f"reward {comparison.difference:+.2f}: {comparison.verdict}, by our own judge")
print(f"prompts that lost {comparison.share_worse:.0%}, KL {numbers['kl']:.1f} nats")
print(f"peak memory {peak:.1f} GiB")
print("\nWould anyone else agree? That is notebook 04.")

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`; `check` gives one hint at a time. Solutions stand at the end.
#
# ### 03.1 Predict the number: pay at β = 1
#
# In section 2, set β = 1. What is the second token paid, and what does the whole answer earn?

# %% tags=["exercise"]
### BEGIN SOLUTION
second_token = None
whole_answer = None
### END SOLUTION

check("03.1", (second_token, whole_answer))

# %% [markdown]
# ### 03.2 Write this function: advantages of a whole batch
#
# Any γ and λ, and answers of different lengths: `mask` is True on an answer's own tokens, which come first in its
# row. What stands behind them is noise; your result is zero there.


# %% tags=["exercise"]
def my_gae(rewards, values, mask, gamma, lam):
    """Generalised advantage estimation: advantages (B, R) from three tensors (B, R)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.2", my_gae)

# %% [markdown]
# ### 03.3 Write this function: the clip, and where it ends the gradient
#
# For tokens with a ratio and an advantage each: the surrogate of section 4 (what is maximised), and which tokens it
# leaves without a gradient, found without autograd.


# %% tags=["exercise"]
def clipped(ratio, advantages, clip):
    """(surrogate, silent), both (n,); silent: True where there is no slope."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.3", clipped)

# %% [markdown]
# ### 03.4 Break it and diagnose: thirty-two unnamed logs
#
# Runs of 12 to 39 steps, with first answers of 5 to 60 tokens. Write the doctor: a log has one dictionary a step,
# with `reward` (which always rises), `kl`, `length`, `finished` and `distinct_2`. At most one thing is wrong; a
# single odd batch is nothing. Return "KL running away", "collapse", "never finishing" or "healthy".


# %% tags=["exercise"]
def doctor(log):
    """One of healthy, KL running away, collapse, never finishing.

    distinct_2 is the share of unique word pairs. Section 8's run A has two troubles
    (its KL, then short answers); these logs have one at most.
    """
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.4", doctor)

# %% [markdown]
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | first ratio is not 1 | another code path, dropout | the trainer stops |
# | reward flat | small steps, equal rewards | reward, clipped |
# | reward up, answers worse | the policy exploits the judge | samples |
#
# ## What we simplified
#
# 1. **One reward model,** never retrained (Stiennon et al. 2020, arXiv 2009.01325).
# 2. **A few dozen steps,** not thousands.
# 3. **Our own trainer:** TRL dropped its `PPOTrainer` in version 1.13 (details: arXiv 2403.17031).

# %% [markdown]
# ## Five questions
#
# **1. Look at the output of section 5: why is the KL of every token exactly 0 before the update?**
#
# - A: Differences that small are rounded away.
# - B: Same weights, run through the same code.
# - C: The reference itself wrote the answers.
#
# <details><summary>Answer</summary>
#
# **B** is right. Another first KL points to a second code path.
#
# Not A. The cell asserts 0.0, to the bit.
#
# Not C. The policy wrote them, with equal weights.
#
# It stands in “5. What does one real step do?”.
#
# </details>
#
# **2. Answers of 4 and 20 tokens are graded alike, and the critic says nothing yet. Why λ = 1?**
#
# - A: It has the least noise of all values of λ.
# - B: Below 1 the last token loses its score.
# - C: Below 1 a long answer's start earns less.
#
# <details><summary>Answer</summary>
#
# **C** is right. A grade is worth less the later it comes.
#
# Not A. The reverse: each token answers for all that follow.
#
# Not B. It has the score at any λ.
#
# It stands in “3. Who earned it?”.
#
# </details>
#
# **3. Look at the figure of section 8. In one run reward and length climb while finished falls. What helps?**
#
# - A: It is run A: raise β, and take smaller steps.
# - B: It is run B: let silence earn nothing.
# - C: It is run D: a larger missing-stop penalty.
#
# <details><summary>Answer</summary>
#
# **C** is right. Length pays there, and stopping does not.
#
# Not A. That run is known by its KL.
#
# Not B. There the answers shrank.
#
# It stands in “8. Is this run healthy?”.
#
# </details>
#
# **4. Look at the gain and the gain at equal length. What if the second were zero?**
#
# - A: Length alone would explain the gain.
# - B: The policy would have stayed at SFT.
# - C: The judge would not care about length.
#
# <details><summary>Answer</summary>
#
# **A** is right. Answers of one length would score as before.
#
# Not B. The KL says how far it went.
#
# Not C. Length would be what it pays for.
#
# It stands in “9. Before and after”.
#
# </details>
#
# **5. Look at the output of section 10. Divided, scores 0.02 apart count as much as 2 apart. Why is that bad?**
#
# - A: The best answer of a group is punished.
# - B: Near ties push as hard as clear wins.
# - C: The advantages no longer add up to zero.
#
# <details><summary>Answer</summary>
#
# **B** is right. What is learned there is the judge's noise.
#
# Not A. Its advantage is still the largest.
#
# Not C. Each line of the output does.
#
# It stands in “10. A baseline without a critic”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("03")

# %% [markdown]
# ## Solutions
#
# Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
second_token = -1.0 * -0.2  # −β · k1: the reference likes it even more
whole_answer = 1.0 - 1.0 * (0.2 - 0.2 + 0.6 + 0.0)
### END SOLUTION

assert check("03.1", (second_token, whole_answer)).right


# %% tags=["solution"]
def my_gae(rewards, values, mask, gamma, lam):
    ### BEGIN SOLUTION
    rewards, values = rewards * mask, values * mask  # padding passes on nothing
    advantages, next_value, following = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # δ_t
        following = delta + gamma * lam * following  # A_t
        advantages[:, t], next_value = following, values[:, t]
    return advantages
    ### END SOLUTION


assert check("03.2", my_gae).right


# %% tags=["solution"]
def clipped(ratio, advantages, clip):
    ### BEGIN SOLUTION
    held = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, held * advantages)
    too_good = (advantages > 0) & (ratio > 1 + clip)
    too_bad = (advantages < 0) & (ratio < 1 - clip)
    return surrogate, too_good | too_bad
    ### END SOLUTION


assert check("03.3", clipped).right


# %% tags=["solution"]
def doctor(log):
    ### BEGIN SOLUTION
    late = log[-(len(log) // 4) :]
    curves = ("kl", "length", "finished")
    kl, length, finished = (statistics.mean(x[key] for x in late) for key in curves)
    if length < 0.5 * log[0]["length"]:
        return "collapse"
    if kl > 20:
        return "KL running away"
    return "never finishing" if finished < 0.7 else "healthy"
    ### END SOLUTION


assert check("03.4", doctor).right
