"""The settings of a PPO run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sawyer_utils.runtime import choose_precision

# What has to be 1 or more, where it is set. Of max_ratio: the first minibatch's ratio is 1.
SIZES = ("steps", "batch_size", "epochs", "minibatches", "micro_batch", "group_size", "response_tokens")
SIZES += ("prompt_tokens", "generation_batch", "checkpoint_every", "max_ratio")


@dataclass(frozen=True)
class PPOConfig:
    """All settings of a run. Lengths in tokens, KL in nats.

    Raises:
        ValueError: for a size below 1, a batch without rows, a KL target that nothing is steered by, an
            unknown baseline, a critic's settings without a critic, or a sampler whose log-probs are not π's.
    """

    steps: int = 24
    batch_size: int = 32  # responses a step, of all processes together
    epochs: int = 2  # passes over them
    minibatches: int = 2  # optimizer steps a pass
    micro_batch: int = 16  # rows in memory at once; changes no result
    learning_rate: float = 2e-4  # decays linearly to 10 %
    kl_coef: float = 0.05  # β, at the start
    kl_target: float | None = None  # KL of a response that β is steered towards; None keeps β
    baseline: str = "critic"  # what pay is compared with: "critic", "group" or "none"
    group_size: int = 4  # answers a prompt, with the group as the baseline
    group_scale: bool = False  # divide by the group's standard deviation, as GRPO does
    gamma: float = 1.0
    lam: float = 1.0  # λ of GAE
    clip: float = 0.2  # ε
    value_clip: float = 0.2
    value_coef: float = 0.1
    detach_value: bool = False  # True: the value loss trains the head alone, not the trunk
    critic_warmup: int = 0  # first steps in which only the critic learns
    max_update_kl: float | None = None  # nats per token from the sampling policy; ends an update
    max_ratio: float = 10.0  # mean π/π_old of a minibatch beyond which it is not used
    scale_rewards: bool = False  # divide scores by the spread of all so far; before score_clip
    score_clip: float | None = None  # largest absolute score, before the penalty
    whiten_rewards: bool = False  # scale token rewards to variance 1; the mean stays
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    top_k: int = 0  # any other value is refused, see deviation 10 in ppo.py
    top_p: float = 1.0
    response_tokens: int = 64
    prompt_tokens: int | None = None  # longer prompts are left out of a training, and said
    generation_batch: int | None = None  # prompts sampled at once, of similar length; None: all
    missing_stop_penalty: float = 2.0
    checkpoint_every: int = 4  # steps
    activation_checkpointing: bool = False  # saves memory, costs a third of the speed
    compute: torch.dtype = torch.float32  # autocast
    seed: int = 0

    def __post_init__(self):
        for name in SIZES:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: it has to be 1 or more.")
        if self.clip <= 0:
            raise ValueError(f"clip={self.clip}: it has to be above 0.")
        if self.kl_target is not None and min(self.kl_target, self.kl_coef) <= 0:
            raise ValueError(
                f"kl_target={self.kl_target} with kl_coef={self.kl_coef}: the one is reached by multiplying "
                "the other, and both have to be above 0."
            )
        if self.minibatches > self.batch_size:
            raise ValueError(f"{self.minibatches} minibatches of {self.batch_size} responses.")
        if self.baseline not in ("critic", "group", "none"):
            raise ValueError(f"baseline={self.baseline!r}: choose 'critic', 'group' or 'none'.")
        if self.baseline != "critic" and (self.gamma, self.lam, self.critic_warmup) != (1.0, 1.0, 0):
            raise ValueError("gamma, lam and critic_warmup are a critic's: without one 1, 1 and 0.")
        if self.batch_size % self.answers or self.answers < 1 + (self.baseline == "group"):
            raise ValueError(f"{self.batch_size} responses are no groups of {self.group_size}.")
        if self.top_k != 0 or self.top_p != 1.0 or self.temperature <= 0:
            raise ValueError(
                "PPO needs samples from the full distribution: top_k=0, top_p=1, temperature > 0. "
                "The probability that the ratio divides by must be the one that sampled the token."
            )

    @property
    def answers(self) -> int:
        """Responses a prompt of a step."""
        return self.group_size if self.baseline == "group" else 1

    def halves(self) -> dict[str, tuple[int, float]]:
        """The sizes that memory hangs on, and the share of what comes and goes that each of them scales."""
        sampled, prompt = self.generation_batch or self.batch_size, self.prompt_tokens or self.response_tokens
        return {
            "ppo_micro_batch (in the update)": (self.micro_batch, 1.0),
            "PPOConfig's generation_batch (while sampling)": (sampled, 1.0),
            "response_tokens": (self.response_tokens, self.response_tokens / (prompt + self.response_tokens)),
        }

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
            "checkpoint_every": profile.ppo_checkpoint_every,
            "activation_checkpointing": precision.device != "cpu",
            "compute": precision.compute,
        }
        return cls(**{**settings, **overrides})
