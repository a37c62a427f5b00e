"""Set up SAWYER from this folder alone, without a network: ``python3 setup.py --to FOLDER``.

``python -m sawyer_utils prepare`` copies this file into the folder it makes. It needs nothing but
Python's standard library, and is written so that any Python 3.7 or newer can at least say why it
will not do.

It checks every file against SHA256SUMS, copies the course, makes ``.venv`` beside it, installs the
wheels and unpacks the weights. A second run goes on where the first one was cut off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

SUMS, FACTS = "SHA256SUMS", "folder.json"
SPARE = 1_500_000_000  # bytes for the unpacked weights (0.35 GB) and the runs of a class


class Refused(Exception):
    """What is wrong, and what to do about it."""


# --- files and their checksums ------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """SHA256SUMS as relative path -> digest, in the format of ``sha256sum``; empty if there is none."""
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (line.split("  ", 1) for line in lines)
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def damaged(folder: Path, sums: dict[str, str]) -> dict[str, str]:
    """path -> "missing" or "damaged", for every listed file that is not what it was."""
    found = {}
    for name, digest in sums.items():
        if not (folder / name).is_file():
            found[name] = "missing"
        elif sha256_of(folder / name) != digest:
            found[name] = "damaged"
    return found


def readable(size: float) -> str:
    """Bytes as MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} s"


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


# --- is this the folder, and the machine? -------------------------------------------------------


def read_facts(folder: Path) -> dict:
    """What prepare wrote about the folder: Python, system, profile.

    Raises:
        Refused: if prepare did not come to its end, or the file is not as it was written.
    """
    sums = read_sums(folder)
    if FACTS not in sums:
        raise Refused(
            f"{folder} is not finished: run `python -m sawyer_utils prepare --to` this folder again, where "
            "there is a network. It goes on where it stopped."
        )
    refuse_damaged(folder, {FACTS: sums[FACTS]})
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))


def refuse_damaged(folder: Path, sums: dict[str, str]) -> None:
    """Raises:
    Refused: if a listed file is missing or damaged, naming it.
    """
    bad = damaged(folder, sums)
    if bad:
        named = "\n".join(f"    {why:8s} {name}" for name, why in sorted(bad.items())[:20])
        raise Refused(
            f"{len(bad)} of the folder's files not as prepared:\n{named}\n"
            "Copy them again from where this folder came from; or run `python -m sawyer_utils prepare` on "
            "that folder once more, which fetches only what is damaged."
        )


def this_machine() -> dict[str, str]:
    """What a wheel depends on: Python's version, the system, the processor."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {"python": version, "system": platform.system(), "machine": platform.machine()}


def check_machine(facts: dict, machine: dict[str, str]) -> None:
    """Raises:
    Refused: if the folder's wheels are for another Python or another kind of machine.
    """
    if machine["python"] != facts["python"]:
        raise Refused(
            f"This folder was prepared for Python {facts['python']}, and this is Python {machine['python']}. "
            f"Start setup.py with Python {facts['python']}, or prepare another folder with this one (the "
            "course needs 3.11 or newer)."
        )
    wanted, found = ("{system} on {machine}".format(**each) for each in (facts, machine))
    if wanted != found:
        raise Refused(
            f"This folder was prepared for {wanted}, and this is {found}. Prepare another folder on a "
            "machine like this one."
        )


def check_room(folder: Path, target: Path) -> None:
    """Raises:
    Refused: if the wheels unpacked, the course and the weights would not fit, with the numbers.
    """
    if (target / ".venv" / "ready").exists():
        return
    unpacked = 0
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as bundle:
            unpacked += sum(member.file_size for member in bundle.infolist())
    needed, free = unpacked + SPARE, shutil.disk_usage(target).free
    if free < needed:
        raise Refused(
            f"Not enough disk: {readable(free)} free at {target}, about {readable(needed)} needed. "
            "Free some, or choose another place with --to."
        )


# --- the steps ----------------------------------------------------------------------------------


def copy_course(source: Path, target: Path) -> list[str]:
    """Copy the course; a file that was changed here is kept. Returns the names of those."""
    kept = []
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        place = target / name
        if place.exists():
            if sha256_of(place) != sha256_of(path):
                kept.append(name.as_posix())
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(place.name + ".part")
        shutil.copyfile(path, part)
        os.replace(part, place)
    return kept


def environment_python(target: Path) -> Path:
    """The interpreter of the course's own environment."""
    windows = os.name == "nt"
    return target / ".venv" / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")


def from_folder_only() -> dict[str, str]:
    """The environment without pip's own settings, which could name another index or constraint."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    clean.pop("PYTHONPATH", None)
    return {**clean, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def install_arguments(folder: Path, facts: dict) -> list[str]:
    """What pip is asked for, here and in prepare's last check: the folder's wheels and no others."""
    course = folder / "course"
    requirements = ["-r", str(course / "requirements.txt"), "-c", str(course / facts["constraints"])]
    return ["--no-index", "--find-links", str(folder / "wheels"), *requirements, *facts["build"]]


def run(what: str, command: list[str], **environment: str) -> None:
    """Run one step and say how long it took.

    Raises:
        Refused: with what the step printed last, if it fails.
    """
    print(f"{what} ...", flush=True)
    start = time.monotonic()
    everything = {**from_folder_only(), **environment}
    done = subprocess.run(
        command, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise Refused(f"{what} failed:\n{tail}\nPut that right and start setup.py again: it goes on here.")
    print(f"    done in {time.monotonic() - start:.0f} s", flush=True)


def install(folder: Path, target: Path, facts: dict) -> None:
    """``.venv`` with the tested packages and the course in it; the weights in the cache folder."""
    python = str(environment_python(target))
    ready = target / ".venv" / "ready"  # the Makefile's mark: it would call for the network without
    pip = [python, "-m", "pip", "install", "--quiet"]
    if not ready.exists():
        run("making .venv", [sys.executable, "-m", "venv", str(target / ".venv")])
        count = len(list((folder / "wheels").glob("*.whl")))
        run(f"installing {count} wheels", [*pip, *install_arguments(folder, facts)])
        local = ["--no-index", "--find-links", str(folder / "wheels"), "--no-deps", "--no-build-isolation"]
        run("installing the course", [*pip, *local, "--editable", str(target)])
        ready.touch()
    weights = {"SAWYER_WEIGHTS": str(folder / "weights")}
    run("unpacking the weights", [python, "-m", "sawyer_utils", "fetch"], **weights)


def farewell(folder: Path, target: Path, facts: dict) -> str:
    """What to type now."""
    python = environment_python(target).relative_to(target)
    lines = [f"    cd {target}"]
    if facts["hub"]:
        assign = "set" if os.name == "nt" else "export"
        offline = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", **facts["variables"]}
        lines += [f"    {assign} {name}={value}" for name, value in offline.items()]
    lines.append(f"    {python} -m sawyer_utils lab       JupyterLab on the notebooks")
    lines.append(f"    {python} -m sawyer_utils course    runs them one after another")
    return "\n".join(lines)


def set_up(folder: Path, target: Path) -> None:
    """All steps, each of which may be repeated.

    Raises:
        Refused: with the one thing to do.
    """
    start = time.monotonic()
    facts = read_facts(folder)
    check_machine(facts, this_machine())
    print(f"checking {readable(size_of(folder))} in {folder} ...", flush=True)
    refuse_damaged(folder, read_sums(folder))
    print(f"    done in {time.monotonic() - start:.0f} s: every file is whole", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    check_room(folder, target)
    kept = copy_course(folder / "course", target)
    if kept:
        print(f"kept as they are here, for they were changed: {', '.join(kept)}")
    install(folder, target, facts)
    took, size = minutes(time.monotonic() - start), readable(size_of(target))
    print(f"\nReady after {took}: {size} in {target}. Now:")
    print(farewell(folder, target, facts))


def main() -> None:
    parser = argparse.ArgumentParser(description="Set up SAWYER from this folder, without a network.")
    default = Path.home() / "sawyer"
    parser.add_argument(
        "--to", type=Path, default=default, help=f"where the course goes (default: {default})"
    )
    target = parser.parse_args().to.expanduser().resolve()
    try:
        set_up(Path(__file__).resolve().parent, target)
    except (Refused, OSError) as problem:
        sys.exit(f"\n{problem}")


if __name__ == "__main__":
    main()
