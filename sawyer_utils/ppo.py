"""Proximal policy optimisation for language models, short enough to read in a lesson.

Read it in this order: ``PPOTrainer.rollout`` → ``score`` → ``advantages`` → ``update``; ``step``
calls the four and ``train`` repeats it. The mathematics is in ``losses.py``, the settings are in
``ppo_config.py``.

Where this differs from the papers, on purpose:

1. One trunk serves policy, reference and critic: two LoRA adapters and a linear value head, so
   a step holds one copy of the base (the layout of Santacroce et al. 2023, arXiv 2309.00754).
2. The score is paid on the stop token itself. Ziegler et al. and TRL's last PPO pay it on the
   padding after it, which the stop token earns only through the critic.
3. A response that never stops loses a fixed amount (``missing_stop_penalty``); Stiennon et al.
   and the "N+ implementation details" replace its score instead, and lose the ranking.
4. The KL coefficient is constant unless ``kl_target`` is set: Ziegler's adaptive controller
   solves a problem that a run of a few dozen steps does not have.
5. The value loss reaches the trunk (``value_coef``), as in InstructGPT, unless ``detach_value``.
   Advantages are whitened over the whole batch; rewards only if ``whiten_rewards``. With another
   ``baseline`` than the critic nothing learns values, and advantages keep the units of the reward.
6. Randomness is derived from (seed, step) alone, so a resumed run repeats the run that was cut.
7. A loss that is not finite stops the run instead of being skipped: it does not get better.
8. Scores have no running scale unless ``scale_rewards``: ``reward.standardised`` sets it once, so that
   a reward means the same in step 1 and in step 100. The running one shifts nothing.
9. λ is 1, not 0.95. The critic starts from zero and sees a few hundred answers: below 1 a score is
   then worth less the later it comes, and answers shrink although no one pays for brevity.
10. Tokens are drawn from the full distribution, never from the top k or the top p: π_old has to be
    what sampled, and outside the cut its probability is zero, so that the ratio has no value.

It reads as one device. Several processes (``accelerate launch``) are ``plumbing.parallel``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sawyer_utils import checkpoints, health, losses
from sawyer_utils.actor import ActorCritic, switch_off_dropout
from sawyer_utils.chat import that_fit
from sawyer_utils.models import POLICY, REF, activate, autocast, merged, using
from sawyer_utils.plumbing import memory, tracking
from sawyer_utils.plumbing.parallel import Processes
from sawyer_utils.plumbing.progress import stage
from sawyer_utils.plumbing.resuming import StopButton, TrainingInterrupted
from sawyer_utils.plumbing.trainers import FP16_SCALE
from sawyer_utils.ppo_config import PPOConfig
from sawyer_utils.reward import RewardFn, RunningScale, checked_scores
from sawyer_utils.rollout import Rollout, joined, prompts_of_step, sample
from sawyer_utils.runtime import peak_memory_gib, seconds


class TrainingStopped(RuntimeError):
    """The run went wrong (NaN, collapse); the last good checkpoint is still there."""


class PPOTrainer:
    """PPO, on one device or on one a process.

    Args:
        model: a PEFT model with a trainable adapter ``policy`` and a frozen one ``ref``
            (``models.load_actor``).
        reward_fn: ``(prompts, responses) -> list of scores``; any callable on texts.
        run_dir: where adapter, value head, log and checkpoint go; None keeps nothing.

    Raises:
        ValueError: if nothing of the policy is trainable, or a process would have no rows.
    """

    def __init__(self, model, tokenizer, reward_fn: RewardFn, config: PPOConfig, run_dir=None):
        self.tokenizer, self.reward_fn, self.config = tokenizer, reward_fn, config
        self.run_dir = Path(run_dir) if run_dir else None
        self.actor = ActorCritic(model)
        self.device = self.actor.value_head.weight.device
        self.processes = Processes(self.device)
        if config.batch_size // config.minibatches < self.processes.count:
            raise ValueError(f"A minibatch has fewer rows than {self.processes.count} processes.")
        activate(model, POLICY)
        switch_off_dropout(model)
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        if all(name.startswith("value_head") for name, p in self.actor.named_parameters() if p.requires_grad):
            raise ValueError("The policy adapter has no trainable weights.")
        self.critic = config.baseline == "critic"
        self.actor.value_head.requires_grad_(self.critic)  # without one, V stays 0
        self.trained = [p for p in self.actor.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate, eps=1e-5, weight_decay=0.0)
        half = config.compute == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, FP16_SCALE, enabled=half)
        self.steps_done = 0
        self.kl_coef, self.score_scale = config.kl_coef, RunningScale()
        self.log: list[dict] = []

    def rollout(self, prompts: list[str]) -> Rollout:
        """Sample a response a prompt; add log π_old, log π_ref and values from the training path."""
        config, share = self.config, self.processes.part(prompts)
        sizes = config.response_tokens, config.temperature, config.generation_batch
        with merged(self.actor.model):
            batch = sample(self.actor.model.eval(), self.tokenizer, share, *sizes)
        batch = joined(self.processes.gather(batch)).to(self.device)
        # Trim columns that no row uses, so that every later pass is as narrow as it can be.
        batch = batch.rows(torch.arange(len(batch)))
        batch.logprobs, batch.values = self._evaluate(batch)
        with using(self.actor.model, REF):
            batch.ref_logprobs, _ = self._evaluate(batch)
        return batch

    def score(self, batch: Rollout) -> Rollout:
        """Ask the reward function; subtract the penalty of unfinished responses; pay each token."""
        ask = partial(checked_scores, self.reward_fn, batch.prompts, batch.responses)
        scores = torch.tensor(self.processes.once(ask))
        if self.config.scale_rewards:
            self.score_scale.add(scores.tolist())
            scores = scores / self.score_scale.std
        if self.config.score_clip is not None:
            scores = scores.clamp(-self.config.score_clip, self.config.score_clip)
        unfinished = (~batch.finished).float()
        batch.scores = scores.to(unfinished) - self.config.missing_stop_penalty * unfinished
        kl = losses.kl_k1(batch.logprobs, batch.ref_logprobs)
        batch.rewards = losses.token_rewards(batch.scores, kl, batch.response_mask, self.kl_coef)
        return batch

    def advantages(self, batch: Rollout) -> Rollout:
        """GAE of a critic, whose returns are taken before the advantages are whitened; without one, what is
        still paid, less the mean of the group's other answers."""
        config, mask, rewards = self.config, batch.response_mask, batch.rewards
        if config.whiten_rewards:
            rewards = losses.whiten(rewards, mask, shift_mean=False)
        if config.baseline == "group":
            batch.advantages = losses.group_advantages(rewards, mask, config.group_size, config.group_scale)
            return batch
        raw, returns = losses.gae(rewards, batch.values, mask, config.gamma, config.lam)
        batch.advantages, batch.returns = (losses.whiten(raw, mask), returns) if self.critic else (raw, None)
        return batch

    def update(self, batch: Rollout) -> dict[str, float]:
        """``epochs`` × ``minibatches`` clipped optimizer steps; returns statistics of the update.

        It ends early when a minibatch finds the policy too far from the one that sampled
        (``max_update_kl``, ``max_ratio``); that minibatch is not used.

        Raises:
            TrainingStopped: if the loss or its gradient is not finite.
        """
        stats = []
        self.actor.train()
        left = 1 - self.steps_done / max(1, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * max(0.1, left)
        for rows in self._minibatches(len(batch)):
            stats.append(self._minibatch(batch, rows))
            if stats[-1]["too_far"]:
                break
        # Nothing had moved before the first minibatch: this ratio has to be 1.
        first = stats[0]["ratio_error"]
        if first > (1e-4 if self.config.compute == torch.float32 else 1e-2):
            raise TrainingStopped(f"Step {self.steps_done}: first ratio is off by {first:.3g}, not 1.")
        return health.describe_update(stats)

    # --- a whole run -----------------------------------------------------------------------

    def step(self, prompts: list[str]) -> dict:
        """Rollout, score, advantages, update; returns the log line."""
        # The same in a resumed run, another in each process.
        torch.manual_seed(self.config.seed * 1_000_003 + self.steps_done + self.processes.rank * 10**12)
        clock = [seconds(self.device)]
        batch = self.rollout(prompts)
        clock.append(seconds(self.device))
        self.advantages(self.score(batch))
        clock.append(seconds(self.device))
        if not any(batch.responses):
            raise TrainingStopped(f"Step {self.steps_done}: every response is empty (collapse).")
        line = health.describe(batch, self.config.missing_stop_penalty, getattr(self.reward_fn, "parts", {}))
        line |= {"kl_coef": self.kl_coef}
        line |= {"score_scale": self.score_scale.std} if self.config.scale_rewards else {}
        line |= self.update(batch)
        clock.append(seconds(self.device))
        phases = ("seconds_rollout", "seconds_score", "seconds_update")
        line |= dict(zip(phases, (b - a for a, b in itertools.pairwise(clock)), strict=True))
        line["tokens_per_second"] = float(batch.lengths.sum()) / (clock[-1] - clock[0])
        self.steps_done += 1
        if self.config.kl_target is not None:
            self.kl_coef = losses.adapted_kl_coef(self.kl_coef, line["kl"], self.config.kl_target)
        line = {"step": self.steps_done, **line, "peak_memory_gib": peak_memory_gib()}
        self.log.append(line)
        return line

    def train(
        self,
        prompts: list[str],
        on_step: Callable[[list[dict]], None] | None = None,
        resume: str | bool = "auto",
    ) -> list[dict]:
        """Run the remaining steps; continue from the run folder's checkpoint if it is of this very run. What
        is there of another one is moved aside (``resuming.claim``).

        Args:
            on_step: called with the whole log after each step (for a live plot).
            resume: "auto", or False to start over.

        Raises:
            ValueError: with fewer prompts that fit than one batch.
            TrainingStopped: on NaN or collapse.
            TrainingInterrupted: after the Stop button, with a checkpoint to go on from.
            OutOfMemory: with the settings that help most.
        """
        if self.config.prompt_tokens:
            prompts = that_fit(self.tokenizer, prompts, self.config.prompt_tokens)
        if len(prompts) * self.config.answers < self.config.batch_size:
            needed = f"the {self.config.batch_size // self.config.answers} of a step"
            raise ValueError(
                f"{len(prompts)} prompts are fewer than {needed}: bring more, or lower ppo_batch."
            )
        if self.run_dir is not None and not self.log:
            checkpoints.go_on(self, prompts, bool(resume))
        if on_step and self.log:
            on_step(self.log)
        total, every = self.config.steps, self.config.checkpoint_every
        # One of several cannot stop, and without a folder nothing would be kept.
        can_stop = self.processes.count == 1 and self.run_dir is not None
        with StopButton(can_stop) as button, tracking.follow(self.run_dir) as track, stage("PPO") as now:
            now.tell(self.steps_done, total)
            while self.steps_done < total:
                with memory.explained(self.actor.model, self.config.halves()):
                    line = self.step(prompts_of_step(prompts, self.steps_done, self.config))
                track(line)
                now.tell(self.steps_done, total, line)
                if self.steps_done == total or self.steps_done % every == 0:
                    self.save_checkpoint()
                if on_step:
                    on_step(self.log)
                if button.pressed and self.steps_done < total:
                    self.save_checkpoint()
                    raise TrainingInterrupted(self.steps_done, total)
        return self.log

    def save_checkpoint(self) -> None:
        """Keep the run in its folder; without one, nothing."""
        if self.run_dir is not None:
            checkpoints.save(self, self.run_dir / "checkpoint")

    def load_checkpoint(self) -> bool:
        """Go on from the run folder's checkpoint; False if there is none."""
        return self.run_dir is not None and checkpoints.load(self, self.run_dir / "checkpoint")

    @torch.no_grad()
    def _evaluate(self, batch: Rollout) -> tuple[Tensor, Tensor]:
        """log-probs and values of a batch under the active adapter, micro-batch by micro-batch."""
        self.actor.train()  # the mode of the update; dropout is 0
        logprobs, values = (torch.zeros(batch.response_mask.shape, device=self.device) for _ in range(2))
        with autocast(self.actor.model, self.config.compute):
            for minibatch in torch.arange(len(batch)).tensor_split(self.config.minibatches):
                for rows in self._micro_batches(batch, minibatch):
                    found = self.actor(batch.rows(rows), self.config.temperature)
                    for whole, part in zip((logprobs, values), found, strict=False):
                        whole[rows, : part.shape[1]] = part
        # Each process has filled its own rows.
        return self.processes.sum(logprobs), self.processes.sum(values)

    def _minibatches(self, size: int) -> Iterator[Tensor]:
        """The rows of each optimizer step: a pass uses each row once."""
        for epoch in range(self.config.epochs):
            # The prompts came shuffled. The first pass repeats the micro-batches that gave
            # log π_old, so that its first ratio is 1 to the last bit in every precision.
            order = torch.randperm(size) if epoch else torch.arange(size)
            yield from self.processes.once(lambda order=order: order).tensor_split(self.config.minibatches)

    def _micro_batches(self, batch: Rollout, rows: Tensor) -> tuple[Tensor, ...]:
        """The rows as they go through the model: of similar length, to pad little."""
        by_length = rows[batch.attention_mask.sum(1).cpu()[rows].argsort(stable=True)]
        return self.processes.deal(by_length).split(self.config.micro_batch)

    def _minibatch(self, batch: Rollout, rows: Tensor) -> dict[str, float]:
        """One optimizer step over ``rows``; each token weighs the same, however rows are split."""
        config, sums, largest = self.config, {}, torch.zeros(2, device=self.device)
        warming = self.steps_done < config.critic_warmup
        tokens = int(batch.response_mask[rows].sum())
        self.optimizer.zero_grad()
        for part in (batch.rows(r) for r in self._micro_batches(batch, rows)):
            mask = part.response_mask
            with autocast(self.actor.model, config.compute):
                logprobs, values, entropy = self.actor(
                    part, config.temperature, config.detach_value or warming
                )
            policy = losses.policy_loss(logprobs, part.logprobs, part.advantages, config.clip)[mask].sum()
            loss, parts = (0.0 if warming else 1.0) * policy, {"policy_loss": policy}
            if self.critic:
                value = losses.value_loss(values, part.values, part.returns, config.value_clip)[mask].sum()
                loss, parts["value_loss"] = loss + config.value_coef * value, value
            self.scaler.scale(loss / tokens).backward()
            with torch.no_grad():
                found, extremes = health.describe_tokens(logprobs, part.logprobs, entropy, mask, config.clip)
                found |= {"loss": loss, **parts}
                sums = {key: sums.get(key, 0.0) + amount / tokens for key, amount in found.items()}
                largest = largest.maximum(extremes)
        stats = {key: float(total) for key, total in self.processes.sum(sums).items()}
        stats["ratio_max"], stats["ratio_error"] = self.processes.max(largest).tolist()
        for name, amount in {"loss": stats.pop("loss"), "largest ratio": stats["ratio_max"]}.items():
            if not math.isfinite(amount):
                raise TrainingStopped(f"Step {self.steps_done}: the {name} is {amount}.")
        limit = math.inf if config.max_update_kl is None else config.max_update_kl
        too_far = stats["ratio"] > config.max_ratio or stats["kl_update"] > limit
        norm = math.inf if too_far else self._optimizer_step()
        stepped = math.isfinite(norm)  # infinity is no JSON
        found = {"too_far": too_far, "grad_norm": norm if stepped else 0.0, "optimizer_steps": int(stepped)}
        return stats | found

    def _optimizer_step(self) -> float:
        """Clip the gradient and step. Returns the norm before clipping; if it is infinite, fp16
        overflowed, no step was made, and the scaler takes a smaller scale from the next one on."""
        for parameter in self.trained:
            parameter.grad = self.processes.sum(parameter.grad)
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm))
        if not (math.isfinite(norm) or self.scaler.is_enabled()):
            raise TrainingStopped(f"Step {self.steps_done}: the gradient's norm is {norm}.")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm
