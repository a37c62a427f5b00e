"""``python -m sawyer_utils COMMAND``: the same as the Makefile, for machines without make."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from sawyer_utils.course.offline_setup import Refused
from sawyer_utils.plumbing import assets, machine, paths
from sawyer_utils.plumbing.files import Damaged, DriveNotMounted, project_root, replacing
from sawyer_utils.plumbing.reading import DataError, named_files
from sawyer_utils.profiles import BESIDE, BROUGHT, PROFILES, Profile, current_profile

# The files of ``--data FOLDER``, without their endings, and the variables that they stand for.
KINDS = {name.removeprefix("SAWYER_").lower(): name for name in (*list(BROUGHT.values())[2:], *BESIDE)}
# Of the variables SAWYER_…, those that say where and how tests and committed notebooks run, not of what.
OF_THE_MACHINE = {"SAWYER_HOME", "SAWYER_CACHE", "SAWYER_WEIGHTS", "SAWYER_TESTS_ON_GPU"}


def _settings() -> set[str]:
    """The variables of the user's shell that would change what is tested or committed."""
    return {name for name in os.environ if name.startswith("SAWYER_")} - OF_THE_MACHINE


def _profile(name: str | None = None) -> Profile:
    try:
        return current_profile(name)
    except ValueError as problem:  # SAWYER_PROFILE is no profile
        sys.exit(f"\n{problem}")


def course(args) -> None:
    from sawyer_utils.course import publish as runner

    if args.profile:  # the notebooks' kernels read it there
        os.environ["SAWYER_PROFILE"] = args.profile
    for kind, path in named_files(args.data, KINDS).items() if args.data else ():
        print(f"{kind}: {path.name}")
        os.environ[KINDS[kind]] = str(path)
    runner.course(_profile(args.profile), fresh=args.fresh, extra=args.extra)


def notebooks(args) -> None:
    from sawyer_utils.course import publish as runner

    # The people's votes of 02 are no part of the repository, and are shown where somebody has them.
    for name in _settings() - {"SAWYER_HUMAN_PAIRS"}:
        del os.environ[name]
    os.environ["SAWYER_PROFILE"] = "local"
    runner.publish(PROFILES["local"], extra=args.extra)


def fetch(args) -> None:
    for name, folder in assets.fetch().items():
        print(f"{name:14s} {folder}")


def prepare(args) -> None:
    from sawyer_utils.course import prepare as maker

    maker.prepare(args.to, _profile() if vars(args)["class"] else None)


def collect(args) -> None:
    from sawyer_utils.classroom import votes
    from sawyer_utils.classroom.handing_in import collect, files

    together = args.folder / "votes-class.jsonl"
    if rows := votes.merge_votes(sorted({*args.folder.rglob("votes*.jsonl")} - {together})):
        with replacing(together) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        print(f"{votes.agreement(rows)}\nall of them, for 04's run folder: {together}\n")
        if not files(args.folder):  # a class that has voted and handed nothing in
            return
    table = collect(args.folder)
    print(table.astype("string").fillna("").to_string())
    table.to_csv(args.folder / "class.csv", encoding="utf-8-sig")  # the mark by which Excel knows UTF-8
    print("\nfor a spreadsheet:", args.folder / "class.csv")


def check_data(args) -> None:
    from sawyer_utils.course.corpus_proof import check_corpus, check_unreadable
    from sawyer_utils.data import load_gold, load_preferences
    from sawyer_utils.models import load_tokenizer

    for key, value in check_corpus(tokenizer=load_tokenizer(PROFILES["local"])).items():
        print(f"{key:14s} {value}")
    for name, load in (("preferences", load_preferences), ("gold_preferences", load_gold)):
        found = ", ".join(f"{how} {share:.3f}" for how, share in check_unreadable(load(), name).items())
        print(f"{name}: right on held-out pairs without reading: {found}")


def badges(args) -> None:
    from sawyer_utils.course import badges as writer

    try:
        changed = writer.rewrite(args.repo, args.ref)
    except ValueError as problem:  # --repo or --ref
        sys.exit(f"\n{problem}")
    for path in changed:
        print("rewritten", path.relative_to(project_root()))
    print("badges and setup cells name {} at {}".format(*writer.address()))


def student(args) -> None:
    _edition("student", args, branch=args.colab)


def instructor(args) -> None:
    _edition("nbgrader" if args.nbgrader else "instructor", args)


def _edition(kind: str, args, **options) -> None:
    from sawyer_utils.course import editions

    paths = editions.write(kind, **options)
    print(*paths.values(), sep="\n")
    if args.run:
        editions.run(paths, _profile())


def slides(args) -> None:
    from sawyer_utils.course import slides as writer
    from sawyer_utils.course.notebooks import FOLDERS

    for name in FOLDERS:
        print(writer.write(name))


def lab(args) -> None:
    from sawyer_utils.course.notebooks import own_package

    import_module("jupyterlab")  # which another Python may not have
    command = [sys.executable, "-m", "jupyter", "lab", str(project_root() / "notebooks")]
    sys.exit(subprocess.call(command, env={**os.environ, **own_package()}))


def test(args) -> None:
    """Lint, unit tests, and the committed 01 to 04 under ``smoke``, in one fresh run folder.

    With ``--all`` the extras, each training notebook once more, killed and run again, and the rehearsal: the
    student's edition on a pretended T4, with Colab's packages.
    """
    from sawyer_utils.course.notebooks import EXTRAS, NOTEBOOKS, own_package

    root = project_root()
    smoke_home = root / "build" / "smoke"
    shutil.rmtree(smoke_home, ignore_errors=True)
    whole = {"SAWYER_WHOLE_RUN": str(smoke_home), "HF_HUB_OFFLINE": "1"}
    smoke = {"SAWYER_PROFILE": "smoke", "SAWYER_HOME": str(smoke_home), "HF_HUB_OFFLINE": "1"}
    python = [sys.executable, "-m"]
    nbval = [*python, "pytest", "-x", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600"]
    nbval += ["-p", "no:cacheprovider"]
    core, extras = ([f"notebooks/{name}.ipynb" for name in some] for some in (NOTEBOOKS, EXTRAS))
    # Each test that computes takes one thread, or the processes would wait for each other.
    side_by_side, one_thread = ["-n", "auto", "--maxprocesses", "4"], {"OMP_NUM_THREADS": "1"}
    unit = [*python, "pytest", "tests", *side_by_side, "--dist", "worksteal", "--durations", "10"]
    steps = [
        ([*python, "ruff", "check", "."], {}),
        ([*python, "ruff", "format", "--check", "sawyer_utils", "tests", "benchmarks"], {}),
        (unit, one_thread | {"HF_HUB_OFFLINE": "1"}),
        ([*nbval, *core], smoke),
    ]
    if args.all:
        steps += [
            # Each builds on 01 to 04 alone; the cells of one stay together.
            ([*nbval, *side_by_side, "--dist", "loadfile", *extras], one_thread | smoke),
            ([*python, "pytest", "tests/test_killed_notebooks.py"], whole),
            ([*python, "sawyer_utils", "rehearse"], {}),
        ]
    fetch(args)
    _run_all(steps, root, own_package())


def _run_all(steps: list, root: Path, environment: dict[str, str]) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in _settings()} | environment
    for command, extra in steps:
        print("\n$", " ".join(["python", *command[1:4]]), "…", flush=True)
        began = time.monotonic()
        if code := subprocess.call(command, cwd=root, env=plain | extra):
            sys.exit(code)
        print(f"{(time.monotonic() - began) / 60:.1f} min", flush=True)


def rehearse(args) -> None:
    """The notebooks as Colab would run them; the machinery is tests/rehearsal."""
    root = project_root()
    command = [sys.executable, str(root / "tests" / "rehearsal")]
    sys.exit(subprocess.call(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}))


def _flag(text: str) -> dict:
    return {"action": "store_true", "help": text}


def _known() -> dict:
    """Each command with its help and its arguments, as ``add_argument`` takes them."""
    extra = {"--extra": _flag("also the chapters after 04")}
    run = {"--run": _flag("and execute them all")}
    files = ", ".join(f"{kind}.*" for kind in KINDS)
    of_course = {
        "--fresh": _flag("start over; the earlier run stays beside the new one"),
        "--data": {"metavar": "FOLDER", "help": f"your own data: a folder with any of {files}"},
        "--profile": {"choices": PROFILES, "help": "default: SAWYER_PROFILE or local"},
    }
    colab = {"metavar": "BRANCH", "help": "with badges that open them in Colab from this branch"}
    of_prepare = {
        "--to": {"metavar": "DIR", "required": True, "help": "the folder"},
        "--class": _flag("with your run folder, the student's edition and slides, without solutions"),
    }
    of_badges = {
        "--repo": {"metavar": "OWNER/NAME", "help": "default: what pyproject.toml has"},
        "--ref": {"metavar": "TAG", "help": "branch or tag; default likewise"},
    }
    handed_in = {"folder": {"type": Path, "metavar": "FOLDER", "help": "with all hand-in-….json"}}
    nbgrader = {"--nbgrader": _flag("for nbgrader, to build/nbgrader")}
    return {
        course: ("run the four notebooks, print what each stage changed", of_course | extra),
        notebooks: ("rebuild the committed, executed notebooks from their sources", extra),
        test: (
            "lint, unit tests, 01 to 04 under the smoke profile",
            {"--all": _flag("also the extras, killed trainings, and the rehearsal")},
        ),
        rehearse: ("Colab's packages, a pretended T4, a Hub on this machine, and all notebooks", {}),
        lab: ("open JupyterLab on the notebooks", {}),
        student: ("write the notebooks without solutions to build/student", {"--colab": colab} | run),
        instructor: ("write them with open answers and teaching notes to build/instructor", run | nbgrader),
        slides: ("write slides of the committed notebooks to build/slides", {}),
        collect: ("make one table of the files that students hand in", handed_in),
        fetch: ("fetch the embedded weights", {}),
        prepare: ("put all that a room without internet needs into one folder", of_prepare),
        check_data: ("prove the embedded corpus", {}),
        badges: ("write the repository's address into Colab badges and setup cells", of_badges),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sawyer_utils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, (text, arguments) in _known().items():
        command = commands.add_parser(function.__name__.replace("_", "-"), help=text)
        command.set_defaults(function=function)
        for name, settings in arguments.items():
            command.add_argument(name, **settings)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run one command. Paths in the environment are made absolute first, for the notebooks' kernels run in
    another folder; and what this console cannot show is replaced: a summary shall not break on an arrow."""
    machine.show_anything()
    paths.settle()
    args = _parser().parse_args(argv)
    try:
        args.function(args)
    except ModuleNotFoundError as problem:
        own = r".venv\Scripts\python" if os.name == "nt" else ".venv/bin/python"
        sys.exit(
            f"\nThis Python ({sys.executable}) has no {problem.name}. The course's own has: "
            f"{own} -m sawyer_utils …, once it is installed (docs/running.md)."
        )
    except (DataError, Damaged, OSError, DriveNotMounted, Refused, assets.WeightsUnavailable) as problem:
        sys.exit(f"\n{problem}")
