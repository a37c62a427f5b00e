"""A PPO run on disk: safetensors and JSON, each written whole or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from sawyer_utils.models import POLICY, REF, restart
from sawyer_utils.plumbing import resuming
from sawyer_utils.plumbing.adapters import load_policy_weights, named, save_adapter
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
    with named(folder):
        head = load_file(folder / "value_head.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        load_policy_weights(trainer.actor.model, folder / "adapter")
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
        claim(trainer, identity(trainer, prompts), outputs, resume)
    trainer.processes.state.wait_for_everyone()
    if not load(trainer, trainer.run_dir / "checkpoint"):
        restart(trainer.actor.model)  # which may have been trained already, in this session


def claim(trainer: PPOTrainer, known: dict, outputs, resume: bool = True, file=resuming.RUN) -> None:
    """:func:`resuming.claim` of a run folder. A run that passes is still another one if its own last answers
    are scored otherwise now: two rewards may agree on the few answers of :func:`identity`."""
    ours = partial(resuming.claim, trainer.run_dir, known, outputs, file=file)
    if ours(resume=resume) and not _pays_the_same(trainer):
        print("The reward function scores this run's answers otherwise than it did.")
        ours(resume=False)


def _pays_the_same(trainer: PPOTrainer) -> bool:
    """Whether the checkpoint's last samples get the scores that its log has; also where that cannot be told,
    which is said."""
    try:
        log = (trainer.run_dir / "checkpoint" / "log.jsonl").read_text(encoding="utf-8")
        line = json.loads(log.splitlines()[-1])
        asked = [(one["prompt"], one["response"]) for one in line["samples"]]
        said = [one["score"] for one in line["samples"]]
    except (OSError, ValueError, LookupError):  # nothing is kept, or it is damaged, which load will say
        return True
    spread, config = line.get("reward_std", 0.0), trainer.config

    def near(score: float, other: float) -> bool:  # in 16 bits a score hangs a little on its batch
        return abs(score - other) <= 0.1 * spread + 0.01 * abs(other) + 1e-3

    alone = [checked_scores(trainer.reward_fn, [p], [r])[0] / line.get("score_scale", 1.0) for p, r in asked]
    together = checked_scores(trainer.reward_fn, *map(list, zip(*asked, strict=True)))
    if not all(near(a, b / line.get("score_scale", 1.0)) for a, b in zip(alone, together, strict=True)):
        print("Whether this run had this reward function cannot be told; if not, start over: resume=False.")
        return True
    limit = math.inf if config.score_clip is None else config.score_clip
    paid = [max(-limit, min(limit, score)) for score in alone]
    fined = [score - config.missing_stop_penalty for score in paid]  # of an answer without its stop token
    return all(near(a, s) or near(b, s) for a, b, s in zip(paid, fined, said, strict=True))


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
