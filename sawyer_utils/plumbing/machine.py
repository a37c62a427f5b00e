"""What machine this is, said on one screen; its GPUs and processes; and how loud the libraries may be."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

from sawyer_utils.plumbing.files import home, is_main_process, project_root, read_json

if TYPE_CHECKING:
    import torch

    from sawyer_utils.profiles import Profile
    from sawyer_utils.runtime import Precision


def number_format() -> tuple[str, torch.dtype, str]:
    """(device, number format that suits it, why). On a GPU the compute capability decides:
    ``torch.cuda.is_bf16_supported()`` says True on a T4, where bf16 is emulated and slow. On a CPU bf16 pays
    only with native instructions."""
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        emulated = "" if major >= 8 else ", where bf16 is only emulated"
        native = torch.bfloat16 if major >= 8 else torch.float16
        return "cuda", native, f"compute capability {major}.{minor}{emulated}"
    if torch.backends.mps.is_available():
        return "mps", torch.float32, "Apple GPU"
    # Added in torch 2.13; without it we cannot know, and fp32 is right everywhere.
    can = getattr(torch.cpu, "get_capabilities", dict)()
    if can.get("avx512_bf16") or can.get("amx_bf16"):
        return "cpu", torch.bfloat16, "CPU with bf16 instructions"
    return "cpu", torch.float32, "CPU without bf16 instructions"


def see_one_gpu() -> None:
    """Hide all GPUs but the first from this process, unless ``accelerate launch`` has started it and gives
    each process its own."""
    import torch

    gpus = torch.cuda.device_count()  # as long as nothing has used CUDA, this does not either
    if gpus < 2 or "RANK" in os.environ:
        return
    known = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = known.split(",")[0]
    print(f"{gpus} GPUs: this process uses the first. `accelerate launch` uses all, see docs/running.md.")


def join_processes() -> None:
    """Take the place that ``accelerate launch`` has given this process, with its own GPU; one speaks."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    if not is_main_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open as long as the process runs


# --- the first screen ---------------------------------------------------------------------------


def report(profile: Profile, precision: Precision) -> str:
    """One screen: profile, device, precision and why, versions, disk, network, minutes."""
    number = "NF4, " * precision.four_bit + str(precision.compute).removeprefix("torch.")
    policy = "" if profile.policy_base.startswith("embedded:") else f" ({profile.policy_base})"
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft")]
    there = next((folder for folder in (home(), *home().absolute().parents) if folder.exists()), None)
    no_drive = f"SAWYER_HOME is {home()}, on a drive that is not there"
    lines = {
        "profile": profile.name + policy,
        "device": _device(precision.device),
        "precision": f"{number} ({precision.reason}); adapters and heads in float32; "
        f"attention {precision.attention}",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "disk": f"{shutil.disk_usage(there).free / 2**30:.0f} GiB free for runs" if there else no_drive,
        "network": _network(profile),
        "minutes": expected_minutes(profile),
    }
    return _no_gpu(profile, precision.device) + "\n".join(f"{k:10s} {v}" for k, v in lines.items())


def _device(device: str) -> str:
    cores = f"{os.cpu_count()} CPU cores"
    if device != "cuda":
        return f"{device}, {cores}"
    import torch

    card = torch.cuda.get_device_properties(0)
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    return f"{card.name}, {card.total_memory / 2**30:.1f} GiB, compute capability {capability}, {cores}"


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


def expected_minutes(profile: Profile) -> str:
    """What each notebook took when it was measured, and on what."""
    path = project_root() / "results" / f"{profile.name}.json"
    saved = read_json(path) if path.exists() else {}
    if not saved.get("minutes"):
        return "not measured for this profile"
    took = ", ".join(f"{name} {minutes:.0f}" for name, minutes in saved["minutes"].items())
    return f"{took} (measured: {saved['machine']['device']} with {saved['machine']['cpu_cores']} cores)"


def _no_gpu(profile: Profile, device: str) -> str:
    """What nobody should overlook in a Colab session without a GPU."""
    if "google.colab" not in sys.modules or device != "cpu":
        return ""
    if profile.name in ("local", "smoke"):
        what = f"The small profile `{profile.name}` runs on the CPU instead of `colab`."
    else:
        what = f"SAWYER_PROFILE asks for `{profile.name}`: on a CPU that takes days. Unset it to get `local`."
    line = "=" * 88
    remedy = "For a GPU: Runtime > Change runtime type > T4 GPU, then Runtime > Run all."
    return f"{line}\nNO GPU in this session. {what}\n{remedy}\n{line}\n"


def show_anything() -> None:
    """Let what is printed survive where the output is redirected: to a file Windows writes in an encoding
    that lacks arrows."""
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's is in UTF-8, and has it not
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")


def quiet_libraries() -> None:
    """Progress bars and notices of the libraries off, where they would drown the lesson."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|trl|accelerate)\b")
