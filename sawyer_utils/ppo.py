"""Proximal policy optimisation for language models, short enough to read in a lesson.

Read it in this order: ``PPOTrainer.rollout`` → ``score`` → ``advantages`` → ``update``; ``step``
calls the four and ``train`` repeats it. The mathematics is in ``losses.py``.

Where this differs from the papers, on purpose:

1. One trunk serves policy, reference and critic: two LoRA adapters and a linear value head, so
   a step holds one copy of the base (the layout of Santacroce et al. 2023, arXiv 2309.00754).
2. The score is paid on the stop token itself. Ziegler et al. and TRL's last PPO pay it on the
   padding after it, which the stop token earns only through the critic.
3. A response that never stops loses a fixed amount (``missing_stop_penalty``); Stiennon et al.
   and the "N+ implementation details" replace its score instead, and lose the ranking.
4. The KL coefficient is constant: Ziegler's adaptive controller solves a problem that a run of
   a few dozen steps does not have.
5. The value loss reaches the trunk (``value_coef``), as in InstructGPT's shared layout; rewards
   are not whitened, advantages are, over the whole batch.
6. Randomness is derived from (seed, step) alone, so a resumed run repeats the run that was cut.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sawyer_utils import losses
from sawyer_utils.models import POLICY, REF, activate, merged, save_adapter, using
from sawyer_utils.reward import RewardFn
from sawyer_utils.rollout import Rollout, sample
from sawyer_utils.runtime import choose_precision, peak_memory_gib, read_json, replacing, write_json


class TrainingStopped(RuntimeError):
    """The run went wrong (NaN, collapse); the last good checkpoint is still there."""


@dataclass(frozen=True)
class PPOConfig:
    """All settings of a run. Lengths in tokens, KL in nats."""

    steps: int = 24
    batch_size: int = 32  # responses a step
    epochs: int = 2  # passes over them
    minibatches: int = 2  # optimizer steps a pass
    micro_batch: int = 16  # rows in memory at once; changes no result
    learning_rate: float = 2e-4  # decays linearly to 10 %
    kl_coef: float = 0.05  # β
    gamma: float = 1.0
    lam: float = 0.95  # λ of GAE
    clip: float = 0.2  # ε
    value_clip: float = 0.2
    value_coef: float = 0.1
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    response_tokens: int = 64
    prompt_tokens: int | None = None  # longer prompts are refused
    missing_stop_penalty: float = 2.0
    checkpoint_every: int = 4  # steps
    activation_checkpointing: bool = False  # saves memory, costs a third of the speed
    compute: torch.dtype = torch.float32  # autocast
    seed: int = 0

    @classmethod
    def from_profile(cls, profile, **overrides) -> PPOConfig:
        """The profile's sizes on this machine's precision; ``overrides`` win."""
        precision = choose_precision(profile.precision)
        settings = {
            "steps": profile.ppo_steps,
            "batch_size": profile.ppo_batch,
            "epochs": profile.ppo_epochs,
            "minibatches": profile.ppo_minibatches,
            "micro_batch": profile.ppo_micro_batch,
            "learning_rate": profile.ppo_lr,
            "kl_coef": profile.kl_coef,
            "missing_stop_penalty": profile.missing_stop_penalty,
            "response_tokens": profile.response_tokens,
            "prompt_tokens": profile.prompt_tokens,
            "temperature": profile.temperature,
            "activation_checkpointing": precision.device != "cpu",
            "compute": precision.compute,
        }
        return cls(**{**settings, **overrides})


class ActorCritic(nn.Module):
    """Policy and value head on one trunk. Every gradient path goes through ``forward``."""

    CHUNK = 512  # response tokens whose (…, V) logits exist at once

    def __init__(self, model):
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.value_head = nn.Linear(model.config.hidden_size, 1, device=device)
        nn.init.zeros_(self.value_head.weight)  # V = 0 at first: no critic is better than a wrong one
        nn.init.zeros_(self.value_head.bias)

    def forward(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """log π(a_t), V(s_t) and entropy of each response token: three (B, R), 0 outside the mask."""
        base = self.model.get_base_model()
        mask, width = rollout.response_mask, rollout.response_mask.shape[1]
        attention = rollout.attention_mask.long()
        hidden = base.get_decoder()(
            input_ids=rollout.input_ids,
            attention_mask=attention,
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),  # the same under any left padding
            use_cache=False,
        ).last_hidden_state  # (B, T, D)
        states = hidden[:, -width - 1 : -1][mask]  # (N, D): what was known before each of N tokens
        tokens = rollout.response_ids[mask]  # (N,)
        head = base.get_output_embeddings()

        def head_of(part: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            logits = head(part)[None]  # (1, n, V)
            chosen = losses.token_logprobs(logits, target[None], temperature)
            with torch.no_grad():
                spread = losses.entropy(logits, temperature)
            return chosen[0], spread[0]

        parts = [
            # Recomputed in the backward pass: (N, V) logits are never kept.
            checkpoint(head_of, part, target, use_reentrant=False)
            for part, target in zip(states.split(self.CHUNK), tokens.split(self.CHUNK), strict=True)
        ]
        with torch.autocast(states.device.type, enabled=False):
            values = self.value_head(states.float()).squeeze(-1)

        def spread_out(flat: Tensor) -> Tensor:  # (N,) -> (B, R)
            return flat.new_zeros(mask.shape).masked_scatter(mask, flat)

        logprobs, entropies = (spread_out(torch.cat(p)) for p in zip(*parts, strict=True))
        return logprobs, spread_out(values), entropies


class PPOTrainer:
    """PPO on one device.

    Args:
        model: a PEFT model with a trainable adapter ``policy`` and a frozen one ``ref``
            (``models.load_actor``).
        reward_fn: ``(prompts, responses) -> list of scores``; any callable on texts.
        run_dir: where adapter, value head, log and checkpoint go; None keeps nothing.

    Raises:
        ValueError: if nothing of the policy is trainable, or a minibatch would be empty.
    """

    def __init__(self, model, tokenizer, reward_fn: RewardFn, config: PPOConfig, run_dir=None):
        if config.minibatches > config.batch_size:
            raise ValueError(f"{config.minibatches} minibatches of {config.batch_size} responses.")
        self.tokenizer, self.reward_fn, self.config = tokenizer, reward_fn, config
        self.run_dir = Path(run_dir) if run_dir else None
        self.actor = ActorCritic(model)
        activate(model, POLICY)
        _switch_off_dropout(model)  # the ratio must be 1 before the first update
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        self.trained = [p for p in self.actor.parameters() if p.requires_grad]
        if len(self.trained) < 3:
            raise ValueError("The policy adapter has no trainable weights.")
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate, eps=1e-5, weight_decay=0.0)
        self.scaler = torch.amp.GradScaler(enabled=config.compute == torch.float16)
        self.steps_done = 0
        self.log: list[dict] = []

    # --- the four methods ------------------------------------------------------------------

    def rollout(self, prompts: list[str]) -> Rollout:
        """Sample a response a prompt; add log π_old, log π_ref and values from the training path."""
        config = self.config
        with merged(self.actor.model), torch.no_grad():
            batch = sample(
                self.actor.model.eval(),
                self.tokenizer,
                prompts,
                config.response_tokens,
                config.temperature,
                config.prompt_tokens,
            )
        # Trim columns that no row uses, so that every later pass is as narrow as it can be.
        batch = batch.rows(torch.arange(len(batch)))
        batch.logprobs, batch.values = self._evaluate(batch)
        with using(self.actor.model, REF):
            batch.ref_logprobs, _ = self._evaluate(batch)
        return batch

    def score(self, batch: Rollout) -> Rollout:
        """Ask the reward function; subtract the penalty of unfinished responses; pay each token."""
        scores = self._checked_scores(batch)
        batch.scores = scores - self.config.missing_stop_penalty * (~batch.finished).float()
        kl = losses.kl_k1(batch.logprobs, batch.ref_logprobs)
        batch.rewards = losses.token_rewards(batch.scores, kl, batch.response_mask, self.config.kl_coef)
        return batch

    def advantages(self, batch: Rollout) -> Rollout:
        """GAE; the returns are taken before the advantages are whitened."""
        raw, batch.returns = losses.gae(
            batch.rewards, batch.values, batch.response_mask, self.config.gamma, self.config.lam
        )
        batch.advantages = losses.whiten(raw, batch.response_mask)
        return batch

    def update(self, batch: Rollout) -> dict[str, float]:
        """``epochs`` × ``minibatches`` clipped optimizer steps; returns statistics of the update.

        Raises:
            TrainingStopped: if the loss or its gradient is not finite.
        """
        config, stats = self.config, []
        self.actor.train()
        self._set_learning_rate()
        for epoch in range(config.epochs):
            # The prompts came shuffled. The first pass repeats the micro-batches that gave
            # log π_old, so that its first ratio is 1 to the last bit in every precision.
            order = torch.randperm(len(batch)) if epoch else torch.arange(len(batch))
            for rows in order.tensor_split(config.minibatches):
                stats.append(self._minibatch(batch, rows))
        means = {key: sum(s[key] for s in stats) / len(stats) for key in stats[0]}
        # Nothing had moved before the first minibatch: this ratio has to be 1.
        first = stats[0]["ratio_error"]
        if first > (1e-4 if config.compute == torch.float32 else 1e-2):
            raise TrainingStopped(f"Step {self.steps_done}: first ratio is off by {first:.3g}, not 1.")
        return {**means, "ratio_error": first, "optimizer_steps": len(stats)}

    # --- a whole run -----------------------------------------------------------------------

    def step(self, prompts: list[str]) -> dict:
        """Rollout, score, advantages, update; returns the log line."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.steps_done)
        clock = [time.perf_counter()]
        batch = self.rollout(prompts)
        clock.append(time.perf_counter())
        self.advantages(self.score(batch))
        clock.append(time.perf_counter())
        line = self._describe(batch) | self.update(batch)
        clock.append(time.perf_counter())
        phases = ("seconds_rollout", "seconds_score", "seconds_update")
        line |= dict(zip(phases, (b - a for a, b in itertools.pairwise(clock)), strict=True))
        self.steps_done += 1
        line = {"step": self.steps_done, **line, "peak_memory_gib": peak_memory_gib()}
        self.log.append(line)
        return line

    def train(
        self, prompts: list[str], on_step: Callable[[list[dict]], None] | None = None, resume=True
    ) -> list[dict]:
        """Run the remaining steps; continue from the run folder's checkpoint if it has one.

        Args:
            on_step: called with the whole log after each step (for a live plot).

        Raises:
            ValueError: with fewer prompts than one batch.
            TrainingStopped: on NaN or collapse.
        """
        if len(prompts) < self.config.batch_size:
            raise ValueError(f"{len(prompts)} prompts are fewer than a batch of {self.config.batch_size}.")
        if resume:
            self.load_checkpoint()
        if on_step and self.log:
            on_step(self.log)
        while self.steps_done < self.config.steps:
            self.step(self._next_prompts(prompts))
            done = self.steps_done == self.config.steps
            if done or self.steps_done % self.config.checkpoint_every == 0:
                self.save_checkpoint()
            if on_step:
                on_step(self.log)
        return self.log

    # --- details ---------------------------------------------------------------------------

    def _autocast(self):
        device = next(self.actor.parameters()).device.type
        enabled = self.config.compute != torch.float32
        return torch.autocast(device, self.config.compute) if enabled else nullcontext()

    @torch.no_grad()
    def _evaluate(self, batch: Rollout) -> tuple[Tensor, Tensor]:
        """log-probs and values of a batch under the active adapter, micro-batch by micro-batch."""
        self.actor.train()  # the mode of the update; dropout is 0
        logprobs, values = (
            torch.zeros(batch.response_mask.shape, device=batch.input_ids.device) for _ in range(2)
        )
        with self._autocast():
            for minibatch in torch.arange(len(batch)).tensor_split(self.config.minibatches):
                for rows in self._micro_batches(batch, minibatch):
                    found = self.actor(batch.rows(rows), self.config.temperature)
                    for whole, part in zip((logprobs, values), found, strict=False):
                        whole[rows, : part.shape[1]] = part
        return logprobs, values

    def _micro_batches(self, batch: Rollout, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows that go through the model together: of similar length, to pad little."""
        widths = batch.attention_mask.sum(1).cpu()[rows]
        return rows[widths.argsort(stable=True)].split(self.config.micro_batch)

    def _minibatch(self, batch: Rollout, rows: Tensor) -> dict[str, float]:
        """One optimizer step over ``rows``; each token weighs the same, however rows are split."""
        config, sums = self.config, {}
        tokens = int(batch.response_mask[rows].sum())
        self.optimizer.zero_grad()
        for part in (batch.rows(r) for r in self._micro_batches(batch, rows)):
            mask = part.response_mask
            with self._autocast():
                logprobs, values, entropy = self.actor(part, config.temperature)
            policy = losses.policy_loss(logprobs, part.logprobs, part.advantages, config.clip)[mask]
            value = losses.value_loss(values, part.values, part.returns, config.value_clip)[mask]
            loss = (policy.sum() + config.value_coef * value.sum()) / tokens
            if not torch.isfinite(loss):
                raise TrainingStopped(f"Step {self.steps_done}: the loss is {loss.item()}.")
            self.scaler.scale(loss).backward()
            with torch.no_grad():
                ratio = (logprobs - part.logprobs)[mask].exp()
                found = {
                    "policy_loss": policy.sum(),
                    "value_loss": value.sum(),
                    "entropy": entropy.sum(),
                    "clip_share": ((ratio - 1).abs() > config.clip).sum(),
                    "kl_update": losses.kl_k3(part.logprobs, logprobs)[mask].sum(),
                }
                for key, amount in found.items():
                    sums[key] = sums.get(key, 0.0) + float(amount) / tokens
                error = float((ratio - 1).abs().max())
                sums["ratio_error"] = max(sums.get("ratio_error", 0.0), error)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, config.max_grad_norm)
        # In fp16 that is an overflow, which the scaler answers by skipping the step.
        if not torch.isfinite(norm) and not self.scaler.is_enabled():
            raise TrainingStopped(f"Step {self.steps_done}: the gradient's norm is {norm.item()}.")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {**sums, "grad_norm": float(norm)}

    def _set_learning_rate(self) -> None:
        left = 1 - self.steps_done / max(1, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * max(0.1, left)

    def _next_prompts(self, prompts: list[str]) -> list[str]:
        """The step's prompts: each pass over the list is a new shuffle, known from seed and pass."""
        size, start = self.config.batch_size, self.steps_done * self.config.batch_size
        picked = []
        for position in range(start, start + size):
            generator = torch.Generator().manual_seed(self.config.seed + position // len(prompts))
            order = torch.randperm(len(prompts), generator=generator)
            picked.append(prompts[order[position % len(prompts)]])
        return picked

    def _checked_scores(self, batch: Rollout) -> Tensor:
        """The reward function's scores, refused with the texts if they are not usable numbers."""
        scores = [float(s) for s in self.reward_fn(batch.prompts, batch.responses)]
        if len(scores) != len(batch):
            raise ValueError(f"The reward function gave {len(scores)} scores for {len(batch)} responses.")
        for prompt, response, value in zip(batch.prompts, batch.responses, scores, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"The reward function gave {value} for {prompt!r} -> {response!r}")
        return torch.tensor(scores, device=batch.input_ids.device)

    def _describe(self, batch: Rollout) -> dict:
        """What the log says of a batch before the update; KL is a sum over the response, in nats."""
        mask, lengths = batch.response_mask, batch.lengths.float()
        k1 = losses.kl_k1(batch.logprobs, batch.ref_logprobs)
        k3 = losses.kl_k3(batch.logprobs, batch.ref_logprobs)
        if not any(batch.responses):
            raise TrainingStopped(f"Step {self.steps_done}: every response is empty (collapse).")
        pure = batch.scores + self.config.missing_stop_penalty * (~batch.finished).float()
        return {
            "reward": float(pure.mean()),
            "reward_std": float(pure.std(unbiased=False)),
            "score": float(batch.scores.mean()),
            "kl": float((k1 * mask).sum(1).mean()),
            "kl_k3": float((k3 * mask).sum(1).mean()),
            "kl_coef": self.config.kl_coef,
            "length": float(lengths.mean()),
            "finished": float(batch.finished.float().mean()),
            "explained_variance": losses.explained_variance(batch.values, batch.returns, mask),
            "samples": [
                {"prompt": p, "response": r, "score": round(float(s), 3)}
                for p, r, s in list(zip(batch.prompts, batch.responses, batch.scores, strict=True))[:4]
            ],
        }

    # --- checkpoints: safetensors and JSON, each written whole or not at all ----------------

    def save_checkpoint(self) -> None:
        """Adapter, value head, optimizer and log; nothing else is needed to go on."""
        if self.run_dir is None:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with replacing(self.run_dir / "checkpoint") as folder:
            folder.mkdir()
            save_adapter(self.actor.model, folder / "adapter", POLICY)
            save_file(self.actor.value_head.state_dict(), folder / "value_head.safetensors")
            moments = {
                f"{index}.{name}": tensor
                for index, state in self.optimizer.state_dict()["state"].items()
                for name, tensor in state.items()
            }
            save_file(moments, folder / "optimizer.safetensors")
            state = {"steps_done": self.steps_done, "scaler": self.scaler.state_dict()}
            write_json(folder / "state.json", {**state, "settings": self._settings()})
            lines = "".join(json.dumps(line) + "\n" for line in self.log)
            (folder / "log.jsonl").write_text(lines, encoding="utf-8")

    def load_checkpoint(self) -> bool:
        """Continue from the run folder's checkpoint; False if there is none of this very run.

        Raises:
            ValueError: if it is damaged, before anything of it is used.
        """
        folder = self.run_dir / "checkpoint" if self.run_dir else None
        if folder is None or not (folder / "state.json").exists():
            return False
        state = read_json(folder / "state.json")
        if state["settings"] != self._settings():
            print("The checkpoint is of another start or other settings: starting over.")
            return False
        try:
            head = load_file(folder / "value_head.safetensors")
            moments = load_file(folder / "optimizer.safetensors")
            load_policy_weights(self.actor.model, folder / "adapter")
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"The checkpoint in {folder} is damaged ({error}). Delete it and run again."
            ) from error
        self.actor.value_head.load_state_dict(head)
        current = self.optimizer.state_dict()
        current["state"] = {}
        for key, tensor in moments.items():
            index, name = key.split(".", 1)
            current["state"].setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict(current)
        self.scaler.load_state_dict(state["scaler"])
        self.steps_done = state["steps_done"]
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        self.log = [json.loads(line) for line in lines]
        return True

    def _settings(self) -> dict[str, str]:
        """What must be equal for a run to be the same run: all settings and the SFT start."""
        digest = hashlib.sha256()
        for name, parameter in self.actor.model.named_parameters():
            if f".{REF}" in name:
                digest.update(parameter.detach().cpu().float().numpy().tobytes())
        return {k: str(v) for k, v in asdict(self.config).items()} | {"start": digest.hexdigest()}


def _switch_off_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # what attention layers hand to a function


def load_policy_weights(model, folder: Path) -> None:
    """Overwrite the ``policy`` adapter's weights, in place, with saved ones."""
    from peft import set_peft_model_state_dict

    weights = load_file(Path(folder) / "adapter_model.safetensors")
    set_peft_model_state_dict(model, weights, adapter_name=POLICY)
