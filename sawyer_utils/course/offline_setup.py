"""Set up SAWYER from this folder alone, without a network: ``python3 setup.py --to FOLDER``.

``python -m sawyer_utils prepare`` copies this file into the folder it makes. It needs nothing but
Python's standard library, and any Python from 3.7 on can read it and say why it will not do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SUMS, FACTS = "SHA256SUMS", "folder.json"
CONSTRAINTS = "course/constraints/tested.txt"


class Refused(Exception):
    """What is wrong, and what to do about it."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def listed(sums: Path) -> dict[str, str]:
    """{name in the folder: checksum} of a list of checksums; of none, nothing."""
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def this_machine() -> dict[str, str]:
    """What a wheel depends on: Python's version, the system, the processor."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {"python": version, "system": platform.system(), "machine": platform.machine()}


def check(folder: Path) -> dict:
    """What folder.json says, once the folder is known to be finished, whole, and for this machine.

    Raises:
        Refused: if it is not.
    """
    sums = listed(folder / SUMS)
    if FACTS not in sums:
        raise Refused(f"{folder} is not finished: run `python -m sawyer_utils prepare` on it again.")
    print(f"checking the files in {folder} ...", flush=True)
    files = {name: folder / name for name in sums}
    bad = [name for name, path in files.items() if not path.is_file() or sha256_of(path) != sums[name]]
    if bad:
        raise Refused(
            f"{len(bad)} of the folder's files missing or damaged: {', '.join(bad[:20])}\n"
            "Copy the folder again, or run `python -m sawyer_utils prepare` on it again."
        )
    facts, machine = json.loads((folder / FACTS).read_text(encoding="utf-8")), this_machine()
    if any(facts[key] != machine[key] for key in machine):
        made, found = ("Python {python}, {system} on {machine}".format(**each) for each in (facts, machine))
        raise Refused(
            f"This folder was prepared for {made}, and this is {found}. Start setup.py with that Python, or "
            "prepare another folder with this one, on a machine like this (the course needs 3.11 or newer)."
        )
    return facts


def copy_course(folder: Path, target: Path) -> None:
    """Copy the course over an earlier version of it, but for what is a learner's own: runs, and notebooks
    that are not as an earlier setup has left them."""
    now, earlier = listed(folder / SUMS), listed(target / ".venv" / SUMS)
    for name in sorted(name for name in now if name.startswith("course/")):
        place = target / name.partition("/")[2]
        if place.exists():
            there = sha256_of(place)
            if there == now[name] or name.startswith("course/runs/"):
                continue
            if name.startswith("course/notebooks/") and there != earlier.get(name):
                print(f"{place} has been changed, and is kept")
                continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        shutil.copyfile(folder / name, part)
        os.replace(part, place)  # a cut-off copy is not taken for the learner's own file


def environment_python(target: Path) -> Path:
    """The interpreter of the course's own environment."""
    windows = os.name == "nt"
    return target / ".venv" / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")


def run(what: str, command: list[str], **environment: str) -> None:
    """Run one step, which shows its own errors.

    Raises:
        Refused: if it fails.
    """
    print(f"{what} ...", flush=True)
    if subprocess.run(command, env={**os.environ, **environment}).returncode:
        raise Refused(f"{what} failed; the reason is above. Put it right and start setup.py again.")


def install(folder: Path, target: Path) -> None:
    """``.venv`` with the tested packages and the course in it; the weights in the cache folder."""
    # -I and --isolated: pip's own settings could name another index, PYTHONPATH other packages.
    python = [str(environment_python(target)), "-I", "-m"]
    ready = target / ".venv" / "ready"  # the Makefile's mark: it would call for the network without
    now, earlier = (listed(place / SUMS).get(CONSTRAINTS) for place in (folder, target / ".venv"))
    if not ready.exists() or now != earlier:
        run("making .venv", [sys.executable, "-I", "-m", "venv", str(target / ".venv")])
        only = ["--no-index", "--find-links", str(folder / "wheels")]
        only += ["-c", str(folder / CONSTRAINTS)]
        pip = [*python, "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet", *only]
        run("installing the packages", [*pip, "--editable", str(target)], PIP_CONFIG_FILE=os.devnull)
    ready.touch()  # newer than the files that have just been copied
    run("unpacking the weights", [*python, "sawyer_utils", "fetch"], SAWYER_WEIGHTS=str(folder / "weights"))


def set_up(folder: Path, target: Path) -> None:
    """All steps, each of which may be repeated; then what to type.

    Raises:
        Refused: with the one thing to do.
    """
    facts = check(folder)
    copy_course(folder, target)
    install(folder, target)
    shutil.copyfile(folder / SUMS, target / ".venv" / SUMS)  # what the next setup compares with
    as_typed = subprocess.list2cmdline if os.name == "nt" else shlex.join
    print(f"\nReady. Now:\n    {as_typed(['cd', str(target)])}")
    if facts["profile"] != "local":  # whose run the class has
        print(f"    {'set' if os.name == 'nt' else 'export'} SAWYER_PROFILE={facts['profile']}")
    python = environment_python(target).relative_to(target)
    print(f"    {python} -m sawyer_utils lab       JupyterLab on the notebooks")
    if not facts["class"]:  # which has the students' notebooks, and not the sources
        print(f"    {python} -m sawyer_utils course    runs them one after another")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Set up SAWYER from this folder, without a network.")
    parser.add_argument("--to", type=Path, default=Path.home() / "sawyer", help="where the course goes")
    target = parser.parse_args().to.expanduser().resolve()
    try:
        set_up(Path(__file__).resolve().parent, target)
    except (Refused, OSError) as problem:
        sys.exit(f"\n{problem}")


if __name__ == "__main__":
    main()
