"""A PPO run on disk: safetensors and JSON, each written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sawyer_utils.models import POLICY, REF, load_policy_weights, restart, save_adapter
from sawyer_utils.plumbing import resuming
from sawyer_utils.plumbing.files import read_json, recover, replacing, write_json
from sawyer_utils.reward import RunningScale, checked_scores

# Of PPOConfig, what changes no result but for rounding.
NO_RESULT = ("micro_batch", "generation_batch", "checkpoint_every", "activation_checkpointing", "compute")
ANSWERS = [
    "Yes.",
    "I do not know.",
    "It depends: one thing leads to another, and what comes last is easily taken for the cause.",
    "No! No, no. Why do you ask?",
]

if TYPE_CHECKING:
    from sawyer_utils.ppo import PPOTrainer


def save(trainer: PPOTrainer, folder: Path) -> None:
    """Adapter, value head, optimizer, counters and log, by one of the processes. Randomness needs
    no saving: it follows from seed and step."""
    if trainer.processes.main:
        _write(trainer, folder)
    trainer.processes.state.wait_for_everyone()


def _write(trainer: PPOTrainer, folder: Path) -> None:
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as new:
        new.mkdir()
        save_adapter(trainer.actor.model, new / "adapter", POLICY)
        save_file(trainer.actor.value_head.state_dict(), new / "value_head.safetensors")
        moments = {
            f"{index}.{name}": tensor
            for index, state in trainer.optimizer.state_dict()["state"].items()
            for name, tensor in state.items()
        }
        save_file(moments, new / "optimizer.safetensors")
        state = {
            "steps_done": trainer.steps_done,
            "kl_coef": trainer.kl_coef,
            "score_scale": asdict(trainer.score_scale),
            "scaler": trainer.scaler.state_dict(),
        }
        write_json(new / "state.json", state)
        lines = "".join(json.dumps(line) + "\n" for line in trainer.log)
        (new / "log.jsonl").write_text(lines, encoding="utf-8")


def load(trainer: PPOTrainer, folder: Path) -> bool:
    """Put the trainer where ``folder`` was saved; False if there is nothing.

    Raises:
        ValueError: if it is damaged, before anything of it is used.
    """
    folder = Path(folder)
    with trainer.processes.state.main_process_first():
        recover(folder)  # by the first; nothing is left for the others
    if not (folder / "state.json").exists():
        return False
    state = read_json(folder / "state.json")
    try:
        head = load_file(folder / "value_head.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        load_policy_weights(trainer.actor.model, folder / "adapter")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"The checkpoint in {folder} is damaged ({error}). Delete it and run again."
        ) from error
    trainer.actor.value_head.load_state_dict(head)
    current = trainer.optimizer.state_dict()
    current["state"] = {}
    for key, tensor in moments.items():
        index, name = key.split(".", 1)
        # A copy: Windows replaces no file that a tensor still lies on.
        current["state"].setdefault(int(index), {})[name] = tensor.clone()
    trainer.optimizer.load_state_dict(current)
    if state["scaler"] and trainer.scaler.is_enabled():  # it may go on with another number format
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.steps_done, trainer.kl_coef = state["steps_done"], state["kl_coef"]
    trainer.score_scale = RunningScale(**state["score_scale"])
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    trainer.log = [json.loads(line) for line in lines]
    return True


def go_on(trainer: PPOTrainer, prompts: list[str], resume: bool) -> None:
    """Go on from the run folder's checkpoint if it is of this very run; what is of another one is moved aside
    (``resuming.claim``), of several processes by the first. A run that starts begins at its reference."""
    if trainer.processes.main:
        outputs = ("checkpoint", "adapter", "log.json", "milestones")
        recover(trainer.run_dir / "checkpoint")
        resuming.claim(trainer.run_dir, identity(trainer, prompts), outputs, resume)
    trainer.processes.state.wait_for_everyone()
    if not load(trainer, trainer.run_dir / "checkpoint"):
        restart(trainer.actor.model)  # which may have been trained already, in this session


def identity(trainer: PPOTrainer, prompts: list[str]) -> dict:
    """What changes a run's result: prompts, settings, the start, and the reward, by its scores of a few
    answers. A reward that says something else each time is only known as that."""
    some = prompts[: len(ANSWERS)]
    asked = [checked_scores(trainer.reward_fn, some, ANSWERS[: len(some)]) for _ in range(2)]
    reward = asked[0] if resuming.alike(*asked) else "not the same twice"
    return {"prompts": resuming.digest(prompts), "reward": reward, **settings_of(trainer)}


def settings_of(trainer: PPOTrainer) -> dict[str, str]:
    """The settings that change a run's result, and its start."""
    start = resuming.digest_of(p for n, p in trainer.actor.model.named_parameters() if f".{REF}" in n)
    settings = {k: str(v) for k, v in asdict(trainer.config).items() if k not in NO_RESULT}
    return {"start": start, **settings}
