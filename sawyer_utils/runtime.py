"""Device, precision, seeds, run folders and safe writing: what every notebook needs first."""

from __future__ import annotations

import os
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer_utils.plumbing.files import (
    home,
    is_main_process,
    on_drive,
    project_root,
    read_json,
    write_json,
)

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
    """Pick device and number format for this machine.

    On a GPU the compute capability decides: ``torch.cuda.is_bf16_supported()`` says True on a
    T4, where bf16 is emulated and slow. On a CPU bf16 pays only with native instructions.

    Raises:
        ValueError: for an unknown ``wanted``.
    """
    import torch

    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if wanted not in {"auto", "nf4", *formats}:
        raise ValueError(f"Unknown precision {wanted!r}: auto, fp32, bf16, fp16 or nf4.")
    device, native, why = _machine()
    if wanted in formats:
        native, why = formats[wanted], f"asked for {wanted}"
    return Precision(device, native, native, wanted == "nf4", why)


def _machine() -> tuple[str, torch.dtype, str]:
    """(device, number format that suits it, why)."""
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        emulated = "" if major >= 8 else ", where bf16 is only emulated"
        native = torch.bfloat16 if major >= 8 else torch.float16
        return "cuda", native, f"compute capability {major}.{minor}{emulated}"
    if torch.backends.mps.is_available():
        return "mps", torch.float32, "Apple GPU"
    if _cpu_has_bf16():
        return "cpu", torch.bfloat16, "CPU with bf16 instructions"
    return "cpu", torch.float32, "CPU without bf16 instructions"


def _cpu_has_bf16() -> bool:
    import torch

    # Added in torch 2.13; without it we cannot know, and fp32 is right everywhere.
    ask = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def seed_everything(seed: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _see_one_gpu() -> None:
    """Hide all GPUs but the first from this process, unless ``accelerate launch`` has started it and gives
    each process its own."""
    import torch

    gpus = torch.cuda.device_count()  # as long as nothing has used CUDA, this does not either
    if gpus < 2 or "RANK" in os.environ:
        return
    known = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = known.split(",")[0]
    print(f"{gpus} GPUs: this process uses the first. For all of them: `accelerate launch`, see the README.")


def _join_processes() -> None:
    """Take the place that ``accelerate launch`` has given this process, with its own GPU; one speaks."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    if not is_main_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open as long as the process runs


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
        if Path(elsewhere).expanduser().is_dir():
            yield "the folder in SAWYER_CHECKPOINTS", Path(elsewhere).expanduser() / stage
        else:
            from sawyer_utils.plumbing import hub

            yield f"{elsewhere} on the Hub", hub.fetch_stage(elsewhere, stage)
    if profile.policy_base.startswith("embedded:"):
        yield "the checkpoint that comes with the course", project_root() / "checkpoints" / "local" / stage


def record(profile: Profile, stage: str, **numbers: Any) -> None:
    """Merge ``numbers`` into the stage's ``metrics.json``, which the summary is made from."""
    path = run_dir(profile, stage) / "metrics.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), **numbers})


# --- measuring ----------------------------------------------------------------------------------


class Peak(float):
    """GiB at the peak, and of what: a GPU's memory is not the process's, and numbers of the two are kept
    apart wherever they are recorded.

    Attributes:
        of: "GPU memory" or "process memory".
    """

    def __new__(cls, gib: float, of: str) -> Peak:
        found = super().__new__(cls, gib)
        found.of = of
        return found

    @property
    def key(self) -> str:
        """The name it is recorded under."""
        return {"GPU memory": "peak_memory_gpu_gib", "process memory": "peak_memory_gib"}[self.of]

    @property
    def entry(self) -> dict[str, float]:
        """As part of a log line or of ``metrics.json``."""
        return {self.key: float(self)}


_before_reset = 0.0  # GiB: the card's peak up to the last reset_card_peak


def card():
    """torch's module of the GPU that is used here (``torch.cuda``), if it counts its memory; else None."""
    import torch

    device = choose_precision().device
    module = None if device == "cpu" else torch.get_device_module(device)
    return module if hasattr(module, "max_memory_allocated") else None  # Apple's does not


def peak_memory_gib() -> Peak:
    """Peak memory in GiB since the process began: on a GPU what torch allocated there, as the card's own
    counter has it; elsewhere what of this process is resident."""
    if gpu := card():
        return Peak(max(_before_reset, gpu.max_memory_allocated() / 1024**3), "GPU memory")
    if sys.platform == "win32":  # has no module "resource"
        import psutil  # accelerate brings it

        return Peak(psutil.Process().memory_info().peak_wset / 1024**3, "process memory")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Peak(peak / (1024**3 if sys.platform == "darwin" else 1024**2), "process memory")


def reset_card_peak() -> None:
    """Let the card's own counter begin anew, for one stage; :func:`peak_memory_gib` keeps what it had."""
    global _before_reset
    if gpu := card():
        _before_reset = float(peak_memory_gib())
        gpu.reset_peak_memory_stats()


def forget_peak_memory() -> bool:
    """Let :func:`peak_memory_gib` count from now on, on a GPU and on Linux; False elsewhere."""
    global _before_reset
    if card():
        reset_card_peak()
        _before_reset = 0.0
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    # A large part of an earlier peak is still there: what was freed, the allocator may have kept.
    return True


def record_peak(profile: Profile, stage: str) -> Peak:
    """Keep the largest peak of this process and of earlier ones on the same run folder (a run that
    only loads what is trained needs less), and return it in GiB. A GPU's is kept apart from a process's."""
    path = run_dir(profile, stage) / "metrics.json"
    now = peak_memory_gib()
    earlier = read_json(path).get(now.key, 0.0) if path.exists() else 0.0
    peak = Peak(max(earlier, now), now.of)
    record(profile, stage, **peak.entry)
    return peak


def environment_report(profile: Profile) -> str:
    """One screen: profile, device, precision and why, versions, disk, network, minutes."""
    precision = choose_precision(profile.precision)
    number = "NF4, " * precision.four_bit + str(precision.compute).removeprefix("torch.")
    policy = "" if profile.policy_base.startswith("embedded:") else f" ({profile.policy_base})"
    lines = {
        "profile": profile.name + policy,
        "device": _device(precision.device),
        "precision": f"{number} ({precision.reason}); adapters and heads in float32; "
        f"attention {precision.attention}",
        "versions": _versions(),
        "disk": f"{_free_gib(home()):.0f} GiB free for runs",
        "network": _network(profile),
        "minutes": expected_minutes(profile, precision.device),
    }
    return _no_gpu(profile, precision.device) + "\n".join(f"{k:10s} {v}" for k, v in lines.items())


def _device(device: str) -> str:
    cores = f"{os.cpu_count()} CPU cores"
    if device != "cuda":
        return f"{device}, {cores}"
    import torch

    card = torch.cuda.get_device_properties(0)
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    memory = f"{card.total_memory / 1024**3:.1f} GiB"
    return f"{card.name}, {memory}, compute capability {capability}, {cores}"


def _versions() -> str:
    from importlib.metadata import version

    names = ("torch", "transformers", "trl", "peft")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def _free_gib(path: Path) -> float:
    import shutil

    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 1024**3


def _network(profile: Profile) -> str:
    from sawyer_utils.plumbing import hub

    if hub.offline():
        return "offline (HF_HUB_OFFLINE is set)"
    if not (profile.hub_models or profile.hub_data):
        return "not needed: models and data are embedded"
    try:
        hub.ask()
    except hub.HubUnavailable as trouble:
        return f"OFFLINE, only what is cached can be loaded. {trouble}"
    return f"{hub.constants.ENDPOINT} answers"


def expected_minutes(profile: Profile, device: str) -> str:
    """What each notebook took when it was measured, and on what; nothing is guessed for other devices."""
    path = project_root() / "results" / f"{profile.name}.json"
    saved = read_json(path) if path.exists() else {}
    if not saved.get("minutes"):
        return "not measured for this profile"
    sections = saved.get("section_minutes", {})
    took = ", ".join(
        f"{name} {minutes:.0f}{_long_sections(sections.get(name, {}))}"
        for name, minutes in saved["minutes"].items()
    )
    measured = saved["machine"]
    on = f"{measured['device']} with {measured['cpu_cores']} cores"
    return (
        f"{took} (measured: {on})"
        if device == measured["device"] == "cpu"
        else (f"not measured on this device; {took} on {on}")
    )


def _long_sections(took: dict[str, float]) -> str:
    """ " (section 4: 2.1, section 7: 1.3)", those of a minute and more."""
    numbered = {re.match(r"(\d+)\.", heading): minutes for heading, minutes in took.items()}
    long = [
        f"section {found[1]}: {minutes:.1f}" for found, minutes in numbered.items() if found and minutes >= 1
    ]
    return f" ({', '.join(long)})" if long else ""


def _no_gpu(profile: Profile, device: str) -> str:
    """What nobody should overlook in a Colab session without a GPU."""
    if "google.colab" not in sys.modules or device != "cpu":
        return ""
    if profile.name in ("local", "smoke"):
        what = f"The small profile `{profile.name}` runs on the CPU instead of `colab`."
    else:
        what = f"SAWYER_PROFILE asks for `{profile.name}`: on a CPU that takes days. Unset it to get `local`."
    return "\n".join(
        [
            "=" * 88,
            f"NO GPU in this session. {what}",
            "For a GPU: Runtime > Change runtime type > T4 GPU, then Runtime > Run all.",
            "=" * 88,
            "",
        ]
    )


def quiet_libraries() -> None:
    """Progress bars and notices of the libraries off, where they would drown the lesson."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|trl|accelerate)\b")


def setup(seed: int = 0) -> Profile:
    """What each notebook starts with: quiet libraries, the course's figure style, a seed, and one
    screen about the machine; of several processes each takes its place, and each sees one GPU. Returns the
    profile."""
    from sawyer_utils import plots
    from sawyer_utils.profiles import current_profile

    _see_one_gpu()  # first of all: what asks for a GPU fixes which ones there are
    quiet_libraries()
    # On a CPU each new shape leaves compiled kernels behind: by default a thousand, over a gigabyte.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if "RANK" in os.environ:
        _join_processes()
    plots.use_style()
    seed_everything(seed)
    profile = current_profile()
    print(environment_report(profile))
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
