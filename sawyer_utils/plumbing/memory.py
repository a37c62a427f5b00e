"""How much memory is in use, on a GPU or in the process, and what to change when a GPU's was not enough."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sawyer_utils.plumbing import machine
from sawyer_utils.plumbing.files import MessageAlone

GIB = 2**30


class Peak(float):
    """GiB at the peak. A GPU's memory is not the process's: numbers of the two have names of their own.

    Attributes:
        key: the name it is recorded under, "peak_memory_gpu_gib" or "peak_memory_gib".
    """

    def __new__(cls, gib: float, key: str) -> Peak:
        found = super().__new__(cls, gib)
        found.key = key
        return found

    @property
    def entry(self) -> dict[str, float]:
        """As part of a log line or of ``metrics.json``."""
        return {self.key: float(self)}


_before_reset = 0.0  # GiB: the card's peak up to the last reset_card_peak


def card():
    """torch's module of the GPU that is used here (``torch.cuda``), if it counts its memory; else None."""
    import torch

    device = machine.number_format()[0]
    module = None if device == "cpu" else torch.get_device_module(device)
    return module if hasattr(module, "max_memory_allocated") else None  # Apple's does not


def peak_memory_gib() -> Peak:
    """Peak memory in GiB since the process began: on a GPU what torch allocated there, as the card's own
    counter has it; elsewhere what of this process is resident."""
    if gpu := card():
        return Peak(max(_before_reset, gpu.max_memory_allocated() / GIB), "peak_memory_gpu_gib")
    if sys.platform == "win32":  # has no module "resource"
        import psutil  # accelerate brings it

        return Peak(psutil.Process().memory_info().peak_wset / GIB, "peak_memory_gib")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Peak(peak / (GIB if sys.platform == "darwin" else 2**20), "peak_memory_gib")


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


def give_back() -> None:
    """Let the C library return what this process has freed. glibc keeps blocks below 32 MB for later, also
    between others that are in use: 1.3 GiB after notebook 01's training."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


# --- when it did not fit ------------------------------------------------------------------------


class OutOfMemory(MessageAlone, RuntimeError):
    """A training did not fit the GPU."""


@contextmanager
def explained(model, halves: dict[str, tuple[int, float]]) -> Iterator[None]:
    """Turn torch's "out of memory" inside the block into what to change, with this card's numbers.

    Args:
        model: what is trained; its weights, gradients and Adam's moments are what stays.
        halves: setting -> (value, share of all that comes and goes which halving it would halve).

    Raises:
        OutOfMemory: with the three changes that save most.
    """
    import torch

    reset_card_peak()  # an earlier stage may have needed more
    try:
        yield
    except torch.OutOfMemoryError as error:
        gpu = card()
        if gpu is None:
            raise
        size = gpu.get_device_properties(gpu.current_device()).total_memory
        said = _out_of_memory(model, halves, str(error), gpu.max_memory_allocated(), size)
        gpu.empty_cache()
        raise OutOfMemory(said) from None


def _out_of_memory(model, halves: dict[str, tuple[int, float]], error: str, used: int, size: int) -> str:
    """The message, from the bytes at the peak of the stage that failed and those of the card."""
    sizes = {False: 0, True: 0}
    for p in model.parameters():
        sizes[p.requires_grad] += p.numel() * p.element_size()
    frozen, trained = sizes.values()
    passing = max(0, used - frozen - 4 * trained)  # weight, gradient and two moments of what is trained
    saved = {f"{name} {v} → {v // 2}": share * passing / 2 for name, (v, share) in halves.items() if v > 1}
    saved["lora_rank, half of it"] = 2 * trained
    if not getattr(model, "is_loaded_in_4bit", False):
        saved["precision nf4"] = frozen * 0.7  # of 16 bits a weight, 4 and its scales are left
    best = sorted(saved.items(), key=lambda change: -change[1])[:3]
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", error)
    return "\n".join(
        [
            f"Out of GPU memory: {used / GIB:.1f} of {size / GIB:.1f} GiB were in use, "
            f"{(frozen + 4 * trained) / GIB:.1f} of it by weights and optimizer"
            + (f", and {asked[1]} more were asked for." if asked else "."),
            "What helps most here:",
            *(f"{n}. {name}: about {b / GIB:.2f} GiB less" for n, (name, b) in enumerate(best, 1)),
            "Sizes are the profile's: profile = dataclasses.replace(profile, ...) below the setup cell;",
            'precision is os.environ["SAWYER_PRECISION"] above it. Restart the session, run all.',
        ]
    )
