"""Whether a recorded result is of the code, the data and the weights as they are now."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file

PACKAGE = Path(__file__).parents[1] / "sawyer_utils"
# What PPO's result hangs on. Comments and docstrings may change.
PPO_MODULES = ("ppo", "ppo_config", "losses", "actor", "rollout", "chat", "reward", "probe")
PPO_MODULES += ("plumbing/judges",)
PPO_DATA = ("prompts.jsonl",)


def of_code(path: Path) -> str:
    """16 hex digits of what a module does: its syntax tree without docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]
    return _digest([ast.dump(tree).encode()])


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def of_files(*paths: Path) -> str:
    """16 hex digits of the bytes of files."""
    return _digest(path.read_bytes() for path in paths)


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:16]


def of_ppo(profile, *adapters: Path) -> dict[str, str]:
    """Name -> digest of all that a PPO run of a profile hangs on: modules, prompts, settings and weights.

    Args:
        adapters: folders of the SFT adapter and the judges.
    """
    found = {f"{name}.py": of_code(PACKAGE / f"{name}.py") for name in PPO_MODULES}
    found |= {name: of_files(PACKAGE / "corpus" / name) for name in PPO_DATA}
    chosen = (
        "ppo_",
        "kl_coef",
        "missing_stop",
        "response_tokens",
        "prompt_tokens",
        "temperature",
        "eval_prompts",
    )
    settings = {k: v for k, v in vars(profile).items() if k.startswith(chosen)}
    found["settings"] = _digest([repr(sorted(settings.items())).encode()])
    for folder in adapters:
        # As they are shipped, in bf16: a run's own are in fp32.
        weights = load_file(folder / "adapter_model.safetensors")
        small = {name: weights[name].to(torch.bfloat16).view(torch.int16) for name in sorted(weights)}
        found[folder.parent.name] = _digest(value.numpy().tobytes() for value in small.values())
    return found
