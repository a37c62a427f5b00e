"""Make a Google Colab session ready for the course, with nothing but the standard library.

The setup cell imports this before anything is installed. Not run on Colab itself: it detects and
says rather than assumes, and the tests play Colab with the package set in ``constraints/colab.txt``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sawyer_utils.plumbing import files
from sawyer_utils.plumbing.files import MessageAlone, on_drive, wanted_home

ROOT = files.project_root()
# Of requirements.txt, what only the repository's own commands need.
TOOLS = {"jupyterlab", "jupytext", "nbclient", "nbconvert", "nbval", "pytest", "pytest-xdist", "ruff"}
TOOLS |= {"ipykernel", "tensorboardx"}
# What TRL's newer datasets drags along; everything else that Colab ships stays as it is.
MAY_MOVE = {"datasets", "pyarrow", "huggingface-hub", "fsspec", "dill", "multiprocess"}
MUST_STAY = {"torch", "numpy", "transformers"}
OLDEST_TORCHAO = "0.16"  # peft raises on an older one, though nothing here uses it; Colab ships 0.10


class SetupStopped(MessageAlone, RuntimeError):
    """The session is not ready."""


class RestartNeeded(SetupStopped):
    """Modules in memory are older than what is installed now."""


def prepare(root: Path = ROOT) -> None:
    """Install what Colab lacks and leave the rest alone; the second time there is nothing to do.

    Raises:
        SetupStopped: with pip's last words.
        RestartNeeded: with the one thing to do; nothing has to be installed after that.
    """
    keep_on_drive()
    if (torchao := installed("torchao")) and older(torchao, OLDEST_TORCHAO):
        _, said = _pip("uninstall", "--yes", "torchao")
        if installed("torchao"):
            raise SetupStopped(f"pip could not remove torchao: {_last_error(said)}")
        print(f"Removed torchao {torchao}: peft refuses it, and the course does not use it.")
    wanted = requirements(root / "requirements.txt")
    lacking = {name: bounds for name, bounds in wanted.items() if not meets(installed(name), bounds)}
    for name in MUST_STAY & lacking.keys():
        if version := installed(name):
            print(f"{name} {version} is outside {wanted[name]}, with which the course was tried; it stays.")
            del lacking[name]
    if lacking:
        _install(lacking, tested(root / "constraints" / "colab.txt"))
    if stale := outdated_modules([*wanted, *MAY_MOVE, "torchao"]):
        raise RestartNeeded(
            f"RESTART NEEDED, once: this session still holds {', '.join(stale)}.\n"
            "Choose Runtime > Restart session, then Runtime > Run all. Nothing is installed again."
        )


def keep_on_drive() -> None:
    """Mount Google Drive, if ``SAWYER_HOME`` asks for it ("drive", or a folder on it); else do nothing.

    Raises:
        SetupStopped: if it was refused or timed out, with the two ways on.
    """
    if not on_drive(wanted_home()) or os.path.ismount(files.DRIVE):
        return
    try:
        from google.colab import drive

        drive.mount(str(files.DRIVE))
    except Exception as error:  # its classes differ from one Colab to the next
        raise SetupStopped(
            f"Google Drive was not mounted ({type(error).__name__}: {error}).\n"
            "Run this cell again and allow it, or take the line with SAWYER_HOME out: runs are then kept in "
            "this session only, and are gone when it ends."
        ) from None


# --- what is there ------------------------------------------------------------------------------


def installed(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str):
    """The numbers of a version, to be compared; what follows them ("rc1", "+cu128") is ignored."""
    from packaging.version import Version  # which Colab ships

    numbers = re.match(r"\d+(\.\d+)*", version)
    return Version(numbers[0] if numbers else "0")


def older(version: str, bound: str) -> bool:
    """Whether ``version`` comes before ``bound``."""
    return _release(version) < _release(bound)


def requirements(path: Path) -> dict[str, str]:
    """``{name: bounds}`` of a requirements file, without the tools that no notebook imports."""
    lines = (re.split(r"[#;]", line)[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    parts = (re.fullmatch(r"([\w.-]+)(.*)", line) for line in lines if line)
    return {name: bounds for name, bounds in (p.groups() for p in parts) if name not in TOOLS}


def meets(version: str | None, bounds: str) -> bool:
    """Whether a version is within bounds such as ">=2.11,<3"."""
    from packaging.specifiers import SpecifierSet

    return version is not None and SpecifierSet(bounds).contains(_release(version))


def outdated_modules(names: Iterable[str]) -> list[str]:
    """Modules in memory whose version is not the one installed now: "pyarrow 18.1.0 (now 26.0.1)"."""
    found = []
    for name in sorted(set(names)):
        module = sys.modules.get(name.replace("-", "_"))
        loaded, now = getattr(module, "__version__", None), installed(name)
        if loaded and (now is None or _release(str(loaded)) != _release(now)):
            found.append(f"{name} {loaded} ({f'now {now}' if now else 'removed'})")
    return found


# --- pip ----------------------------------------------------------------------------------------


def tested(path: Path) -> dict[str, str]:
    """``{name: version}`` of a constraints file."""
    from packaging.utils import canonicalize_name  # which Colab ships

    pins = re.findall(r"^([\w.-]+)==([\w.+-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def constraints(lacking: Iterable[str], tried: dict[str, str]) -> list[str]:
    """Pins for pip: what is installed now stays, what is added or may move takes the tried version."""
    from packaging.utils import canonicalize_name

    free = {canonicalize_name(name) for name in lacking} | MAY_MOVE
    now = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions() if d.name}
    pins = {name: version for name, version in tried.items() if name in free}
    pins |= {name: version for name, version in now.items() if name not in free}
    # Versions from outside PyPI ("0.1.43ubuntu1", "1.16.0-unknown") would stop pip at that line.
    plain = re.compile(r"[\d.]+((a|b|rc|\.?post|\.?dev)\d+)*(\+[\w.]+)?")
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if plain.fullmatch(version)]


def _install(lacking: dict[str, str], tried: dict[str, str]) -> None:
    print(f"Installing {', '.join(lacking)}: a minute or two, once a session …", flush=True)
    strict = constraints(lacking, tried)
    loose = [pin for pin in strict if pin.split("==")[0] in MUST_STAY]
    wanted = [name + bounds for name, bounds in lacking.items()]
    # Everything stays, in the versions that were tried; if a newer Colab does not allow that, at
    # least what a replacement would break.
    for pins in (strict, loose):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "constraints.txt"
            path.write_text("\n".join(pins) + "\n", encoding="utf-8")
            failed, said = _pip("install", "--quiet", "--constraint", str(path), *wanted)
        if not failed:
            break
    else:
        raise SetupStopped(
            f"pip could not install {' '.join(wanted)}:\n    {_last_error(said)}\n"
            "Check that this session has internet, then Runtime > Disconnect and delete runtime, and "
            "Run all. If it stays, Colab has changed: please report these lines at the repository."
        )
    if upset := sorted(set(re.findall(r"^(\S+) \S+ requires ", said, re.MULTILINE))):
        print(f"pip notes that {', '.join(upset)} wanted other versions: harmless, they are not used here.")


def _pip(*arguments: str) -> tuple[int, str]:
    """(0 if all went well, what pip said)."""
    command = [sys.executable, "-m", "pip", arguments[0], "--disable-pip-version-check", "--no-input"]
    done = subprocess.run([*command, *arguments[1:]], capture_output=True, text=True)
    importlib.invalidate_caches()
    return done.returncode, f"{done.stdout}\n{done.stderr}".strip()


def _last_error(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("ERROR")]
    return (errors or said.splitlines() or ["pip said nothing"])[-1]
