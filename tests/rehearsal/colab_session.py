"""A Colab session, played on this machine: its packages, its kernel, its folder /content, and a Hub.

The packages come from ``constraints/colab-shipped.txt`` by pip, with the CUDA libraries: without them this
torch cannot be imported, on a CPU neither. They are kept in ``build/rehearsal/shipped`` as long as that file
stays what it is; a session works on a copy of hard links, for the setup cell replaces some of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat

from sawyer_utils.course import notebooks as course

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "rehearsal"
SHIPPED = ROOT / "constraints" / "colab-shipped.txt"
CONTENT = Path("/content")
ADDED = ("nbval==0.11.0",)  # which Colab does not have
PIP = "pip==24.1.2"  # Colab's
AUTHOR = "rehearsal"
CELL_SECONDS = 300
# What must not reach the session: this machine's settings of the course, of Python and of the Hub.
PRIVATE = re.compile(
    r"SAWYER_|HF_|HUGGING|TRANSFORMERS_|PYTHON|VIRTUAL_ENV|PYTEST_|JUPYTER|IPYTHON|MPL|RANK|COV_"
)


class NotPlayed(RuntimeError):
    """The rehearsal cannot begin; the message says what is in its way."""


@dataclass(frozen=True)
class Result:
    """How a notebook went. ``problem`` is empty if it did what was expected."""

    name: str
    minutes: float
    cells: int
    problem: str


def shipped() -> Path:
    """The environment that Colab ships, made if it is not there or its list has changed.

    Raises:
        NotPlayed: with pip's last words.
    """
    folder, mark = BUILD / "shipped", BUILD / "shipped" / "packages.txt"
    wanted = "\n".join([SHIPPED.read_text("utf-8"), *ADDED, PIP, sys.version])
    if mark.exists() and mark.read_text("utf-8") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for wants in ([PIP], ["--no-compile", "-r", str(SHIPPED), *ADDED]):
        done = subprocess.run([*pip, *wants], capture_output=True, text=True)
        if done.returncode:
            raise NotPlayed(f"pip could not install Colab's packages:\n{done.stderr[-2000:]}")
    mark.write_text(wanted, "utf-8")
    return folder


def versions(python: Path) -> dict[str, str]:
    """``{name: version}`` of what is installed beside a Python."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True, env=_environment(),
    )  # fmt: skip
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"] for one in json.loads(listed.stdout)}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not PRIVATE.match(name)}


def publish(repository: str, ref: str) -> dict[str, str]:
    """Make a repository of this working tree as it is, and let ``git clone`` of the course's address take it.

    Returns:
        the environment variables that do it
    """
    bare = BUILD / "course.git"
    shutil.rmtree(bare, ignore_errors=True)
    who = ["-c", f"user.name={AUTHOR}", "-c", "user.email="]
    git = ["git", *who, "--git-dir", str(bare), "--work-tree", str(ROOT)]
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    subprocess.run([*git, "add", "--all", "."], check=True, cwd=ROOT)
    subprocess.run([*git, "commit", "--quiet", "-m", "The working tree"], check=True, cwd=ROOT)
    subprocess.run([*git, "branch", "--quiet", "-f", ref], check=True, cwd=ROOT)
    address = {"GIT_CONFIG_KEY_0": f"url.file://{bare}.insteadOf", "GIT_CONFIG_COUNT": "1"}
    return address | {"GIT_CONFIG_VALUE_0": f"https://github.com/{repository}"}


class Session:
    """As a context manager: a fresh machine, which is gone afterwards.

    Args:
        endpoint: of the Hub.
        repository, ref: what the setup cells clone, as pyproject.toml names it.
        jobs: how many notebooks share this machine's cores.
    """

    def __init__(self, endpoint: str, repository: str, ref: str, jobs: int = 1):
        self.folder, self.course = BUILD / "session", CONTENT / f"sawyer-{ref}"
        self.python = self.folder / "bin" / "python"
        self.address = (repository, ref)
        self.own = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(BUILD / "home" / "huggingface"),
            "IPYTHONDIR": str(BUILD / "home" / "ipython"),
            "MPLCONFIGDIR": str(BUILD / "home" / "matplotlib"),
            "NO_PROXY": ",".join([*filter(None, [os.environ.get("NO_PROXY")]), "127.0.0.1", "localhost"]),
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
            "PYTHONNOUSERSITE": "1",
            "SAWYER_REHEARSAL": "1",
        }

    def __enter__(self) -> Session:
        self.made = not CONTENT.exists()
        self._claim_content()
        self.own |= publish(*self.address)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(BUILD / "home", ignore_errors=True)
        shutil.copytree(shipped(), self.folder, symlinks=True, copy_function=os.link)
        (site,) = self.folder.glob("lib/python*/site-packages")
        kernel = Path(__file__).with_name("kernel")
        shutil.copytree(kernel / "google", site / "google", dirs_exist_ok=True)
        profile = BUILD / "home" / "ipython" / "profile_default"
        profile.mkdir(parents=True)
        shutil.copy(kernel / "ipython_kernel_config.py", profile)
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.course, ignore_errors=True)
        if self.made:
            shutil.rmtree(CONTENT, ignore_errors=True)

    def _claim_content(self) -> None:
        """/content, empty of any course. A leftover of an earlier rehearsal is deleted; a folder that is
        no clone (a kernel that outlived its rehearsal may have written it) is moved aside.

        Raises:
            NotPlayed: if it cannot be written, or holds somebody's clone.
        """
        if (self.course / ".git").exists():
            log = ["git", "-C", str(self.course), "log", "-1", "--format=%an"]
            if subprocess.run(log, capture_output=True, text=True).stdout.strip() != AUTHOR:
                raise NotPlayed(f"{self.course} is there and no rehearsal made it: move it away.")
            shutil.rmtree(self.course)
        elif self.course.exists():
            aside = Path(tempfile.mkdtemp(prefix=f"{self.course.name}-found-", dir=CONTENT))
            self.course.rename(aside / self.course.name)
            print(f"{self.course} was there and is no clone of the course: moved into {aside}")
        try:
            CONTENT.mkdir(exist_ok=True)
            (CONTENT / ".rehearsal").write_text("")
            (CONTENT / ".rehearsal").unlink()
        except OSError as error:
            raise NotPlayed(
                f"The setup cell clones into {CONTENT}, as in Colab, and this user cannot write there "
                f"({error.strerror}): make that folder and give it to this user, or rehearse in a container."
            ) from None

    def run(
        self,
        name: str,
        *,
        title: str,
        edition=course.build,
        setup_only: bool = False,
        stops: str = "",
        **environment: str,
    ) -> Result:
        """Run a notebook of the working tree by nbval, in /content, in a kernel of its own.

        Args:
            name: of the notebook.
            title: of this run, in the table and of its log.
            edition: makes the notebook of its name.
            setup_only: only the setup cell.
            stops: words that its first failing cell has to say; without them no cell may fail.
            environment: of the kernel, besides the session's; ``SAWYER_SECOND_DEVICE`` gives it the pretended
                GPU, once the course is there.
        """
        start = time.monotonic()
        notebook = edition(name)
        if setup_only:
            notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:1]
        place = CONTENT / re.sub(r"\W+", "-", title) / f"{name}.ipynb"
        place.parent.mkdir(exist_ok=True)  # an earlier rehearsal that was killed leaves it
        nbformat.write(notebook, place)
        nbval = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}"]
        command = [
            str(self.python),
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--no-header",
            *nbval,
            str(place),
        ]
        if "SAWYER_SECOND_DEVICE" in environment:
            command += ["-p", "on_second_device"]
            environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "tests", self.course)))
        with (BUILD / "logs" / f"{place.parent.name}.log").open("w+", encoding="utf-8") as log:
            own = _environment() | self.own | environment
            code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, cwd=place.parent, env=own)
            log.seek(0)
            said = log.read()
        shutil.rmtree(place.parent)
        cells = sum(
            int(n) for n in re.findall(r"(\d+) (?:passed|failed)", said.splitlines()[-1] if said else "")
        )
        return Result(title, (time.monotonic() - start) / 60, cells, _problem(code, said, stops))


def _problem(code: int, said: str, stops: str) -> str:
    """What is wrong with a run, or ""."""
    failures = first_failure(said)
    if not stops:
        return failures if code else ""
    if code != 1 or stops not in re.sub(r"\s+", " ", failures):
        return f"It should have stopped with {stops!r}:\n{failures or said[-3000:]}"
    return ""


def first_failure(said: str) -> str:
    """The first failing cell in nbval's report, or the end of the report if there is none."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    parts = re.split(r"^_{5,}.*_{5,}$", plain, flags=re.MULTILINE)
    lines = parts[1].strip().splitlines() if len(parts) > 1 else plain.splitlines()[-40:]
    return "\n".join([*lines[:30], "…", *lines[-40:]] if len(lines) > 70 else lines)
