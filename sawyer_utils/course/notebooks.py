"""Run the notebooks: build them from their sources, execute, reuse what is done, say how long."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
import threading
import time
import tomllib
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from sawyer_utils.plumbing import assets, paths
from sawyer_utils.plumbing.files import home, project_root, read_json, replacing, write_json
from sawyer_utils.plumbing.reading import DataError
from sawyer_utils.plumbing.sources import EMBEDDED
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import run_dir

NOTEBOOKS = {"01_sft": "sft", "02_reward": "reward", "03_ppo": "ppo", "04_eval": "eval"}
# Each builds on 01 to 04, not on one another.
EXTRAS = {
    "05_ppo_vs_dpo": "versus",
    "06_reward_hacking": "hacking",
    "07_neutral_summaries": "neutral",
    "08_domain_adaptation": "domain",
    "09_checkable_rewards": "checkable",
    "10_ai_feedback": "ai_feedback",
}
FOLDERS = {**NOTEBOOKS, **EXTRAS}
# Of the variables SAWYER_…, those that change no result, or the profile, which is looked at anyway.
NO_RESULT = {"SAWYER_HOME", "SAWYER_CACHE", "SAWYER_WEIGHTS", "SAWYER_WHOLE_RUN", "SAWYER_TESTS_ON_GPU"}
NO_RESULT |= {"SAWYER_PROFILE", "SAWYER_MODEL"}
# Settings with which a training goes on: its number format, its pieces in memory, how often it is kept.
GOES_ON = {"precision", "sft_micro_batch", "ppo_micro_batch", "checkpoint_minutes", "ppo_checkpoint_every"}
# What a title cell says of its notebook, in a source with the marks of a comment between the lines.
MINUTES = re.compile(r"(About[\s#]+)\w+([\s#]+minutes[\s#]+on[\s#]+two[\s#]+CPU[\s#]+cores)")
UNMEASURED = 10.0  # minutes of a notebook of which nothing is known
# Colab reads these: a T4 is preselected, the table of contents is open.
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": [], "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Which cells go on slides, and how; only the slides' builder reads them (slides.py).
SLIDE_TAGS = {"slide", "subslide", "fragment", "notes", "show-code"}


def source_path(name: str) -> Path:
    return project_root() / "notebooks" / "source" / f"{name}.py"


def cell_hash(source: str) -> str:
    """What is recorded of a cell at execution, to find outputs that are older than their code."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def source_hash(name: str) -> str:
    """What is recorded of a whole notebook: teaching notes, slide tags and the minutes that a run took make
    no run outdated."""
    cells = build(name).cells
    return cell_hash("\0".join(f"{cell.metadata} {MINUTES.sub('', cell.source)}" for cell in cells))


def with_minutes(text: str, minutes: float) -> str:
    """A title cell or a source that says how long its notebook took.

    Raises:
        ValueError: if it says nothing of it.
    """
    found, n = MINUTES.subn(rf"\g<1>{round(minutes)}\g<2>", text)
    if n != 1:
        raise ValueError(f"{n} times “About … minutes on two CPU cores” in a title cell.")
    return found


def build(name: str, teaching: bool = False):
    """The notebook of a source, unexecuted, with stable cell ids.

    Args:
        teaching: with the cells tagged ``teaching`` and the slide tags, which only the editions
            (``editions.py``, ``slides.py``) have; the committed notebooks do not.
    """
    import jupytext

    notebook = jupytext.read(source_path(name))
    notebook.metadata = dict(METADATA)
    if not teaching:
        notebook.cells = [cell for cell in notebook.cells if "teaching" not in tags(cell)]
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{i:03d}"
        kept = [tag for tag in tags(cell) if teaching or tag not in SLIDE_TAGS]
        cell.metadata = {"tags": kept} if kept else {}
    return notebook


def address(root: Path | None = None) -> tuple[str, str]:
    """(owner/name, ref) of the repository, as pyproject.toml has them."""
    text = ((root or project_root()) / "pyproject.toml").read_text(encoding="utf-8")
    place = tomllib.loads(text)["tool"]["sawyer"]
    return place["repository"], place["ref"]


def absolute(text: str) -> str:
    """Markdown whose links to the repository's files are addresses: Colab opens a notebook alone, without the
    files around it."""
    place = "https://github.com/{}/blob/{}/".format(*address())
    text = re.sub(r"\]\(\.\./", f"]({place}", text)
    return re.sub(r"\]\((?=\w+\.ipynb)", f"]({place}notebooks/", text)


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def normalise(notebook) -> None:
    """Drop what would change without meaning anything, record the hash of each code cell, and make links that
    work in Colab."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            cell.source = absolute(cell.source)
            continue
        cell.metadata["sawyer_hash"] = cell_hash(cell.source)
        for output in cell.outputs:
            output.get("metadata", {}).clear()
            # Without a kernel behind it a widget is an error message; its text stays.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata.pop("widgets", None)  # without its state GitHub calls the notebook invalid


def refuse_private(notebook) -> None:
    """Raises:
    DataError: if a text in an output names a folder of this machine, which would be published.
    """
    folders = {str(folder) for folder in (project_root(), Path.home()) if folder != folder.parent}
    private = re.compile("|".join(map(re.escape, folders)))
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown = [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
            if private.search("\n".join([output.get("text", ""), *shown])):
                raise DataError(f"An output of cell {cell['id']} holds a path of this machine.")


def execute(notebook, profile: Profile, name: str, clock: Clock) -> None:
    """Run every cell in a fresh kernel, showing the cell, how far it is and the time left."""
    import nbclient

    from sawyer_utils.plumbing.progress import FILE  # which imports transformers

    progress = (home() / profile.name / "progress.json").absolute()
    progress.parent.mkdir(parents=True, exist_ok=True)
    sections = section_of_each(notebook)
    clock.begin(sections)
    state = {"cell": 0, "cells": len(notebook.cells), "began": time.monotonic()}

    def on_cell_start(cell, cell_index):
        with suppress(OSError):  # on Windows, while somebody reads it
            progress.unlink()  # what an earlier cell left says nothing about this one
        state.update(cell=cell_index + 1, began=time.monotonic())
        clock.enter(sections[cell_index])

    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        # Without it ipykernel 7 warns on every start that localhost is not encrypted.
        extra_arguments=["--IPKernelApp.log_level=40"],
        resources={"metadata": {"path": str(project_root() / "notebooks")}},
        on_cell_start=on_cell_start,
    )
    stop = threading.Event()
    teller = threading.Thread(target=_tell, args=(name, state, progress, clock, stop), daemon=True)
    teller.start()
    try:
        client.execute(env={**os.environ, **own_package(), FILE: str(progress)})
    finally:
        stop.set()
        teller.join()
        with suppress(OSError):
            progress.unlink()


def own_package() -> dict[str, str]:
    """``PYTHONPATH`` for a kernel that shall import this course, not another clone that is installed."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(project_root()), os.environ.get("PYTHONPATH")]))}


def section_of_each(notebook) -> list[str]:
    """The ``##`` heading that each cell stands under, "start" before the first."""
    found, section = [], "start"
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (headings := re.findall(r"^## (.+)$", cell.source, re.MULTILINE)):
            section = headings[-1]
        found.append(section)
    return found


def section_seconds(notebook) -> dict[str, float]:
    """Seconds that the cells under each ``##`` heading took, from the times that nbclient has noted."""
    took = {}
    for cell, section in zip(notebook.cells, section_of_each(notebook), strict=True):
        noted = cell.metadata.get("execution", {})
        if "shell.execute_reply" in noted:
            began, ended = (
                datetime.fromisoformat(noted[key]) for key in ("iopub.status.busy", "shell.execute_reply")
            )
            took[section] = took.get(section, 0.0) + (ended - began).total_seconds()
    return took


def _tell(name: str, state: dict, progress: Path, clock: Clock, stop: threading.Event) -> None:
    """Print one line over itself on a terminal, one line every 20 seconds elsewhere."""
    live = sys.stdout.isatty()
    while not stop.wait(1 if live else 20):
        line = progress_line(name, state, progress, clock)
        print(f"\r{line:<100}" if live else line, end="" if live else "\n", flush=True)
    if live:
        print("\r" + " " * 100 + "\r", end="")


def progress_line(name: str, state: dict, progress: Path, clock: Clock) -> str:
    """What is said while a notebook runs: the cell, how far it is, the time left."""
    from sawyer_utils.plumbing.progress import SHOWN

    try:
        now = json.loads(progress.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        now = {}  # the cell does nothing that counts
    line = f"{name}  cell {state['cell']}/{state['cells']}"
    if now:
        shown = [f"{key} {now[key]:.2f}" for key in SHOWN if key in now]
        line += "  ".join([f"  {now['what']} {now['step']}/{now['total']}", *shown])
    elif (seconds := time.monotonic() - state["began"]) > 20:
        line += f"  {seconds / 60:.1f} min in this cell"
    return f"{line}  {clock(now.get('left') or 0.0)}"


class Clock:
    """Time left, from what each section of the notebooks usually takes, how this machine compares so far, and
    what a training or a list says of itself.

    Args:
        expected: minutes by notebook.
        sections: notebook -> heading -> what its cells take, in any unit.
    """

    PRIOR = 30  # seconds for which the machine is taken to be as fast as expected

    def __init__(self, todo: list[str], expected: dict[str, float], sections: dict | None = None):
        self.todo, self.start = list(todo), time.monotonic()
        self.expected = {name: 60 * expected[name] for name in todo}  # seconds
        self.sections = sections or {}
        self.begin([])

    def begin(self, sections: list[str]) -> None:
        """The next notebook begins, with these sections; if little is known of them it is one piece."""
        self.began = self.entered = time.monotonic()
        self.ahead = sum(self.expected[name] for name in self.todo)  # expected seconds not begun yet
        self.section, self.here = "", 0.0  # and what is expected of the piece that runs
        name = self.todo[0] if self.todo else ""
        known = self.sections.get(name, {})
        took = {section: known[section] for section in sections if section in known}
        if sum(took.values()) <= 0.5 * sum(known.values()):  # most headings are new
            took = dict.fromkeys(sections[:1], 1.0)
        total = sum(took.values())
        self.parts = {section: self.expected[name] * part / total for section, part in took.items()}

    def enter(self, section: str) -> None:
        """A cell of this section begins."""
        if section != self.section and section in self.parts:
            self.section, self.here, self.entered = section, self.parts[section], time.monotonic()
            self.ahead -= self.here

    def finished(self, name: str) -> float:
        """Seconds the notebook took; the next one begins."""
        seconds = time.monotonic() - self.began
        self.todo.remove(name)
        self.begin([])
        return seconds

    def __call__(self, at_least: float = 0.0) -> str:
        """The time so far, and what is left.

        Args:
            at_least: seconds that the running cell still asks for.
        """
        now = time.monotonic()
        before = sum(self.expected.values()) - self.ahead - self.here
        # The section: as long as expected, or as it says itself, and a tenth more than it has taken.
        took = now - self.entered
        whole = max(self.here * self._pace(self.entered - self.start, before), took / 0.9, took + at_least)
        done = before + (self.here * took / whole if whole else 0.0)
        left = whole - took + self.ahead * self._pace(now - self.start, done)
        to_go = f"about {left / 60:.0f} min" if left >= 60 else "less than a minute"
        return f"{(now - self.start) / 60:.1f} min so far, {to_go} left"

    def _pace(self, took: float, expected: float) -> float:
        """How many seconds one expected second takes."""
        return (took + self.PRIOR) / (expected + self.PRIOR)


def fingerprint(profile: Profile) -> str:
    """What a run depends on besides the notebooks: settings and corpus."""
    settings = {name: value for name, value in asdict(profile).items() if name not in GOES_ON}
    digest = hashlib.sha256(repr(settings).encode())
    for file in sorted(EMBEDDED.glob("*.jsonl")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def brought() -> str:
    """What a user brings by environment variables: ``SAWYER_QUESTIONS``, ``SAWYER_PRECISION`` and others, and
    what is in the files that they name."""
    names = sorted(name for name in os.environ if name.startswith("SAWYER_") and name not in NO_RESULT)
    digest = hashlib.sha256(repr([(name, os.environ[name]) for name in names]).encode())
    for name in names:
        for path in map(Path, paths.separate(os.environ[name])):
            for file in [path, *sorted(path.rglob("*"))]:
                if file.is_file():
                    found = file.stat()
                    as_weights = repr((found.st_size, found.st_mtime)).encode()  # too large to be read
                    digest.update(as_weights if found.st_size > 2**26 else file.read_bytes())
    return digest.hexdigest()[:16]


def run(profile: Profile, fresh: bool = False, extra: bool = False) -> dict[str, Path]:
    """Execute 01 to 04, and the extras if asked, into the run folder; what is done and unchanged is
    reused.

    Raises:
        FileNotFoundError: where the notebooks' sources are not; nothing has been touched then.

    Returns:
        notebook name -> executed file
    """
    paths.settle()
    _refuse_without_sources()
    folder = home() / profile.name
    ledger_path = folder / "course.json"
    ledger = read_json(ledger_path) if ledger_path.exists() else {}
    changed = ledger.get("fingerprint", fingerprint(profile)) != fingerprint(profile)
    if changed or (fresh and folder.exists()):
        print("Settings or corpus changed: starting over." if changed else "Starting over.", end=" ")
        _set_aside(folder)
        ledger = {}
    ledger["fingerprint"] = fingerprint(profile)
    run_dir(profile, "notebooks")
    print("weights:", ", ".join(assets.fetch()))
    executed = {name: folder / "notebooks" / f"{name}.ipynb" for name in (FOLDERS if extra else NOTEBOOKS)}
    own = brought()
    if other := ledger.get("brought", own) != own:
        print("What you bring (SAWYER_… variables or their files) has changed: the notebooks run again.")
    todo = list(executed) if other else _outdated(ledger, executed)
    for name in executed:
        if name not in todo:
            print(f"{name}  done before, reused")
    # Cut off now, all of these have to run again: each builds on the last, and the extras on all.
    for name in (*todo, *(EXTRAS if NOTEBOOKS.keys() & set(todo) else ())):
        ledger.pop(name, None)
    ledger["brought"] = own
    write_json(ledger_path, ledger)
    clock = Clock(todo, *expected(ledger))
    for name in todo:
        _run_one(name, executed[name], profile, clock, ledger, ledger_path)
    return executed


def _refuse_without_sources() -> None:
    if not (sources := source_path("01_sft").parent).exists():
        raise FileNotFoundError(
            f"The notebooks' sources are not in {sources}. A class's folder has none: open its notebooks "
            "with `python -m sawyer_utils lab`. All else needs a clone of the repository."
        )


def _set_aside(folder: Path) -> None:
    """Trainings take long, and votes cannot be made again: no run is deleted."""
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(1))
    aside = folder.rename(next(path for path in numbered if not path.exists()))
    print(f"The earlier run is in {aside.name}.")


def _run_one(name, path: Path, profile: Profile, clock: Clock, ledger: dict, ledger_path: Path) -> None:
    import nbformat

    source = source_hash(name)
    from_nothing = not (home() / profile.name / FOLDERS[name] / "metrics.json").exists()
    notebook = build(name)
    execute(notebook, profile, name, clock)
    sections = section_seconds(notebook)
    normalise(notebook)
    with replacing(path) as temporary:
        nbformat.write(notebook, temporary)
    seconds = clock.finished(name)
    ledger[name] = {"source": source}
    if from_nothing:  # a notebook that only loads what it trained before says nothing on time
        ledger.setdefault("seconds", {})[name] = seconds
        ledger.setdefault("sections", {})[name] = sections
    write_json(ledger_path, ledger)
    print(f"{name}  done in {seconds / 60:.1f} min")


def _outdated(ledger: dict, executed: dict[str, Path]) -> list[str]:
    """The first of 01 to 04 that is missing or changed, and all after it: each builds on the last.
    If there is none: the extras that are."""

    def changed(name: str) -> bool:
        return ledger.get(name, {}).get("source") != source_hash(name) or not executed[name].exists()

    names = list(executed)
    first = next((i for i, name in enumerate(names) if name in NOTEBOOKS and changed(name)), None)
    return list(filter(changed, names)) if first is None else names[first:]


def expected(ledger: dict) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(minutes by notebook, what its sections take): as here the last time, else as committed."""
    path = project_root() / "results" / "local.json"
    committed = read_json(path) if path.exists() else {}
    here = {name: seconds / 60 for name, seconds in ledger.get("seconds", {}).items()}
    minutes = dict.fromkeys(FOLDERS, UNMEASURED) | committed.get("minutes", {}) | here
    return minutes, committed.get("section_minutes", {}) | ledger.get("sections", {})
