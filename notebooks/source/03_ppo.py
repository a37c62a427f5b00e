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
# Needs 01 and 02 (or their shipped checkpoints). About ten minutes on two CPU cores.

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
import statistics
import time

import matplotlib.pyplot as plt
import pandas as pd
import torch

from sawyer_utils import (
    chat,
    data,
    evaluation,
    health,
    losses,
    models,
    plots,
    ppo,
    reward,
    rollout,
    show,
)
from sawyer_utils.classroom import snapshots

folder = runtime.run_dir(profile, "ppo")
figures = folder / "figures"
started = time.perf_counter()

# %% [markdown]
# ## The whole thing in one picture

# %%
plots.save(plots.four_stages(here="ppo"), figures, "stages")

# %% [markdown]
# *In words: four boxes in a row (SFT, reward model, PPO, evaluation); you are in the third. Below, the loop
# inside it.*

# %% tags=["slide"]
plots.save(plots.rl_loop(), figures, "rl_loop")

# %% [markdown] tags=["teaching"]
# - **What it is for.** The whole algorithm with four people: one writes, one grades, one remembers
#   how the first used to write, one nudges. Let them do one round on paper.
# - **Ask.** What would happen without the one who remembers?
# - **The usual wrong answer.** "It would learn faster." It would, to please the judge: section 8
#   shows such a run.

# %% [markdown]
# *In words: a prompt goes to the [policy](../docs/glossary.md#policy), its answer to the reward model, the score and the distance from
# the frozen copy to the update, and the update nudges the policy.*
#
# The policy answers a prompt (1, 2), the reward model grades the answer (3), and the policy is
# nudged towards what was graded well (4), while a frozen copy of the SFT model says how far it has
# wandered. That is all. The rest of this notebook is about doing each arrow right.
#
# Load the models. One base model carries both roles: the SFT adapter is loaded twice, as `policy`,
# which learns, and as `ref`, which never does.

# %%
sft_folder = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
reward_folder = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors")
tokenizer, model = models.load_actor(profile, sft_folder / "adapter")
judge = reward.RewardModel.load(reward_folder / "model")

prompts = {"train": data.load_prompts("train", profile.prompts, profile.limit)}
prompts["test"] = data.load_prompts("test", profile.prompts)
for split, rows in prompts.items():
    fitting = chat.that_fit(tokenizer, rows, profile.prompt_tokens)
    prompts[split] = [row["prompt"] for row in fitting]
train_prompts, test_prompts = prompts["train"], prompts["test"][: profile.eval_prompts]
assert not set(train_prompts) & set(test_prompts)

trainable, total = models.count_parameters(model)
print(
    f"{trainable / 1e6:.1f} of {total / 1e6:.0f} million weights"
    f" learn ({trainable / total:.1%})."
)
print(
    f"{len(train_prompts)} prompts to practise on,"
    f" {len(test_prompts)} kept for the end."
)

# %% [markdown] tags=["slide"]
# ## Why not simply keep the best answer?
# Before learning anything: sample eight answers to one question and keep the one that the reward
# model likes most. No training, no risk. **Predict:** how much better is the best of eight than the
# average, and what does it cost?

# %% [markdown] tags=["teaching"]
# - **What it is for.** The rival that needs no training. Come back to it in 04, section 7.
# - **Ask.** How much better is the best of eight than the average, and who pays for it, when?
# - **The usual wrong answer.** "Eight times better." The best of eight gains about 1.4
#   standard deviations, if the scores are bell-shaped.

# %%
tried = train_prompts[:4]
torch.manual_seed(0)
with models.merged(model):
    repeated = [prompt for prompt in tried for _ in range(8)]
    eight = rollout.sample(
        model, tokenizer, repeated, profile.response_tokens, profile.temperature
    )
scores = torch.tensor(judge.score(eight.prompts, eight.responses)).view(len(tried), 8)
for i, prompt in enumerate(tried):
    best = int(scores[i].argmax())
    print(
        f"{prompt}\n   best of 8 ({scores[i, best]:+.2f}):"
        f" {eight.responses[8 * i + best]}"
    )
gain = float((scores.max(1).values - scores.mean(1)).mean())
print(
    f"\nThe best of eight scores {gain:.2f} above the average of its eight, on average."
)
assert gain >= 0  # a maximum is never below its mean

# %% [markdown] tags=["fragment"]
# It works, and it is the baseline that PPO has to justify itself against. But every question,
# for ever, now costs eight answers and eight gradings. PPO pays once, in training, so that the
# *first* answer comes out better.

# %% [markdown]
# ## 1. How far has the policy drifted?
# One answer of four tokens. The policy gave them these [log-probabilities](../docs/glossary.md#log-probability), the [reference](../docs/glossary.md#reference-model) those. The
# difference, token by token, is the estimate `k1` of the [KL divergence](../docs/glossary.md#kl-divergence): how surprised the reference
# is by what the policy says.

# %% tags=["nbval-check-output", "slide", "show-code"]
# Letters: B batch, P prompt tokens, R response tokens, T = P + R, V vocabulary.
logprobs = torch.tensor([[-0.5, -1.2, -0.3, -0.1]])  # (B, R) log π of the four tokens
ref_logprobs = torch.tensor(
    [[-0.7, -1.0, -0.9, -0.1]]
)  # (B, R) log π_ref of the same tokens
k1 = logprobs - ref_logprobs  # (B, R)
print("k1 per token ", [round(v, 4) for v in k1[0].tolist()])
print("k1 in all    ", round(float(k1.sum()), 4))
assert torch.equal(k1, losses.kl_k1(logprobs, ref_logprobs))

# %% [markdown] tags=["teaching"]
# - **What it is for.** The first of four things by hand: KL, pay, advantage, clip.
# - **Ask.** Can a KL divergence be below zero? And its estimate from one token?
# - **The usual wrong answer.** "A negative number is a bug." It is one sample of a mean that is not
#   negative.

# %% [markdown]
# The second token's is **negative**, although a KL divergence never is. No mistake: this is one
# sample's *estimate*. Where the policy happened to say something that the reference likes even
# more, the estimate dips below zero; over many samples it averages out to the true value.
#
# Do not take that on trust. With a vocabulary of three words the true KL can be summed exactly, and
# so can the expectation of each estimator.

# %% tags=["nbval-check-output", "slide", "show-code"]
pi = torch.tensor([0.7, 0.2, 0.1])  # (V,) the policy over three words
ref = torch.tensor([0.5, 0.25, 0.25])  # (V,) the reference
exact = float((pi * (pi / ref).log()).sum())  # the definition
k1_each = losses.kl_k1(pi.log(), ref.log())  # (V,) the estimate if this word is sampled
k3_each = losses.kl_k3(pi.log(), ref.log())  # (V,)
print("word          ", "   A        B        C")
print("k1            ", "  ".join(f"{v:+.4f}" for v in k1_each.tolist()))
print("k3            ", "  ".join(f"{v:+.4f}" for v in k3_each.tolist()))
print(f"expected k1 {float((pi * k1_each).sum()):.4f}")
print(f"expected k3 {float((pi * k3_each).sum()):.4f}")
print(f"exact KL    {exact:.4f}")
assert abs(float((pi * k1_each).sum()) - exact) < 1e-6
assert abs(float((pi * k3_each).sum()) - exact) < 1e-6

# %% [markdown]
# Both estimators are right on average. `k3` is never negative, so it reads well on a dashboard; `k1`
# is what goes into the reward, for its gradient in expectation is the right one
# ([Schulman's note](http://joschu.net/blog/kl-approx.html)).

# %% [markdown] tags=["slide"]
# ## 2. What is each token paid?
# The reward model grades the whole answer once, when it stops. The KL penalty is charged all along:
# token t earns −β · k1, and the last token earns the score on top (Ziegler et al. 2019, equation 2).
# **Predict** the four numbers for β = 0.1 and a score of 1.

# %% tags=["nbval-check-output", "fragment", "show-code"]
mask = torch.ones(1, 4, dtype=torch.bool)  # (B, R) all four tokens are real
score = torch.tensor([1.0])  # (B,)
rewards = losses.token_rewards(score, k1, mask, kl_coef=0.1)  # (B, R)
by_hand = torch.tensor([[-0.02, 0.02, -0.06, 0.0 + 1.0]])
print([round(v, 4) for v in rewards[0].tolist()])
assert torch.allclose(rewards, by_hand, atol=1e-6)

# %% [markdown]
# The second token is paid *for* staying close. And the score sits on the token that ended the
# answer: had the answer gone on, it would have had to wait for its grade.

# %% [markdown]
# ## 3. Who earned it?
# A grade at the end says nothing about which token deserved it. The [critic](../docs/glossary.md#critic) helps: `values` are its
# guesses, before each token, of what is still to come. An *[advantage](../docs/glossary.md#advantage)* is how much better things
# went than guessed. First by hand, backwards, in six lines:

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
advantages, returns = losses.gae(rewards, values, mask, gamma=1.0, lam=0.95)
print("advantages", [round(v, 4) for v in hand])
print("returns   ", [round(v, 4) for v in returns[0].tolist()])
assert torch.allclose(advantages[0], torch.tensor(hand), atol=1e-6)

# %% [markdown]
# λ decides how far the credit travels. At λ = 0 each token answers only for the surprise right
# after it; at λ = 1 it answers for everything that followed. In between (0.95, the usual choice)
# the far future counts a little less, because it is noisy: the critic's guesses stand in for it.

# %% tags=["nbval-check-output"]
rows = {}
for lam in (0.0, 0.5, 0.95, 1.0):
    found, _ = losses.gae(rewards, values, mask, lam=lam)
    rows[f"λ = {lam}"] = [round(v, 4) for v in found[0].tolist()]
print(pd.DataFrame(rows, index=[f"token {t}" for t in range(1, 5)]).to_string())

# %% [markdown] tags=["slide"]
# And if the critic has no guesses yet? Two answers, one of 4 tokens and one of 20, both graded 1.
# **Predict first:** for which λ does the first token earn the same in both?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A hyperparameter that nobody questions has a taste of its own.
# - **Ask.** Two answers get the same grade, one is five times as long. For which λ does the first
#   token earn the same?
# - **The usual wrong answer.** "λ only sets the noise." Below 1, without a critic that helps, it
#   also pays for being brief.

# %% tags=["nbval-check-output", "fragment"]
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
# Below 1, the same grade is worth less the later it comes: **brevity pays, and nobody asked for
# it.** A good critic would mend that, for its guesses carry the grade back to the first token. Ours
# starts from nothing and sees a few hundred answers, so our trainer takes λ = 1 and lives with the
# noise. (The second open question at the end shows
# what 0.95 does to the length.)

# %% [markdown] tags=["slide"]
# ## 4. How big a step?
# A policy-gradient step says: make tokens with a positive advantage likelier. Repeat it on the same
# samples and it overshoots, because the samples came from the *old* policy. PPO's answer: once the [ratio](../docs/glossary.md#probability-ratio)
# ρ = π/π_old has gone 20 % in the direction that pays, that token pushes no further. It is no bound: other tokens,
# and later steps, can carry it beyond, as the real step in section 5 shows.
#
# **Predict first:** of the four cases below, which have no gradient?

# %% [markdown] tags=["teaching"]
# - **What it is for.** The clip takes an incentive away; it is no wall.
# - **Ask.** Which of the four cases have no gradient? Vote on each before the cell runs.
# - **The usual wrong answer.** "Every ratio outside 0.8 to 1.2." Only those that already went
#   further in the direction that pays.

# %% tags=["nbval-check-output", "fragment"]
ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
new = ratio.log().requires_grad_()  # log π, with log π_old = 0
loss = losses.policy_loss(new, torch.zeros(4), advantage, clip=0.2)
loss.sum().backward()
for r, a, value, slope in zip(ratio, advantage, -loss.detach(), new.grad):
    held = "clipped, no gradient" if slope == 0 else "still pushed"
    print(f"ratio {r:.1f}, advantage {a:+.0f}: surrogate {value:+.1f}   {held}")
assert torch.allclose(-loss.detach(), torch.tensor([1.2, 0.5, -1.5, -0.8]))

# %% [markdown]
# The [clip](../docs/glossary.md#clipping) only ever stops the policy from going *further in the direction that pays*. A good token
# that has become rarer, or a bad one that has become likelier, is still pushed back, however far
# it went.

# %% tags=["slide"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
r = torch.linspace(0, 2, 201)
for ax, sign in zip(axes, (1.0, -1.0)):
    surrogate = -losses.policy_loss(
        r.log(), torch.zeros_like(r), torch.full_like(r, sign)
    )
    ax.plot(r, r * sign, ":", color="#767676", lw=2, label="unclipped")
    ax.plot(r, surrogate, color="#D55E00", lw=2.4, label="PPO")
    ax.axvline(1, color="#333333", lw=1)
    ax.set(xlabel="ratio π / π_old", title=f"advantage {sign:+.0f}")
axes[0].set_ylabel("surrogate to maximise")
axes[0].legend()
plots.save(figure, figures, "clip", {"ratio": r, "surrogate_minus": surrogate})

# %% [markdown]
# In words: for a good token (left) the curve goes flat at a ratio of 1.2; for a bad one (right) it
# goes flat below 0.8.

# %% [markdown]
# ## 5. What does one real step do?
# Now with the real model, slowly, on eight prompts. First put the reward on a scale that means
# something: 0 is the SFT model's average answer, 1 is one [standard deviation](../docs/glossary.md#standard-deviation) better.

# %%
torch.manual_seed(1)
calibration_prompts = train_prompts[:64]
calibration = evaluation.answer(model, tokenizer, calibration_prompts, profile, seed=1)
reward_fn, sft_mean, sft_std = reward.standardised(
    judge.score, calibration_prompts, calibration.responses
)
print(
    f"raw reward of {len(calibration_prompts)} SFT answers:"
    f" {sft_mean:.2f} ± {sft_std:.2f}"
)
rescaled = torch.tensor(reward_fn(calibration_prompts, calibration.responses))
print(f"standardised: {rescaled.mean():.2f} ± {rescaled.std():.2f}")
assert abs(float(rescaled.mean())) < 1e-4

# %% [markdown]
# **[Rollout](../docs/glossary.md#rollout).** Sample an answer a prompt, then run policy and reference over it once each. Because
# nothing has been updated yet, the two agree to the last bit: the KL is not small, it is zero.

# %%
slow = ppo.PPOTrainer(
    model,
    tokenizer,
    reward_fn,
    ppo.PPOConfig.from_profile(profile, micro_batch=8, minibatches=1),
)
torch.manual_seed(2)
batch = slow.rollout(train_prompts[:8])
B, R = batch.response_mask.shape
print(
    f"input_ids {tuple(batch.input_ids.shape)} (B, T),"
    f" logprobs {tuple(batch.logprobs.shape)} (B, R)"
)
kl = losses.kl_k1(batch.logprobs, batch.ref_logprobs)
print("largest |KL| of any token:", float(kl.abs().max()))
assert float(kl.abs().max()) == 0.0
assert float(batch.values.abs().max()) == 0.0  # the critic starts by saying nothing

# %% [markdown]
# **Score**, then **advantages**. Below, each token is shaded by its advantage: orange did better
# than the batch's average, blue did worse. The critic still says zero, the KL is zero and λ is 1, so all tokens of
# an answer have the same advantage: the score at its end, compared with the other answers.

# %% tags=["slide"]
slow.advantages(slow.score(batch))
lines = []
for i in range(min(B, 5)):
    ids = batch.response_ids[i][batch.response_mask[i]]
    tokens = [tokenizer.decode([t]) for t in ids]
    shades = batch.advantages[i][batch.response_mask[i]].tolist()
    lines.append(([f"[{batch.scores[i]:+.2f}] ", *tokens], [0.0, *shades]))
show.shaded_tokens(
    lines, "score of the answer, then its tokens: orange is above average, blue below"
)

# %%
shown = batch.advantages.masked_fill(~batch.response_mask, float("nan")).cpu()
figure, ax = plt.subplots(figsize=(9, 2.8))
image = ax.imshow(shown, aspect="auto", cmap="PuOr_r", vmin=-2.5, vmax=2.5)
ax.set(xlabel="response token", ylabel="answer")
ax.grid(visible=False)
figure.colorbar(image, label="advantage (whitened)")
plots.save(figure, figures, "advantages")

# %% [markdown]
# *In words: a row an answer, a column a token, the advantage as colour; where an answer has ended the
# row is empty. The next lines give the numbers.*

# %%
counted = batch.advantages[batch.response_mask]
print(
    f"mean {counted.mean():+.1e}, variance {counted.var(unbiased=False):.4f}"
    f" over {counted.numel()} tokens"
)
best, worst = int(batch.scores.argmax()), int(batch.scores.argmin())
print(
    f"Row {best} scored highest ({batch.scores[best]:+.2f}),"
    f" row {worst} lowest ({batch.scores[worst]:+.2f})."
)
assert abs(float(counted.mean())) < 1e-4

# %% [markdown]
# **Update.** Two passes over the eight answers. Then ask the updated policy about the very same
# tokens again: whose chances moved most?

# %%
before = batch.logprobs.clone()
stats = slow.update(batch)
after, _ = slow._evaluate(batch)
print({key: round(value, 4) for key, value in stats.items()})
print("first ratio minus 1, before anything had moved:", stats["ratio_error"])
assert stats["ratio_error"] < 1e-2

# %%
change = (after - before).masked_fill(~batch.response_mask, 0.0)
moved = []
for name, sign in (("up", 1), ("down", -1)):
    for flat in (sign * change).flatten().topk(5).indices.tolist():
        i, t = divmod(flat, R)
        token = tokenizer.decode([int(batch.response_ids[i, t])])
        odds = f"{before[i, t].exp():.3f} → {after[i, t].exp():.3f}"
        moved.append(
            (
                name,
                token,
                odds,
                round(float(batch.advantages[i, t]), 2),
                batch.prompts[i][:48],
            )
        )
pd.DataFrame(
    moved, columns=["moved", "token", "probability", "advantage", "in the answer to"]
)

# %%
real = batch.response_mask
agree = (change[real].sign() == batch.advantages[real].sign()).float().mean()
print(f"{agree:.0%} of the tokens moved in the direction of their advantage.")
drift = ((before - after) * real).sum(1).mean()  # sampled by SFT: log π_SFT − log π
print(f"KL from SFT to the updated policy, on these answers: {float(drift):.3f} nats")

# %% [markdown]
# Not all tokens obey: they share weights, so pushing one pulls others along. That is why PPO takes
# many small steps and samples afresh before each.

# %% [markdown]
# ## 6. What does the trainer look like inside?
# You have just called its four methods. `step` calls them in order, and `train` repeats it.
#
# | file in `sawyer_utils` | holds |
# |---|---|
# | `losses.py` | the mathematics of sections 1 to 4, as pure functions |
# | `rollout.py` | sampling; a batch with the shape and meaning of each field |
# | `actor.py` | policy and critic on one trunk: the one forward pass, and the output layer's gradient |
# | `ppo.py` | the trainer: `rollout`, `score`, `advantages`, `update` |
# | `ppo_config.py` | its settings |
# | `checkpoints.py` | a run on disk, to go on after it was cut off |
# | `health.py` | what a log holds, and what it says about a run (section 8) |
# | `snapshots.py` | the same few prompts, asked again as the policy learns |
#
# On several GPUs the same file runs as a script: `accelerate launch notebooks/source/03_ppo.py`.
#
# Here is the heart of it, read from the package:

# %%
for method in (ppo.PPOTrainer.score, ppo.PPOTrainer.advantages, ppo.PPOTrainer.update):
    print(inspect.getsource(method))

# %% [markdown]
# And this is where it departs from the papers, numbered, with the reason:

# %%
text = inspect.getdoc(ppo)
print(text[text.index("Where this differs") :])

# %% [markdown]
# ## 7. Train
# Fresh start from SFT: the slow step above is forgotten. Watch six curves.
#
# | curve | formula | healthy | when it drifts |
# |---|---|---|---|
# | reward | mean score of the batch, in SFT standard deviations | rises, then levels off | flat: step too small or reward too noisy; a sudden jump: read the samples |
# | KL | Σ log π − log π_ref per answer, nats | rises slowly, stays bounded | runs away: raise β or lower the learning rate |
# | length | tokens, stop included | moves a little | climbs to the limit: the reward model likes length |
# | finished | share that ended with the stop token | near 1 | falls: longer answers score more than stopping pays |
# | clipped | share of tokens with ρ outside 0.8 to 1.2 | 0.02 to 0.2 | higher: steps too big for the samples |
# | [explained variance](../docs/glossary.md#explained-variance) | 1 − Var(R − V)/Var(R) | from 0 upwards | stays at 0: the critic is no help (in a short run it hardly gets going) |

# %%
models.activate(model, models.POLICY)
models.load_policy_weights(model, sft_folder / "adapter")
SEED = 0  # the median of five, see section 9
config = ppo.PPOConfig.from_profile(profile, seed=SEED)
trainer = ppo.PPOTrainer(model, tokenizer, reward_fn, config, folder)
live = plots.LivePlot(plots.ppo_dashboard, config.steps, folder=folder)
with models.using(model, models.REF):
    ref_row = [p.detach().clone() for n, p in model.named_parameters() if ".ref" in n][
        0
    ]

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
keys = ("seconds_rollout", "seconds_score", "seconds_update")
spent = sum(line[key] for line in log for key in keys)  # also of a run that was resumed
print(f"{len(log)} steps of {config.batch_size} answers, {spent / 60:.1f} minutes.")

# %% [markdown]
# Cut it off whenever you like (Stop button, closed lid, `kill -9`) and run the cell again: it goes on
# from the last [checkpoint](../docs/glossary.md#checkpoint), and on a CPU the end is the same to the last bit. A new trainer on the
# folder of the run shows that all of it is there:

# %%
again = ppo.PPOTrainer(model, tokenizer, reward_fn, config, folder)
assert again.load_checkpoint()
assert again.log == log
left = config.steps - again.steps_done
print(f"found {again.steps_done} steps, {left} to go, β = {again.kl_coef}")
print("kept:", ", ".join(sorted(p.name for p in (folder / "checkpoint").iterdir())))

# %% tags=["slide"]
plots.save(
    plots.ppo_dashboard(log), figures, "dashboard",
    [{k: v for k, v in line.items() if k != "samples"} for line in log],
)  # fmt: skip

# %%
third = max(1, len(log) // 3)
for key, unit in (
    ("reward", "SFT standard deviations"),
    ("kl", "nats"),
    ("length", "tokens"),
):
    start = statistics.mean(line[key] for line in log[:third])
    end = statistics.mean(line[key] for line in log[-third:])
    print(f"{key:7s} first third {start:6.2f}   last third {end:6.2f}   {unit}")
assert log[0]["kl"] == 0.0  # it started exactly at SFT
ref_now = [p for n, p in model.named_parameters() if ".ref" in n][0]
assert torch.equal(ref_row, ref_now)  # and the reference never moved

# %% [markdown]
# *The figure in words: six curves over the steps, one for each line of the table above, with its healthy
# range written below it; the lines above give the first and the last third.*
#
# Numbers can rise for bad reasons. Read what it said, early and late:

# %%
for line in (log[0], log[-1]):
    print(f"— step {line['step']}")
    for sample in line["samples"][:3]:
        print(
            f"  [{sample['score']:+.2f}] {sample['prompt']}",
            f"          {sample['response']}",
            sep="\n",
        )

# %% [markdown]
# The same four prompts before, halfway and at the end, from the same seed. Orange tokens are likelier
# than under the SFT model, blue ones less likely: that is where the KL was spent. (`steps=6` shows more
# steps.)

# %%
show.rollouts(watch.taken)

# %%
models.save_adapter(model, folder / "adapter", models.POLICY)
runtime.write_json(folder / "log.json", log)
phases = {
    p: sum(line[f"seconds_{p}"] for line in log) for p in ("rollout", "score", "update")
}
spent = sum(phases.values())
print(
    "time:",
    ", ".join(f"{name} {seconds / spent:.0%}" for name, seconds in phases.items()),
)

# %% [markdown] tags=["slide"]
# ## 8. Is this run healthy?
# Four saved runs of the same trainer. Three were made sick on purpose, one was not. **Write down a
# diagnosis for each** before you open the answers.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Reading curves is what is left when PPO has become a call to a library. In
#   pairs, ten minutes, before the answers are opened.
# - **Ask.** Which curve told you first? What would you change, and which curve would show that it
#   worked?
# - **The usual wrong answer.** "The reward rises, so the run is fine." It rises in the sick runs as
#   well.

# %% tags=["subslide"]
saved = runtime.project_root() / "results" / "ppo_runs.json"
runs = runtime.read_json(saved) if saved.exists() else {}
keys = ("reward", "kl", "length", "finished", "explained_variance")
figure, axes = plt.subplots(
    max(1, len(runs)), 5, figsize=(13, 2.3 * max(1, len(runs))), squeeze=False
)
for row, (name, run) in zip(axes, runs.items()):
    for ax, key in zip(row, keys):
        ax.plot([line[key] for line in run["log"]], color="#0072B2", marker="o", ms=3)
        ax.set_title(f"{name}: {key.replace('_', ' ')}", fontsize=12)
plots.save(figure, figures, "four_runs")

# %% [markdown]
# *In words: a row a run, and in it five curves: reward, KL, length, share finished, explained variance.
# The diagnosis below quotes the numbers that matter.*

# %%
for name, run in runs.items():
    print(f"{name} says at its last step:")
    for sample in run["log"][-1]["samples"][:2]:
        print(f"   {sample['prompt'][:60]}  ->  {sample['response'][:110]!r}")

# %% [markdown]
# <details><summary>The four diagnoses</summary>
#
# - **Run A, KL running away.** No KL penalty and a learning rate five times too large: the policy
#   leaves the region where the reward model knows anything. Remedy: β back up, smaller steps.
# - **Run B, collapse.** The reward pays for brevity and nothing holds the policy: every answer
#   becomes the same word or two, as in the workshop's older GPT-2 run, which ended in "The" and
#   "Theic". Remedy: a reward that cannot be won by saying nothing, and β.
# - **Run C, the good one.** Reward up, KL bounded, answers still end.
# - **Run D, forgetting to stop.** Length is paid for and stopping costs nothing: `length` climbs and
#   `finished` falls, while the reward looks splendid. Remedy: a missing-stop penalty that is worth
#   more than the extra words earn.
#
# </details>
#
# The package has an opinion, too: `health.diagnose` compares the first eighth of a log with its last
# quarter and names what stands out, with the evidence and a remedy. Its thresholds are rules of
# thumb. Where does it disagree with you? (About the critic it is right each time: ten steps are too
# few for ours.)

# %%
for name, run in runs.items():
    found = health.diagnose(run["log"])
    print(name, "" if found else "  nothing stands out")
    for finding in found:
        print(f"  {finding.name}: {finding.evidence}\n     {finding.remedy}")

# %% [markdown]
# And of the run that you have just made:

# %%
if len(log) < 4:
    print(f"{len(log)} steps say nothing.")
else:
    print(*health.diagnose(log) or ["Nothing stands out."], sep="\n")

# %% [markdown]
# ## 9. Before and after
# The same 120 prompts that no stage has seen, one sampled answer each, the same seed for both.
# (Under the `smoke` profile: a handful, and no miracle after two steps.)

# %% tags=["slide"]
with models.using(model, models.REF):
    sft_answers = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
ppo_answers = evaluation.answer(model, tokenizer, test_prompts, profile, seed=0)
sft_rewards = reward_fn(test_prompts, sft_answers.responses)
ppo_rewards = reward_fn(test_prompts, ppo_answers.responses)
comparison = evaluation.compare_rewards(sft_rewards, ppo_rewards)
print(comparison)
print(f"\nIn words, by the interval alone: {comparison.verdict}.")

# %% tags=["fragment"]
both = {"sft": sft_rewards, "ppo": ppo_rewards}
table = {"prompt": test_prompts, **both}
plots.save(plots.reward_histograms(both), figures, "rewards", table)

# %% [markdown]
# *In words: two overlapping histograms of the reward, before and after, with a line at each mean; the
# comparison above gives means and spreads.*

# %%
kl = evaluation.kl_to_reference(model, ppo_answers, models.REF, config.compute)
low, high = evaluation.bootstrap_interval(kl)
matched = evaluation.length_matched(
    sft_rewards, ppo_rewards, sft_answers.lengths, ppo_answers.lengths
)
print(f"KL to SFT   {statistics.mean(kl):.2f} nats an answer [{low:.2f}, {high:.2f}]")
for name, answers in (("SFT", sft_answers), ("SFT + RLF", ppo_answers)):
    print(
        f"{name:10s}  length {statistics.mean(answers.lengths):.1f} tokens,"
        f" finished {statistics.mean(answers.finished):.0%}"
    )
print(
    f"gain at equal length: {matched.adjusted:+.2f}"
    f" [{matched.adjusted_low:+.2f}, {matched.adjusted_high:+.2f}]"
    f" of {comparison.difference:+.2f}"
)

# %%
order = sorted(range(len(test_prompts)), key=lambda i: ppo_rewards[i] - sft_rewards[i])
picked = [order[-1], order[len(order) // 2], order[0]]
show.side_by_side(
    [test_prompts[i] for i in picked],
    {
        "SFT": [sft_answers.responses[i] for i in picked],
        "SFT + RLF": [ppo_answers.responses[i] for i in picked],
    },
    {
        "SFT": [f"reward {sft_rewards[i]:+.2f}" for i in picked],
        "SFT + RLF": [f"reward {ppo_rewards[i]:+.2f}" for i in picked],
    },
)

# %% [markdown]
# The best change, the median one, and the worst, picked by number and not by taste.
#
# ### Would another seed say the same?
#
# One training is one draw. `benchmarks/ppo_seeds.py` trained five times from this start, with these judges and
# these settings; only the seed of the training differed. The run in this notebook is the one whose gain is the
# **median** of the five: that rule was fixed before they were run. The last line takes prompts *and* seeds
# together, so its interval is about the next training too, not only about the next prompt.

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
        "wins": f"{row['gold_wins'][0]:.0%}",
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
# Gains are in standard deviations of the SFT model's scores, by the judge that was paid for and by the second
# judge of notebook 04, which PPO never met. The table is of the profile `local`.

# %%
runtime.write_json(
    folder / "answers.json",
    {
        "prompts": test_prompts,
        "sft": sft_answers.responses,
        "ppo": ppo_answers.responses,
        "seed": 0,
    },
)
runtime.record(
    profile,
    "ppo",
    reward=comparison.as_dict(),
    kl=statistics.mean(kl),
    kl_interval=[low, high],
    length={
        "sft": statistics.mean(sft_answers.lengths),
        "ppo": statistics.mean(ppo_answers.lengths),
    },
    finished={
        "sft": statistics.mean(sft_answers.finished),
        "ppo": statistics.mean(ppo_answers.finished),
    },
    gain_at_equal_length=[
        matched.adjusted,
        matched.adjusted_low,
        matched.adjusted_high,
    ],
    sft_mean=sft_mean,
    sft_std=sft_std,
    steps=len(log),
    seconds_train=spent,
    seconds=time.perf_counter() - started,
)
peak = runtime.record_peak(profile, "ppo")
print(f"peak memory {peak:.1f} GiB")

# %% [markdown] tags=["slide"]
# **Doubt.** You have an interval for the change of the reward. But the judge is our own, trained on our own
# preferences. Would anyone else agree? That is notebook 04.

# %% [markdown]
# ## 10. What would you pay for?
# PPO asks one thing of a reward: `reward_fn(prompts, responses)` gives a number for each response. It may be a
# rule, a list of words, a classifier from the Hub, or a program that checks the answer. Two of your own, small
# enough to read: a rule that an answer passes or not, and a list of words. **Predict first:** which of the two
# can be won without answering the question?


# %%
def shorter_than_30(prompts, responses):
    """1 for an answer of 1 to 29 words, else 0."""
    return [float(0 < len(text.split()) < 30) for text in responses]


GOOD = {"good", "great", "happy", "kind", "love", "lovely", "nice", "wonderful"}
BAD = {"angry", "awful", "bad", "hate", "sad", "sorry", "terrible", "wrong"}


def sentiment(prompts, responses):
    """Good words minus bad ones, of a hundred words."""
    found = []
    for text in responses:
        words = data.normalise(text)
        rated = sum((word in GOOD) - (word in BAD) for word in words)
        found.append(100 * rated / max(len(words), 10))  # one word is no answer
    return found


rewards_of_your_own = {"short": shorter_than_30, "sentiment": sentiment}
for name, own in rewards_of_your_own.items():
    print(
        f"{name:9s} SFT {statistics.mean(own(test_prompts, sft_answers.responses)):.2f}"
        f"   SFT + RLF {statistics.mean(own(test_prompts, ppo_answers.responses)):.2f}"
    )
made_up = ["A wonderful, lovely, great, nice, happy, kind, good day.", "word " * 30, ""]
assert shorter_than_30([""] * 3, made_up) == [1.0, 0.0, 0.0]
assert sentiment([""] * 3, made_up)[0] > 50

# %% [markdown]
# Look at a reward before you train on it: ask it about answers that you have, and about some that you make up.
# The made-up ones show what each can be won with: any short text wins the first, a pile of kind words the
# second. So the list goes *beside* the judge, in `reward.Mixture`, whose parts the log then shows one by one.
# A few steps of each, from the SFT model again. Nothing of them is kept.


# %%
def side_run(own, steps):
    """A few small PPO steps from the SFT model on another reward: the log."""
    models.restart(model)
    short = ppo.PPOConfig.from_profile(profile, steps=steps, batch_size=8)
    return ppo.PPOTrainer(model, tokenizer, own, short).train(train_prompts)


mixture = reward.Mixture(liked=(reward_fn, 1.0), warm=(sentiment, 0.1))
side_runs = {"short": (shorter_than_30, 3), "judge and sentiment": (mixture, 2)}
for name, (own, steps) in side_runs.items():
    for line in side_run(own, steps):
        shown = [f"{key} {line[key]:+.2f}" for key in line if key.startswith("reward")]
        print(f"{name}, step {line['step']}: ", "  ".join(shown))
models.load_policy_weights(model, folder / "adapter")  # the run of section 7 again

# %% [markdown]
# A few steps show that it runs, not what it learns: for that take the settings of section 7, and read the
# samples early. Whatever your function raises, or gives in the place of a number, is reported with the text on
# which it did so.
#
# And a classifier? `summaries.Classifier` makes a reward of any sequence classifier of the Hub: its name, and which
# logit counts. The larger profiles ask one here; on a CPU it would be one more download.

# %%
if profile.news_classifiers:
    from sawyer_utils.chapters import summaries

    name, source, label, _ = profile.news_classifiers[0]
    classifier = summaries.Classifier(source, label)
    few = test_prompts[:8], ppo_answers.responses[:8]
    print(name, [round(score, 2) for score in classifier(*few)])
else:
    print('For example: summaries.Classifier("owner/name", label=1)')

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. It tries functions on fresh inputs. The solutions stand at the end of the
# notebook. (The comments with `SOLUTION` are for teachers who use nbgrader.)

# %%
from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 03.1 Predict the number: pay at β = 1
#
# In section 2, set β = 1 and keep the score of 1. What is the second token paid, and what does the
# whole answer earn?

# %% tags=["exercise"]
### BEGIN SOLUTION
second_token = None
whole_answer = None
### END SOLUTION

check("03.1", (second_token, whole_answer))

# %% [markdown]
# ### 03.2 Write this function: advantages without a recursion
#
# At λ = 1 (and γ = 1) the loop of section 3 is not needed. Write the advantages of a batch in one line,
# from what each token still has to come. No padding yet.


# %% tags=["exercise"]
def without_recursion(rewards, values):
    """Advantages at λ = 1, (B, R) from rewards and values (B, R)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.2", without_recursion)

# %% [markdown]
# ### 03.3 Write this function: advantages of a whole batch
#
# Now any γ and λ, and answers of different lengths: `mask` is True on an answer's own tokens, which
# come first in its row. What `rewards` and `values` hold behind them is noise; your result is zero there.


# %% tags=["exercise"]
def my_gae(rewards, values, mask, gamma, lam):
    """Generalised advantage estimation: advantages (B, R) from three tensors (B, R)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.3", my_gae)

# %% [markdown]
# ### 03.4 Write this function: the clip, and who falls silent
#
# For tokens with a ratio and an advantage each: the clipped surrogate of section 4 (what is maximised,
# not the loss), and which tokens it leaves without a gradient. Find the rule for the second part
# without autograd.


# %% tags=["exercise"]
def clipped(ratio, advantages, clip):
    """(surrogate, silent), both (n,); silent: True where there is no slope."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.4", clipped)

# %% [markdown]
# ### 03.5 Write this function: where does an update push?
#
# The logits are `W @ h`, one row of `W` a word. In which direction must `h` move for one word to become
# likelier? By hand, without autograd.


# %% tags=["exercise"]
def push(W, h, token):
    """The slope of log π(token) with respect to h, (D,), from W (V, D) and h (D,)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.5", push)

# %% [markdown]
# ### 03.6 Break it and diagnose: thirty-two unnamed logs
#
# Thirty-two runs that you have not seen: 12 to 39 steps, first answers of 5 to 60 tokens, and a reward that
# rises in every one. Write the doctor (without `health.diagnose`): a log is a list of one dictionary a
# step, with `reward`, `kl`, `length`, `finished` and `distinct_2` in the units of section 7. At most one
# thing is wrong with each run; a single odd batch is nothing. Return a name as `health.diagnose` says it
# ("KL running away", "collapse", "never finishing"), or "healthy".


# %% tags=["exercise"]
def doctor(log):
    """One of healthy, KL running away, collapse, never finishing."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("03.6", doctor)

# %% [markdown]
# ### Two open questions
#
# They need training, so nothing checks them.
#
# - **Break it.** Make the reward `lambda p, r: [-len(x) for x in r]`, take `kl_coef=0`, run six steps.
#   Which curve tells you first?
#   <details><summary>Answer</summary>Length. The reward rises too, which is the trap; the KL goes
#   next, and by then the answers are a word long.</details>
# - **A setting that nobody questions.** Train again with
#   `ppo.PPOConfig.from_profile(profile, lam=0.95)` and no run folder. The judge is the same; what
#   happens to `length`?
#   <details><summary>Answer</summary>In our trial, with an earlier judge that scored longer answers
#   slightly higher, 24 steps took them from 20 tokens to 10; with λ = 1 they kept 19. The judge did
#   not ask for it: see the two answers of section 3.</details>

# %% [markdown]
# ## What can go wrong
# | symptom | likely cause | where it shows |
# |---|---|---|
# | first ratio is not 1 | log-probs from another code path, dropout, wrong temperature | the trainer stops and says so |
# | KL negative for many steps | sampling from a narrowed distribution (top-k, top-p) | KL |
# | reward flat | learning rate too small, rewards all equal, prompts too few | reward, clipped |
# | reward up, answers worse | the reward model is being gamed | the samples; notebook 04 |
# | answers get longer for ever | length pays, stopping does not | length, finished |
# | loss is NaN | fp16 overflow, a reward that is not a number | the trainer stops, the last checkpoint stays |

# %% [markdown]
# ## What we simplified
# 1. One reward model, and it stays as it is; in practice it is retrained as the policy moves
#    (Stiennon et al. 2020, arXiv 2009.01325).
# 2. A few dozen steps where published runs take thousands.
# 3. One shared trunk for policy and critic; large runs give the critic its own
#    (Ouyang et al. 2022, arXiv 2203.02155).
# 4. β is constant; Ziegler et al. 2019 (arXiv 1909.08593) steer it towards a target KL.
# 5. TRL dropped its `PPOTrainer` in version 1.13; ours follows the same papers and the list of
#    "N+ implementation details" (arXiv 2403.17031).

# %% [markdown]
# ## Five questions
#
# **1. Before the first update the KL of every token is exactly zero, not merely small. Why?**
#
# - A: β starts at zero and is warmed up.
# - B: Differences that small are rounded away.
# - C: Policy and reference start as the same weights and are run through the same code.
# - D: The answers are sampled from the reference.
#
# <details><summary>Answer</summary>
#
# **C** is right. Equal weights, equal arithmetic, equal bits. A first KL or a first ratio that is off points to a second code path.
#
# Not A. The KL is measured without β, and β is at its value from the first step on.
#
# Not B. The cell asserts 0.0 for the largest of all tokens. Rounding would leave a last bit somewhere.
#
# Not D. They are sampled from the policy. That it is still the reference in all but name is the point.
#
# It stands in “5. What does one real step do?”.
#
# </details>
#
# **2. The second of the four tokens has a KL estimate of −0.2, although a KL is never negative. What does that tell you?**
#
# - A: It is the estimate from one sample: the reference likes this token more than the policy does.
# - B: k1 is biased; k3 is the right one.
# - C: The two models were run at different temperatures.
#
# <details><summary>Answer</summary>
#
# **A** is right. Over many samples such tokens are outweighed by the others, and the mean comes out at the true value.
#
# Not B. With three words both expectations are the exact KL. k3 is never negative, but no more right on average.
#
# Not C. That would shift a whole log. The four numbers here were written down by hand, and one below zero is in order.
#
# It stands in “1. How far has the policy drifted?”.
#
# </details>
#
# **3. An answer of 4 tokens and one of 20 are graded alike, and the critic says nothing yet. Why does our trainer take λ = 1?**
#
# - A: λ = 1 gives the least noise.
# - B: Below 1 the score would not stand on the last token.
# - C: Below 1 the first token of the longer answer earns less, so that brevity would pay without anybody asking for it.
# - D: At 1 the critic need not be trained.
#
# <details><summary>Answer</summary>
#
# **C** is right. At 0.95 the same grade is worth less the later it comes. A good critic would mend that; ours has just begun.
#
# Not A. The reverse: every token then answers for all that followed. The trainer lives with that noise.
#
# Not B. The score stands on the last token at any λ. λ decides how much of it reaches the first.
#
# Not D. It is trained all the same, for its guesses are subtracted at any λ.
#
# It stands in “3. Who earned it?”.
#
# </details>
#
# **4. A token with advantage −1 has become likelier: its ratio is 1.5. What does the clipped surrogate do?**
#
# - A: Nothing: outside 0.8 to 1.2 there is no gradient.
# - B: It pushes the token back.
# - C: It pushes back, but only as it would at a ratio of 1.2.
#
# <details><summary>Answer</summary>
#
# **B** is right. The surrogate is −1.5 there, not clipped: a bad token that has become likelier is still pushed down, however far it went.
#
# Not A. Two of the four cases outside keep their gradient. Only going further in the direction that pays is stopped.
#
# Not C. The clipped value, −1.2, is the better one of the two, and the surrogate takes the worse.
#
# It stands in “4. How big a step?”.
#
# </details>
#
# **5. The reward looks splendid, `length` climbs to its limit and `finished` falls. Which of the four runs is it, and what helps?**
#
# - A: Run A, the KL running away: β back up and smaller steps.
# - B: Run B, the collapse: a reward that cannot be won by saying nothing.
# - C: Run C: nothing, for the reward is what was to be maximised.
# - D: Run D, forgetting to stop: a missing-stop penalty that is worth more than the extra words earn.
#
# <details><summary>Answer</summary>
#
# **D** is right. Length was paid for and stopping cost nothing. As long as that is so, the policy is right not to stop.
#
# Not A. That run is known by its KL. Its answers became short, not long.
#
# Not B. There the answers shrank to a word or two. Here they do not stop.
#
# Not C. In the good run answers still end. A reward can rise for bad reasons, which is why six curves are watched.
#
# It stands in “8. Is this run healthy?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("03")

# %% [markdown]
# ## Next
# [04 · Evaluation](04_eval.ipynb): are you convinced?

# %% [markdown]
# ## Solutions
#
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
second_token = -1.0 * -0.2  # −β · k1: the reference likes it even more
whole_answer = 1.0 - 1.0 * (0.2 - 0.2 + 0.6 + 0.0)
### END SOLUTION

assert check("03.1", (second_token, whole_answer)).right


# %% tags=["solution"]
def without_recursion(rewards, values):
    ### BEGIN SOLUTION
    to_come = rewards.flip(1).cumsum(1).flip(1)
    return to_come - values
    ### END SOLUTION


assert check("03.2", without_recursion).right


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


assert check("03.3", my_gae).right


# %% tags=["solution"]
def clipped(ratio, advantages, clip):
    ### BEGIN SOLUTION
    held = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, held * advantages)
    too_good = (advantages > 0) & (ratio > 1 + clip)
    too_bad = (advantages < 0) & (ratio < 1 - clip)
    return surrogate, too_good | too_bad
    ### END SOLUTION


assert check("03.4", clipped).right


# %% tags=["solution"]
def push(W, h, token):
    ### BEGIN SOLUTION
    probabilities = (W @ h).softmax(-1)  # (V,)
    return W[token] - probabilities @ W
    ### END SOLUTION


assert check("03.5", push).right


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


assert check("03.6", doctor).right
