"""``python -m sawyer_utils COMMAND``: the same as the Makefile, for machines without make."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sawyer_utils.plumbing import assets, machine, paths
from sawyer_utils.plumbing.files import DriveNotMounted, project_root
from sawyer_utils.plumbing.reading import DataError, named_files
from sawyer_utils.profiles import BROUGHT, PROFILES, current_profile

# The files of ``--data FOLDER``, without their endings, and the variables that they stand for.
KINDS = {variable.removeprefix("SAWYER_").lower(): variable for variable in list(BROUGHT.values())[2:]}
KINDS |= {kind: f"SAWYER_{kind.upper()}" for kind in ("questions", "domain", "human_pairs")}


def course(args) -> None:
    from sawyer_utils.course import publish as runner

    if args.profile:  # the notebooks' kernels read it there
        os.environ["SAWYER_PROFILE"] = args.profile
    for kind, path in named_files(args.data, KINDS).items() if args.data else ():
        print(f"{kind}: {path.name}")
        os.environ[KINDS[kind]] = str(path)
    runner.course(current_profile(args.profile), fresh=args.fresh, extra=args.extra)


def notebooks(args) -> None:
    from sawyer_utils.course import publish as runner

    os.environ["SAWYER_PROFILE"] = "local"
    for name in (*BROUGHT.values(), "SAWYER_PRECISION"):
        os.environ.pop(name, None)
    runner.publish(PROFILES["local"], extra=args.extra)


def fetch(args) -> None:
    for name, folder in assets.fetch().items():
        print(f"{name:14s} {folder}")


def prepare(args) -> None:
    from sawyer_utils.course import prepare as maker

    try:
        maker.prepare(args.to, current_profile() if args.for_class else None)
    except (maker.NotPrepared, OSError) as problem:
        sys.exit(f"\n{problem}")


def collect(args) -> None:
    from sawyer_utils.classroom import votes
    from sawyer_utils.classroom.handing_in import collect

    together = args.folder / "votes-class.jsonl"
    if rows := votes.merge_votes(sorted({*args.folder.rglob("votes*.jsonl")} - {together})):
        together.unlink(missing_ok=True)
        for row in rows:
            votes.append(together, row)
        print(f"{votes.agreement(rows)}\nall of them, for 04's run folder: {together}\n")
    table = collect(args.folder)
    print(table.astype("string").fillna("").to_string())
    table.to_csv(args.folder / "class.csv")
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

    for path in writer.rewrite(args.repo, args.ref):
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
        editions.run(paths, current_profile())


def slides(args) -> None:
    from sawyer_utils.course import slides as writer

    try:
        for name in writer.talks():
            print(writer.write(name))
    except FileNotFoundError as problem:
        sys.exit(f"\n{problem}")


def lab(args) -> None:
    sys.exit(subprocess.call([sys.executable, "-m", "jupyter", "lab", str(project_root() / "notebooks")]))


def test(args) -> None:
    """Lint, unit tests, then the committed notebooks under ``smoke``, in one fresh run folder, and each
    training notebook once more, killed and run again; the student's edition. With ``--all`` the notebooks on
    the second device, in the T4's format, and the rehearsal, too."""
    root = project_root()
    smoke_home = root / "build" / "smoke"
    shutil.rmtree(smoke_home, ignore_errors=True)
    whole = {"SAWYER_WHOLE_RUN": str(smoke_home), "HF_HUB_OFFLINE": "1"}
    smoke = {"SAWYER_PROFILE": "smoke", "SAWYER_HOME": str(smoke_home), "HF_HUB_OFFLINE": "1"}
    python = [sys.executable, "-m"]
    chain = sorted((root / "notebooks").glob("0*.ipynb"))
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider"]
    steps = [
        ([*python, "ruff", "check", "."], {}),
        ([*python, "ruff", "format", "--check", "sawyer_utils", "tests", "benchmarks"], {}),
        ([*python, "pytest", "tests"], {"HF_HUB_OFFLINE": "1"}),
        ([*python, "pytest", "-x", *nbval, *map(str, chain)], smoke),
        ([*python, "pytest", "tests/test_killed_notebooks.py"], whole),
        ([*python, "sawyer_utils", "student", "--run"], smoke),
    ]
    if args.all:
        second = {"SAWYER_SECOND_DEVICE": "fp16", "HF_HUB_OFFLINE": "1"}
        steps.append(([*python, "pytest", "tests/test_notebooks_second_device.py"], second))
        steps.append(([*python, "sawyer_utils", "rehearse"], {}))
    fetch(args)
    for command, extra in steps:
        print("\n$", " ".join(["python", *command[1:4]]), "…", flush=True)
        if code := subprocess.call(command, cwd=root, env={**os.environ, **extra}):
            sys.exit(code)


def rehearse(args) -> None:
    """The notebooks as Colab would run them; the machinery is tests/rehearsal."""
    root = project_root()
    command = [sys.executable, str(root / "tests" / "rehearsal")]
    sys.exit(subprocess.call(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sawyer_utils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, text: str, **options: dict) -> argparse.ArgumentParser:
        """A command, with the options that it takes; ``for_class`` is typed ``--class``."""
        added = commands.add_parser(function.__name__.replace("_", "-"), help=text)
        added.set_defaults(function=function)
        for name, settings in options.items():
            added.add_argument(f"--{name.removeprefix('for_')}", dest=name, **settings)
        return added

    def flag(text: str) -> dict:
        return {"action": "store_true", "help": text}

    profile = {"choices": PROFILES, "help": "default: SAWYER_PROFILE or local"}
    extra = flag("also the chapters after 04")
    run = flag("and execute them all")
    kinds = ", ".join(f"{kind}.*" for kind in KINDS)
    data = {"metavar": "FOLDER", "help": f"your own data: a folder with any of {kinds}"}
    text = "run the four notebooks, print what each stage changed"
    command(course, text, fresh=flag("start over"), data=data, profile=profile, extra=extra)
    command(notebooks, "rebuild the committed, executed notebooks from their sources", extra=extra)
    all_ = flag("also a pretended GPU, and a rehearsal")
    command(test, "lint, unit tests, the notebooks under the smoke profile", all=all_)
    command(rehearse, "Colab's packages, a Hub on this machine, and all notebooks (6 minutes)")
    command(lab, "open JupyterLab on the notebooks")
    colab = {"metavar": "BRANCH", "help": "with badges that open them in Colab from this branch"}
    command(student, "write the notebooks without solutions to build/student", run=run, colab=colab)
    text = "write the notebooks with open answers and teaching notes to build/instructor"
    command(instructor, text, run=run, nbgrader=flag("for nbgrader, to build/nbgrader"))
    command(slides, "write slides of the committed notebooks to build/slides")
    command(fetch, "fetch the embedded weights")
    to = {"metavar": "DIR", "required": True, "help": "the folder"}
    for_class = flag("with your run folder, the student's edition and slides, without solutions")
    text = "put all that a room without internet needs into one folder"
    command(prepare, text, to=to, for_class=for_class)
    collected = command(collect, "make one table of the files that students hand in")
    collected.add_argument("folder", type=Path, metavar="FOLDER", help="with all hand-in-….json")
    command(check_data, "prove the embedded corpus")
    repo = {"metavar": "OWNER/NAME", "help": "default: what pyproject.toml has"}
    ref = {"metavar": "TAG", "help": "branch or tag; default likewise"}
    command(badges, "write the repository's address into Colab badges and setup cells", repo=repo, ref=ref)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run one command. Paths in the environment are made absolute first, for the notebooks' kernels run in
    another folder; and what this console cannot show is replaced: a summary shall not break on an arrow."""
    machine.show_anything()
    paths.settle()
    args = _parser().parse_args(argv)
    try:
        args.function(args)
    except (DataError, paths.NoSuchPath, DriveNotMounted, assets.WeightsUnavailable) as problem:
        sys.exit(f"\n{problem}")
