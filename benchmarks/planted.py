"""Do the tests see mistakes? Plants one at a time in a copy of the repository and runs the tests of its file.

    python benchmarks/planted.py [--only TEXT] [--sample N --seed S] [--minutes M] [--jobs 1]

``planted_mistakes.jsonl`` has a mistake a line: the file, the old text, which must be there exactly once, the
new one, the test files that cover it, and what a user would suffer. It is *caught* if a test fails that
passes without it, *survived* if all pass, *slow* if they take longer than ``LIMIT``; *broken* is an entry
that does not fit its file any more, or has no test that passes without it.

Each run is a ``pytest -q -x`` in a process of its own, forked from one that has imported the large libraries
once (so not on Windows). Writes results/planted.json: the counts, and who was not caught.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 120.0  # seconds for the tests of one mistake
SLOW, CRASHED = 124, 139  # beside pytest's exit statuses, which are 0 to 5
VERDICTS = {0: "survived", 1: "caught", 2: "caught", CRASHED: "caught", SLOW: "slow"}  # else "broken"
CONTEXT = multiprocessing.get_context("forkserver")
LARGE = ["torch", "pandas", "scipy.stats", "matplotlib.pyplot", "ipywidgets", "nbformat", "pytest"]
LARGE += [f"trl.trainer.{name}_trainer" for name in ("sft", "reward", "dpo", "rloo")]


@dataclass(frozen=True)
class Mistake:
    """One line of the list."""

    file: str
    old: str
    new: str
    tests: list[str]
    harm: str

    def planted(self, text: str) -> str:
        """The file's text with the mistake in it.

        Raises:
            ValueError: if the old text is not there exactly once.
        """
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {times} times, not once")
        return text.replace(self.old, self.new)


@dataclass
class Found:
    """What came of a mistake."""

    mistake: Mistake
    verdict: str
    failed: list[str]  # tests


def mistakes() -> list[Mistake]:
    """The list."""
    lines = Path(__file__).with_name("planted_mistakes.jsonl").read_text(encoding="utf-8").splitlines()
    return [Mistake(**json.loads(line)) for line in lines]


def copy_tree(root: Path, target: Path) -> Path:
    """What git tracks, and what is new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    return target


# --- pytest in a process of its own -------------------------------------------------------------


def pytest_in(tree: Path, arguments: list[str], limit: float) -> tuple[int, list[str]]:
    """(exit status, tests that failed) of ``pytest`` in a folder, after at most ``limit`` seconds."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_pytest, args=(str(tree), arguments, there))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit) else (SLOW, [])
    except EOFError:
        return CRASHED, []
    finally:
        with contextlib.suppress(ProcessLookupError):  # with all that the tests have started
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


class _Failed:
    """A plugin that notes which tests fail."""

    def __init__(self):
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report):
        self.names += [report.nodeid] * report.failed

    pytest_collectreport = pytest_runtest_logreport


def _pytest(tree: str, arguments: list[str], pipe) -> None:
    os.setsid()
    os.chdir(tree)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    os.environ["PYTHONPATH"] = tree  # for processes that the tests start
    sys.path.insert(0, tree)
    import pytest

    seen = _Failed()
    without = ["-p", "no:cacheprovider", "-p", "no:nbval"]  # the second takes seconds to import
    status = pytest.main(["-q", *without, *arguments], plugins=[seen])
    pipe.send((int(status), seen.names))


# --- one mistake, and all of them ---------------------------------------------------------------


def try_one(mistake: Mistake, tree: Path, limit: float = LIMIT, skipped=()) -> Found:
    """Plant a mistake in a copied tree, run its tests, and take it out again."""
    path = tree / mistake.file
    try:
        right = path.read_text(encoding="utf-8")
        path.write_text(mistake.planted(right), encoding="utf-8")
    except (OSError, ValueError):
        return Found(mistake, "broken", [])
    try:
        skip = [f"--deselect={name}" for name in skipped]
        status, failed = pytest_in(tree, ["-x", *skip, *mistake.tests], limit)
    finally:
        path.write_text(right, encoding="utf-8")
    return Found(mistake, VERDICTS.get(status, "broken"), failed)


def try_all(chosen: list[Mistake], root=ROOT, jobs=1, minutes=math.inf, limit=LIMIT) -> list[Found]:
    """Each mistake in turn, none begun after so many minutes. What failed is run once more in the tree as it
    is: a test that fails there, too, has caught nothing, and its mistakes are tried without it."""
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # an old .pyc would hide a mistake of the same length
    end, trees, anyway = time.monotonic() + 60 * minutes, SimpleQueue(), []

    def one(mistake: Mistake) -> Found | None:
        if time.monotonic() > end:
            return None
        start, tree = time.monotonic(), trees.get()
        found = try_one(mistake, tree, limit)
        trees.put(tree)
        took = f"{time.monotonic() - start:4.0f} s"
        print(f"{found.verdict:9s} {took}  {mistake.file}: {mistake.harm}", *found.failed, flush=True)
        return found

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            trees.put(copy_tree(root, Path(folder, str(number))))
        found = list(filter(None, pool.map(one, chosen)))
        tree, checked = trees.get(), set()
        while names := sorted({name for each in found for name in each.failed} - checked):
            checked |= set(names)
            failing = set(pytest_in(tree, names, LIMIT + 10 * len(names))[1])
            anyway += failing
            found = [
                try_one(each.mistake, tree, limit, anyway) if failing & set(each.failed) else each
                for each in found
            ]
    return found


def summary(found: list[Found]) -> dict:
    """The counts, the share caught of those with a verdict, and who was not caught."""
    counts = Counter(one.verdict for one in found)
    judged = counts["caught"] + counts["survived"]
    names = ("file", "old", "new", "harm")
    others = [one for one in found if one.verdict != "caught"]
    return {
        "run": len(found),
        **counts,
        "share_caught": round(counts["caught"] / judged, 3) if judged else None,
        "not_caught": [
            {"verdict": one.verdict, **{n: getattr(one.mistake, n) for n in names}} for one in others
        ],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this text in them")
    parser.add_argument("--sample", type=int, metavar="N", help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after this time")
    parser.add_argument("--jobs", type=int, default=1, help="at a time")
    args = parser.parse_args()
    listed = mistakes()
    chosen = [one for one in listed if args.only in str(one)]
    if args.sample:
        chosen = random.Random(args.seed).sample(chosen, min(args.sample, len(chosen)))
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    CONTEXT.set_forkserver_preload(LARGE)
    how = {"listed": len(listed), "only": args.only, "sample": args.sample, "seed": args.seed}
    result = how | summary(try_all(chosen, jobs=args.jobs, minutes=args.minutes))
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    (ROOT / "results" / "planted.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
