"""The rehearsal: Colab's packages, a Hub on the loopback address, all notebooks on a pretended T4.
``python tests/rehearsal``.

Nothing here shows speed, memory, what real weights answer, a GPU's kernels, or Colab itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the tests share

import hub_data
import hub_models
from colab_session import BUILD, NotPlayed, Result, Session, shipped, versions
from hub_server import GRANTED, HubServer

from sawyer_utils.course.badges import address
from sawyer_utils.course.editions import student
from sawyer_utils.course.notebooks import FOLDERS, NOTEBOOKS
from sawyer_utils.plumbing import colab

T4 = {"SAWYER_SECOND_DEVICE": "fp16"}  # what it computes in
# What a learner's secrets answer: each of the ways in which they refuse.
REFUSALS = ("NotebookAccessError", "SecretNotFoundError", "TimeoutException")


def first_cells(session: Session) -> Iterator[Result]:
    """The setup cell in a session that nobody has touched: it stops for a restart, then goes through."""
    before = versions(session.python)
    cell = {"name": "01_sft", "setup_only": True, "SAWYER_PROFILE": "colab"}
    stops = "RESTART NEEDED, once: this session still holds"
    yield session.run(title="setup: old pyarrow in memory", stops=stops, **cell)
    yield session.run(title="setup: after the restart", **cell)
    stops = "Google Drive was not mounted"
    yield session.run(title="setup: Drive refused", stops=stops, SAWYER_HOME="drive", **cell)
    yield Result("setup: what it installed", 0.0, 0, changes(before, versions(session.python)))


def changes(before: dict[str, str], after: dict[str, str]) -> str:
    """What the setup cell did to the packages and should not have, or the reverse; "" if nothing."""
    found = ["torchao is still there"] if "torchao" in after else []
    stays = before.keys() - colab.MAY_MOVE - {"torchao"}
    found += [f"{n} {before[n]} is now {after.get(n)}" for n in sorted(stays) if after.get(n) != before[n]]
    tried = colab.tested(colab.ROOT / "constraints" / "colab.txt")
    found += [f"{n} is {after.get(n)}, not {v}" for n, v in tried.items() if after.get(n) != v]
    return "\n".join(found)


def colab_chain(session: Session) -> Iterator[Result]:
    """All of them, under ``colab``, as a class gets them: with stubs, and without solutions."""
    for i, name in enumerate(FOLDERS):
        own = {"SAWYER_PROFILE": "colab", "REHEARSAL_SECRET": REFUSALS[i % len(REFUSALS)]}
        edition = partial(student, branch="class")
        yield session.run(name, title=f"colab: {name}", edition=edition, **own, **T4)


def llama2_chain(session: Session) -> Iterator[Result]:
    """The gate, its three ways, and 01 to 04 under ``llama2``."""
    profile = {"SAWYER_PROFILE": "llama2"}
    gate = {"name": "01_sft", "setup_only": True, **profile}
    copy = f'SAWYER_MODEL"] = "{hub_models.COPY}"'
    yield session.run(title="llama2: gated, no token", stops=copy, **gate)
    stops = "your account has not been granted access"
    gate |= {"REHEARSAL_SECRET": "hf_other"}
    yield session.run(title="llama2: gated, another's token", stops=stops, **gate)
    for name in NOTEBOOKS:
        yield session.run(name, title=f"llama2: {name}", REHEARSAL_SECRET=GRANTED, **profile, **T4)
    profile |= {"SAWYER_MODEL": hub_models.COPY}
    yield session.run("01_sft", title="llama2: 01_sft, the copy", **profile, **T4)


CHAINS = {"setup": first_cells, "colab": colab_chain, "llama2": llama2_chain}


def play(chain: Callable[[Session], Iterator[Result]], session: Session) -> list[Result]:
    """Run a chain to its end, whatever fails, and say so as it happens."""
    results = []
    for result in chain(session):
        how = "FAILED" if result.problem else "passed"
        print(f"{how}  {result.minutes:5.1f} min  {result.cells:3d} cells  {result.name}", flush=True)
        if result.problem:
            print(f"{'-' * 88}\n{result.problem}\n{'-' * 88}", flush=True)
        results.append(result)
    return results


def rehearse(chosen: list[str], jobs: int) -> list[Result]:
    """The chains one after another or two at a time; the setup first, on which the others build.

    Raises:
        NotPlayed: if there is something in the way.
    """
    shutil.rmtree(BUILD / "logs", ignore_errors=True)
    shutil.rmtree(BUILD / "hub", ignore_errors=True)
    (BUILD / "logs").mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:  # pip downloads while the models are made
        environment = pool.submit(shipped)
        hub_models.write_models(BUILD / "hub")
        hub_data.write_data(BUILD / "hub")
        environment.result()
    with (
        HubServer(BUILD / "hub", gated={hub_models.GATED}) as hub,
        Session(hub.url, *address(), jobs) as session,
    ):
        results = play(first_cells, session)
        with ThreadPoolExecutor(jobs) as pool:
            for more in pool.map(lambda name: play(CHAINS[name], session), chosen):
                results += more
        unknown = sorted({f"{method} {path}" for method, path in hub.unknown})
    results.append(Result("the Hub knew every request", 0.0, 0, "\n".join(unknown)))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    others = [name for name in CHAINS if name != "setup"]
    parser.add_argument("--only", choices=others, help="one of the two profiles")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time")
    args = parser.parse_args()
    start = time.monotonic()
    try:
        results = rehearse([args.only] if args.only else others, args.jobs)
    except NotPlayed as problem:
        sys.exit(f"The rehearsal was not played. {problem}")
    print(f"\n{'':8s}{'minutes':>8s}{'cells':>7s}")
    for r in results:
        print(f"{'FAILED' if r.problem else 'passed':8s}{r.minutes:8.1f}{r.cells or '':>7}  {r.name}")
    failed = sum(bool(r.problem) for r in results)
    print(f"{(time.monotonic() - start) / 60:12.1f} in all; logs in {BUILD / 'logs'}")
    print(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
