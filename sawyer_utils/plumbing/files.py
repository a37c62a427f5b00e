"""Where files are, and writing them whole or not at all. Needs nothing but the standard library."""

from __future__ import annotations

import json
import math
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DRIVE = Path("/content/drive")  # where Colab mounts it
UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(UMASK)


def project_root() -> Path:
    """The repository's folder."""
    return Path(__file__).resolve().parents[2]


class Damaged(ValueError):
    """A file that is no whole JSON; the message names it."""


class MessageAlone:
    """For an exception that a notebook shows without its traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


class DriveNotMounted(RuntimeError):
    """A folder of the Drive's name would be on the session's own disk, and be gone with it."""


def home() -> Path:
    """Where runs go: ``SAWYER_HOME`` (in Colab also "drive"), else ``runs`` in the repository.

    Raises:
        DriveNotMounted: with the two ways on.
    """
    wanted = wanted_home()
    if on_drive(wanted) and not os.path.ismount(DRIVE):
        raise DriveNotMounted(
            f"SAWYER_HOME asks for Google Drive, which is not mounted at {DRIVE} (any more). In Colab run "
            "the setup cell again and allow it; or take SAWYER_HOME out: runs are then kept on this machine."
        )
    return wanted


def wanted_home() -> Path:
    """What :func:`home` gives, whether Google Drive is mounted or not."""
    wanted = os.environ.get("SAWYER_HOME") or str(project_root() / "runs")
    return DRIVE / "MyDrive" / "sawyer" if wanted.lower() == "drive" else Path(os.path.expanduser(wanted))


def on_drive(path: Path) -> bool:
    """Whether a path lies where Colab mounts Google Drive."""
    return Path(os.path.normpath(path)).is_relative_to(DRIVE)


def is_main_process() -> bool:
    """True but in the second and later processes of ``accelerate launch``."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def replacing(path: Path):
    """Yield a temporary name beside ``path`` (file or folder); rename it over on success.

    A killed process therefore leaves the last good state, never half a file. Of several processes
    only the main one writes: what another put under the temporary name is dropped.

    Raises:
        IsADirectoryError: for a file that would take a folder's place; the folder stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        if not is_main_process():
            return
        as_others_are(temporary)
        if not path.is_dir():
            os.replace(temporary, path)
            return
        if not temporary.is_dir():
            raise IsADirectoryError(f"{path} is a folder, and a file is to be written.")
        # A folder cannot be renamed over a full one: move the old one aside first.
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        _remove(old)
        os.replace(path, old)
        try:
            os.replace(temporary, path)
        except BaseException:
            os.replace(old, path)
            raise
        _remove(old)
    finally:
        _remove(temporary)


def as_others_are(path: Path) -> None:
    """Give a file, or all files in a folder, the mode of any new file: safetensors writes them for their
    owner alone, and a cache, a run or a copy for a class is for others, too."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        with suppress(OSError):  # some network drives know no modes
            if file.is_file():
                file.chmod(0o666 & ~UMASK)


def recover(path: Path) -> None:
    """Clean up after a process that was killed inside :func:`replacing`.

    Between its two renames a folder exists only under its old name: put that back. For one
    writer at a time: another one's unfinished files would be taken for leftovers.
    """
    path = Path(path)
    for old in path.parent.glob(f".{path.name}.*.old"):
        if path.exists():
            _remove(old)
        else:
            os.replace(old, path)
    for unfinished in path.parent.glob(f".{path.name}.*.tmp"):
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def finite(value: Any, name: str = "") -> tuple[Any, list[str]]:
    """``value`` without what is NaN or infinite in it, at any depth, and the names of what was left out,
    such as ``runs.0.kl``: JSON has no such numbers. In a list ``None`` keeps the place of one."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, [name]
    if not isinstance(value, (dict, list, tuple)):
        return value, []
    items = value if isinstance(value, dict) else dict(enumerate(value))
    parts = {key: finite(part, f"{name}.{key}".lstrip(".")) for key, part in items.items()}
    left_out = [one for _, names in parts.values() for one in names]
    if isinstance(value, dict):
        return {k: part for k, (part, _) in parts.items() if part is not None or value[k] is None}, left_out
    return [part for part, _ in parts.values()], left_out


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, for they are never results."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        Damaged: naming the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{path} is damaged ({error}). Delete it and run the stage again.") from error
