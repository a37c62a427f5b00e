"""What a user gives as a path: told from a Hub id, found, and the same thing to every process.

A source is a path, a Hub id ("owner/name", for a benchmark with ":subject"), or "embedded…". Needs nothing
but the standard library.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
from pathlib import Path

# Of the variables SAWYER_…: those that name a folder whatever they look like, and those that name nothing.
FOLDERS = {"SAWYER_HOME", "SAWYER_CACHE", "SAWYER_WEIGHTS", "SAWYER_WHOLE_RUN"}
WORDS = {"SAWYER_PROFILE", "SAWYER_PRECISION", "SAWYER_REHEARSAL", "SAWYER_SECOND_DEVICE"}
WORDS |= {"SAWYER_TESTS_ON_GPU", "SAWYER_PROGRESS"}
ENDINGS = "jsonl json csv tsv txt md parquet arrow gz zip gguf safetensors bin pt yaml yml xlsx"
SUFFIXES = tuple(f".{ending}" for ending in ENDINGS.split())

_DRIVE = r"[A-Za-z]:(?=[\\/])"
_HUB_ID = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"  # as the Hub has them
_OTHER = r"(embedded|https?|hf|s3|file)(:|$)"  # neither a path nor an id


class NoSuchPath(FileNotFoundError):
    """What can only be a path leads nowhere; the message says where it was looked for."""


def split_subject(source: str) -> tuple[str, str]:
    """("owner/name", "subject") of a benchmark's "owner/name:subject"; ("…", "") of all else. A drive letter
    is no source with a subject."""
    found = re.fullmatch(r"(.{2,}):([\w -]{2,})", source)
    return (found[1], found[2]) if found and not re.match(_OTHER, source) else (source, "")


def looks_local(source: str) -> bool:
    """Whether ``source`` can only be a path, as no Hub id is written like that: it starts with ".", "/", "~"
    or a drive letter, holds a backslash or more than one slash, ends as files do, or is no name that the Hub
    allows."""
    if re.match(_OTHER, source):
        return False
    bare, _ = split_subject(source)
    return (
        re.match(rf"[.~/\\]|{_DRIVE}", bare) is not None
        or bare.lower().endswith(SUFFIXES)
        or re.fullmatch(_HUB_ID, bare) is None
    )


def existing(source: str, asked_by: str = "") -> Path | None:
    """The file or folder that ``source`` names, "~" expanded; None if it may be a Hub id or is embedded.

    Args:
        asked_by: what named it, such as "SAWYER_CHECKPOINTS", for the message.

    Raises:
        NoSuchPath: if it can only be a path, and nothing is there. The network is not asked.
    """
    path = Path(os.path.expanduser(source))
    if not re.match(_OTHER, source) and is_there(source):
        return path
    if not looks_local(source):
        return None
    said = f"{asked_by}: there" if asked_by else "There"
    where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
    beside = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
    raise NoSuchPath(f"{said} is no file or folder {source}{where}.{hint}")


def separate(value: str) -> list[str]:
    """The sources in a variable that may name several, separated as in ``PATH``. A colon before what is no
    path (of "owner/name:configuration") separates nothing."""
    sign = r":(?!//)(?=[^:]*[./~\\])" if os.pathsep == ":" else os.pathsep
    parts = [value] if is_there(value) else re.split(sign, value)
    return [part for part in parts if part.strip()]


def is_there(source: str) -> bool:
    """Whether a file or folder is called so, "~" expanded."""
    return os.path.exists(os.path.expanduser(source))  # which, unlike Path's, fails for no text


def absolute(name: str, value: str) -> str:
    """What the variable ``name`` says, for a process that runs in another folder: paths are absolute, Hub ids
    and words as they were."""
    if name in WORDS or not value or (name == "SAWYER_HOME" and value.lower() == "drive"):
        return value
    found = []
    for source in separate(value) if name == "SAWYER_HUMAN_PAIRS" else [value]:
        whole = os.path.abspath(os.path.expanduser(source))
        other = re.match(rf"{_OTHER}|{_DRIVE}", source)  # a drive letter means nothing but on Windows
        is_path = name in FOLDERS or (not other and (looks_local(source) or is_there(whole)))
        found.append(whole if is_path else source)
    return os.pathsep.join(found)


def settle() -> None:
    """Make the paths in all variables SAWYER_… absolute, against the folder that this process was started in:
    a notebook's kernel runs in another one. The second time there is nothing to do."""
    for name in [name for name in os.environ if name.startswith("SAWYER_")]:
        os.environ[name] = absolute(name, os.environ[name])


def quoted(path: str | Path) -> str:
    """A path as this system's shell takes it, spaces and all."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))
