"""Device, precision, seeds, run folders and safe writing: what every notebook needs first."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer_utils.plumbing import machine, paths
from sawyer_utils.plumbing.files import finite, home, on_drive, project_root, read_json, write_json
from sawyer_utils.plumbing.memory import Peak, peak_memory_gib

if TYPE_CHECKING:
    import torch

    from sawyer_utils.profiles import Profile


class StageMissing(RuntimeError):
    """A notebook needs an earlier one's result, and neither a run nor a checkpoint has it."""


@dataclass(frozen=True)
class Precision:
    """What the arithmetic is done in, and why."""

    device: str  # cuda | mps | cpu
    weights: torch.dtype  # frozen base weights
    compute: torch.dtype  # autocast; adapters and heads always stay fp32
    four_bit: bool
    reason: str

    @property
    def autocast(self) -> bool:
        import torch

        return self.compute != torch.float32

    @property
    def attention(self) -> str:
        """On a CPU the plain products are three times faster than SDPA's kernel at a notebook's
        lengths; on a GPU SDPA needs nothing installed and runs on a T4, where FlashAttention 2 does not."""
        return "eager" if self.device == "cpu" else "sdpa"


def choose_precision(wanted: str = "auto") -> Precision:
    """Pick device and number format for this machine (:func:`machine.number_format` has the rule).

    Raises:
        ValueError: for an unknown ``wanted``.
    """
    import torch

    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if wanted not in {"auto", "nf4", *formats}:
        raise ValueError(f"Unknown precision {wanted!r}: auto, fp32, bf16, fp16 or nf4.")
    device, native, why = machine.number_format()
    if wanted in formats:
        native, why = formats[wanted], f"asked for {wanted}"
    return Precision(device, native, native, wanted == "nf4", why)


def seed_everything(seed: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# --- folders and files --------------------------------------------------------------------------


def run_dir(profile: Profile, stage: str) -> Path:
    """``<home>/<profile>/<stage>``, made if need be.

    Raises:
        PermissionError: if the folder cannot be written, naming SAWYER_HOME as the remedy.
    """
    path = home() / profile.name / stage
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise PermissionError(
            f"Cannot write to the run folder {path} ({error.strerror}). Set SAWYER_HOME to a folder you own."
        ) from error


def find_stage(profile: Profile, stage: str, needed: str) -> Path:
    """The folder that holds ``needed`` of an earlier stage; says in one line which it took.

    Looked for in this order: this run's own (on this machine or on Google Drive), what
    ``SAWYER_CHECKPOINTS`` names (a folder or a Hub id with ``sft/adapter``, ``reward/model``, …), and for
    the embedded base the one that comes with the course.

    Raises:
        StageMissing: naming the notebook to run first.
        NoSuchPath: if ``SAWYER_CHECKPOINTS`` can only be a path, and nothing is there.
        HubUnavailable: if the Hub id cannot be had, with the remedy.
    """
    notebooks = {"sft": "01_sft", "reward": "02_reward", "ppo": "03_ppo", "gold": "04_eval"}
    for where, folder in _sources(profile, stage):
        if (folder / needed).exists():
            print(f"{stage:7s}from {where}")
            return folder
    raise StageMissing(
        f"{needed} of the {stage} stage is neither in {home() / profile.name / stage} nor shipped for the "
        f"{profile.name} profile. Run notebooks/{notebooks[stage]}.ipynb first, or set SAWYER_CHECKPOINTS to "
        "a folder or a Hub id that has it."
    )


def _sources(profile: Profile, stage: str) -> Iterator[tuple[str, Path]]:
    """(what it is, folder), one after the other: the Hub is only asked if nothing before it will do."""
    own = home() / profile.name / stage
    yield ("your run on Google Drive" if on_drive(own) else f"your {profile.name} run"), own
    if elsewhere := os.environ.get("SAWYER_CHECKPOINTS"):
        if folder := paths.existing(elsewhere, "SAWYER_CHECKPOINTS"):
            yield "the folder in SAWYER_CHECKPOINTS", folder / stage
        else:
            from sawyer_utils.plumbing import hub

            yield f"{elsewhere} on the Hub", hub.fetch_stage(elsewhere, stage)
    from sawyer_utils.profiles import PROFILES

    base = "reward_base" if stage in ("reward", "gold") else "policy_base"  # a judge has its own
    if getattr(profile, base) == getattr(PROFILES["local"], base):
        yield "the checkpoint that comes with the course", project_root() / "checkpoints" / "local" / stage


def record(profile: Profile, stage: str, **numbers: Any) -> None:
    """Merge ``numbers`` into the stage's ``metrics.json``, which the summary is made from. A number that is
    NaN or infinite is left out, and that is said: an earlier run's number does not stand in its place."""
    path = run_dir(profile, stage) / "metrics.json"
    kept, left_out = finite(numbers)
    earlier = read_json(path) if path.exists() else {}
    lost = numbers.keys() - kept.keys()
    write_json(path, {key: value for key, value in {**earlier, **kept}.items() if key not in lost})
    if left_out:
        print(f"{stage}: not recorded, for it is not finite: {', '.join(left_out)}")


def record_peak(profile: Profile, stage: str) -> Peak:
    """Keep the largest peak of this process and of earlier ones on the same run folder (a run that
    only loads what is trained needs less), and return it in GiB. A GPU's is kept apart from a process's."""
    path = run_dir(profile, stage) / "metrics.json"
    now = peak_memory_gib()
    earlier = read_json(path).get(now.key, 0.0) if path.exists() else 0.0
    peak = Peak(max(earlier, now), now.key)
    record(profile, stage, **peak.entry)
    return peak


def setup(seed: int = 0) -> Profile:
    """What each notebook starts with: quiet libraries, the course's figure style, a seed, and one
    screen about the machine; of several processes each takes its place, and each sees one GPU. Returns the
    profile."""
    from sawyer_utils import plots
    from sawyer_utils.profiles import current_profile

    machine.show_anything()  # as a script it may write to a file
    machine.see_one_gpu()  # early: what asks for a GPU fixes which ones there are
    machine.quiet_libraries()
    # On a CPU each new shape leaves compiled kernels behind: by default a thousand, over a gigabyte.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if "RANK" in os.environ:
        machine.join_processes()
    plots.use_style()
    seed_everything(seed)
    profile = current_profile()
    for name, source in (("SAWYER_MODEL", profile.policy_base), ("SAWYER_REWARD_BASE", profile.reward_base)):
        paths.existing(source, name)
    print(machine.report(profile, choose_precision(profile.precision)))
    if profile.hub_models or profile.hub_data:
        from sawyer_utils.plumbing import hub

        print(f"Hub token  {hub.token_state()}")
        hub.check_access(profile.hub_models)  # before anything downloads
    return profile


def seconds(device: str | torch.device) -> float:
    """The clock, once ``device`` has done all it was given: a call returns while a GPU still works on it."""
    import torch

    torch.get_device_module(device).synchronize()
    return time.perf_counter()


@contextmanager
def stopwatch(into: dict, name: str):
    """Store the seconds that the block takes in ``into[name]``."""
    device = choose_precision().device
    start = seconds(device)
    yield
    into[name] = seconds(device) - start
