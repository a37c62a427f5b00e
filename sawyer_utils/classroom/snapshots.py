"""What the policy says to the same prompts as it learns, with the KL of each token."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sawyer_utils import checkpoints, losses
from sawyer_utils.plumbing import resuming
from sawyer_utils.plumbing.files import is_main_process, read_json, write_json
from sawyer_utils.rollout import Rollout


@dataclass(frozen=True)
class Snapshot:
    """Some answers at one step of a run; lists in the order of the prompts."""

    step: int
    prompts: list[str]
    tokens: list[list[str]]
    kl: list[list[float]]  # log π − log π_ref of each token, nats
    scores: list[float]


def snapshot(batch: Rollout, tokenizer, step: int) -> Snapshot:
    """Of a batch that has gone through ``PPOTrainer.rollout`` and ``score``."""
    kl, tokens, shades = losses.kl_k1(batch.logprobs, batch.ref_logprobs), [], []
    for ids, values, mask in zip(batch.response_ids, kl, batch.response_mask, strict=True):
        pieces = [tokenizer.decode([i]) for i in ids[mask].tolist()]
        tokens.append([piece.replace("\ufffd", "░") for piece in pieces])  # part of a letter
        shades.append(values[mask].tolist())
    return Snapshot(step, list(batch.prompts), tokens, shades, batch.scores.tolist())


class Watch:
    """Asks the policy the same few prompts every so often while it is trained.

        watch = Watch(trainer, prompts, every=6, path=folder / "snapshots.json")
        watch.start()
        trainer.train(train_prompts, on_step=watch)

    Training is not changed by being watched: it draws its own random numbers from seed and step.

    Args:
        every: steps from one look to the next; the last step is always looked at.
        path: keeps the snapshots, for a run that is cut off and goes on.
    """

    def __init__(self, trainer, prompts: list[str], every: int, path: Path | None = None):
        self.trainer, self.prompts, self.every = trainer, list(prompts), every
        self.path = Path(path) if path else None
        self.taken: list[Snapshot] = []
        # Another run, reward or prompts are another story.
        self.run = checkpoints.identity(trainer, self.prompts)
        if self.path and self.path.exists():
            kept = read_json(self.path)
            if all(resuming.alike(kept["run"].get(key), value) for key, value in self.run.items()):
                self.taken = [Snapshot(**one) for one in kept["taken"]]

    def start(self) -> None:
        """The look before the first step, unless a run that goes on has it."""
        if not self.taken:
            self.take()

    def __call__(self, log: list[dict]) -> None:
        step = log[-1]["step"]
        if step % self.every == 0 or step == self.trainer.config.steps:
            self.take()

    def take(self) -> Snapshot:
        """Look now; what an interrupted run had seen beyond this step is dropped."""
        step = self.trainer.steps_done
        scale = replace(self.trainer.score_scale)  # a look is no step
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same draw each time: what differs is the policy
            batch = self.trainer.score(self.trainer.rollout(self.prompts))
        self.trainer.score_scale = scale
        taken = snapshot(batch, self.trainer.tokenizer, step)
        self.taken = [*(one for one in self.taken if one.step < step), taken]
        if self.path and is_main_process():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {"run": self.run, "taken": [asdict(one) for one in self.taken]})
        return taken
