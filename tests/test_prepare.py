"""The folder for a room without internet: made, cut off, damaged, set up from; with tiny wheels that
pip finds on this disk. And what of it a class gets."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from test_editions import solutions
from test_slides import SCRIPTS

from sawyer_utils.__main__ import main
from sawyer_utils.course import notebooks, offline_setup, prepare, slides
from sawyer_utils.course.offline_setup import Refused
from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.files import UMASK
from sawyer_utils.profiles import PROFILES

ROOT = Path(__file__).parents[1]
BACKEND = """
import os, zipfile
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "sawyer_utils-0.1-py3-none-any.whl", "sawyer_utils-0.1.dist-info/"
    facts = "Metadata-Version: 2.1\\nName: sawyer-utils\\nVersion: 0.1\\nRequires-Dist: toy-tensor\\n"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as bundle:
        bundle.writestr("course.pth", os.getcwd())
        bundle.writestr(info + "METADATA", facts)
        bundle.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        bundle.writestr(info + "RECORD", "")
    return name
"""
COURSE = {
    "pyproject.toml": '[build-system]\nrequires = ["toy-build>=1"]\nbuild-backend = "toy_build"\n',
    "requirements.txt": "toy-tensor>=1  # tensors\n",
    "constraints/tested.txt": "toy-tensor==1.0\n",
    "sawyer_utils/__init__.py": "",
    "sawyer_utils/__main__.py": "import os; open('fetched', 'w').write(os.environ['SAWYER_WEIGHTS'])\n",
    "notebooks/01_sft.ipynb": "{}",
    "notebooks/02_reward.ipynb": "{}",
    ".gitignore": ".venv/\nruns/\n*.egg-info/\n",
}
IGNORED = {"runs/local/log.jsonl": "private", "x.egg-info/PKG-INFO": ""}


def make_wheel(folder: Path, name: str, version: str = "1.0", code: str = "") -> Path:
    """A package of one module, as a wheel."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(f"{name}.py", code)
        bundle.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A course of a few lines in a folder without git; pip sees a few tiny wheels and no index."""
    root = tmp_path / "repository"
    for name, text in {**COURSE, **IGNORED}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(prepare, "project_root", lambda: root)
    weights = make_wheel(tmp_path / "share", "toy_model")
    known = assets.Wheel("toy-model==1.0", assets.sha256_of(weights), "toy_model")
    monkeypatch.setattr(assets, "WHEELS", {"toy": known})
    monkeypatch.setenv("SAWYER_WEIGHTS", str(tmp_path / "share"))
    make_wheel(tmp_path / "index", "toy_build", code=BACKEND)
    for version in ("1.0", "1.1"):
        make_wheel(tmp_path / "index", "toy_tensor", version)
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index")}
    for key, value in settings.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    return root


@pytest.fixture
def made(root, tmp_path):
    """A finished folder."""
    return prepare.prepare(tmp_path / "stick")


def sums(folder: Path) -> dict[str, str]:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def listing(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# --- made ---------------------------------------------------------------------------------------


def test_every_file_is_there_once_with_its_checksum(made):
    wheels = {f"wheels/{n}-1.0-py3-none-any.whl" for n in ("toy_tensor", "toy_build")}
    others = {"setup.py", "folder.json", "weights/toy_model-1.0-py3-none-any.whl"}
    assert set(sums(made)) == wheels | {f"course/{name}" for name in COURSE} | others
    assert listing(made) == set(sums(made)) | {"SHA256SUMS"}
    for name, digest in sums(made).items():
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest


def test_another_run_mends_and_follows_the_tested_set(made, root):
    weights = "weights/toy_model-1.0-py3-none-any.whl"
    before = sums(made)
    flip(made / weights)
    (made / "wheels/toy_build-1.0-py3-none-any.whl").write_bytes(b"half a fi")
    (root / "constraints/tested.txt").write_text("toy-tensor==1.1\n")
    prepare.prepare(made)
    changed = {name for name, digest in sums(made).items() if before.get(name) != digest}
    assert changed == {"wheels/toy_tensor-1.1-py3-none-any.whl", "course/constraints/tested.txt"}
    assert "wheels/toy_tensor-1.0-py3-none-any.whl" not in listing(made)


def test_the_course_is_what_git_tracks_and_without_git_what_is_not_ignored(root):
    (root / "stick/course").mkdir(parents=True)
    (root / "stick/course/old.py").write_text("")
    found = prepare.course_files(root, root / "stick")
    assert {p.relative_to(root).as_posix() for p in found} == set(COURSE)
    for command in (["init", "-q"], ["add", "requirements.txt", "pyproject.toml"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    (root / "pyproject.toml").unlink()  # tracked and gone
    assert prepare.course_files(root, root / "stick") == [root / "requirements.txt"]


def test_a_cut_off_folder_is_refused_until_the_command_ends_well(made, tmp_path):
    wheel = tmp_path / "index/toy_build-1.0-py3-none-any.whl"
    wheel.rename(tmp_path / "kept")
    with pytest.raises(SystemExit, match=r"(?s)could not be fetched; pip says why.*HTTPS_PROXY.*PIP_CERT"):
        main(["prepare", "--to", str(made)])
    with pytest.raises(Refused, match="is not finished: run `python -m sawyer_utils prepare"):
        offline_setup.set_up(made, tmp_path / "target")
    (tmp_path / "kept").rename(wheel)
    main(["prepare", "--to", str(made)])
    assert offline_setup.check(made)["class"] is False


def test_a_folder_with_other_files_is_left_alone(root, tmp_path):
    mine = make_wheel(tmp_path / "mine/wheels", "mine")
    with pytest.raises(Refused, match=r"holds other files\. Take an empty or a new folder"):
        prepare.prepare(tmp_path / "mine")
    assert listing(tmp_path / "mine") == {f"wheels/{mine.name}"}


def test_prepare_needs_no_package_of_the_course():
    """So that any Python's wheels can be fetched with that bare Python."""
    code = "import sys; sys.path.insert(0, '.'); import sawyer_utils.__main__, sawyer_utils.course.prepare"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, check=True)


# --- set up -------------------------------------------------------------------------------------


def test_damaged_and_missing_files_and_other_machines_are_refused(made, tmp_path, monkeypatch):
    def refused(words: str) -> None:
        with pytest.raises(Refused, match=words):
            offline_setup.set_up(made, tmp_path / "target")
        assert not (tmp_path / "target").exists()

    for key, other in (("python", "3.99"), ("system", "Plan9"), ("machine", "m68k")):
        with monkeypatch.context() as patch:
            machine = {**offline_setup.this_machine(), key: other}
            patch.setattr(offline_setup, "this_machine", lambda machine=machine: machine)
            refused(f"prepared for Python .*and this is .*{other}.*Start setup.py with that Python, or")
    (made / "course/pyproject.toml").unlink()
    flip(made / "wheels/toy_build-1.0-py3-none-any.whl")
    refused("2 of the folder's files missing or damaged: course/pyproject.toml, wheels/toy_build-1.0-py3")
    flip(made / "folder.json")
    refused("3 of the folder's files missing or damaged: .*folder.json")


def test_the_script_needs_only_the_standard_library_and_can_be_read_by_an_old_python(made):
    tree = ast.parse((made / "setup.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_a_machine_is_set_up_from_the_folder_alone(made, tmp_path, monkeypatch):
    carried, target = shutil.move(made, tmp_path / "carried"), tmp_path / "target"
    for gone in ("index", "share", "repository"):
        shutil.rmtree(tmp_path / gone)
    (tmp_path / "house.txt").write_text("toy-tensor==9.9\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "house.txt"))  # a setting of pip's own, not for here
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = run(sys.executable, f"{carried}/setup.py", "--to", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-m sawyer_utils lab" in done.stdout
    python = offline_setup.environment_python(target)
    shown = run(python, "-I", "-c", "import sawyer_utils, toy_tensor; print(sawyer_utils.__file__)")
    assert Path(shown.stdout.strip()) == target / "sawyer_utils/__init__.py", shown.stderr
    assert (tmp_path / "fetched").read_text() == str(carried / "weights")
    assert (target / ".venv/ready").exists(), "make would install once more"

    (target / "notebooks/01_sft.ipynb").write_text("my answers")
    again = run(sys.executable, f"{carried}/setup.py", "--to", str(target))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "installing" not in again.stdout
    assert (target / "notebooks/01_sft.ipynb").read_text() == "my answers"


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """What setup.py would start, noted down and not done."""
    done = []

    def note(what, command, **environment):
        done.append(what)
        (tmp_path / "target" / ".venv").mkdir(exist_ok=True)

    monkeypatch.setattr(offline_setup, "run", note)
    return done


def test_a_newer_folder_replaces_all_but_what_is_the_learners(made, tmp_path, steps):
    target, course = tmp_path / "target", made / "course"
    offline_setup.set_up(made, target)
    (target / "notebooks/01_sft.ipynb").write_text("my answers")
    (target / "runs/local").mkdir(parents=True)
    (target / "runs/local/metrics.json").write_text("mine")
    (course / "runs/local").mkdir(parents=True)
    newer = [f"notebooks/{name}.ipynb" for name in ("01_sft", "02_reward")]
    newer += ["sawyer_utils/__init__.py", "runs/local/metrics.json", "requirements.txt"]
    for name in newer:
        (course / name).write_text("newer")
    prepare.write_sums(made)
    steps.clear()
    offline_setup.set_up(made, target)
    found = [(target / name).read_text() for name in newer]
    assert found == ["my answers", "newer", "newer", "mine", "newer"]
    assert steps == ["unpacking the weights"]
    ready = (target / ".venv/ready").stat().st_mtime_ns
    assert ready >= (target / "requirements.txt").stat().st_mtime_ns, "make would install once more"
    (course / "constraints/tested.txt").write_text("toy-tensor==1.1\n")
    prepare.write_sums(made)
    offline_setup.set_up(made, target)
    assert "installing the packages" in steps


def test_a_copy_that_was_cut_off_is_not_taken_for_the_learners_file(made, tmp_path, monkeypatch):
    name, target = "notebooks/01_sft.ipynb", tmp_path / "target"
    whole = shutil.copyfile

    def half(source, place):
        if not str(source).endswith(name):  # those before it have arrived
            return whole(source, place)
        Path(place).write_text("the wh")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                offline_setup.copy_course(made, target)
    offline_setup.copy_course(made, target)
    assert (target / name).read_bytes() == (made / "course" / name).read_bytes()


@pytest.mark.parametrize(("for_class", "profile"), [(False, "local"), (True, "smoke")])
def test_what_to_type_fits_the_folder(made, tmp_path, steps, capsys, for_class, profile):
    """A class lacks the sources, and its run may be of another profile."""
    facts = json.loads((made / "folder.json").read_text())
    assert (facts["class"], facts["profile"]) == (False, "local")
    (made / "folder.json").write_text(json.dumps({**facts, "class": for_class, "profile": profile}))
    prepare.write_sums(made)
    offline_setup.set_up(made, tmp_path / "target")
    said = capsys.readouterr().out
    assert "-m sawyer_utils lab" in said
    assert ("-m sawyer_utils course" in said) == (not for_class)
    assert ("SAWYER_PROFILE=smoke\n" in said) == (profile == "smoke")


# --- for a class --------------------------------------------------------------------------------

RUN = ("sft/metrics.json", "sft/adapter/adapter_model.safetensors", "eval/figures/three_answers.png")
PRIVATE = ("notebooks/01_sft.ipynb", "reward/votes.jsonl", "eval/transcript-2.jsonl", "report.html")
PRIVATE += ("hand-in-ada.json", "sft/earlier-1/log.json")


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A finished run, with what somebody has written in it."""
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    run = tmp_path / "runs" / "local"
    for name in (*RUN, *PRIVATE):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("secret" if name in PRIVATE else "{}")
    (run / "course.json").write_text(json.dumps({name: {} for name in notebooks.NOTEBOOKS}))
    return run


def test_a_class_gets_run_folder_notebooks_and_slides_and_no_solution(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "reveal", lambda: SCRIPTS)
    adapter = run_folder / RUN[1]
    adapter.chmod(0o600)  # as safetensors writes it
    prepare.copy_course(ROOT, tmp_path / "stick", prepare.SOLVED)
    prepare.add_class(tmp_path / "stick", PROFILES["local"])
    found = listing(tmp_path / "stick")
    assert {f"course/notebooks/{name}.ipynb" for name in notebooks.FOLDERS} < found
    copied = tmp_path / "stick/course/runs/local" / RUN[1]
    assert copied.stat().st_mode & 0o777 == 0o666 & ~UMASK
    assert {
        *(f"slides/{name}.slides.html" for name in notebooks.FOLDERS),
        "course/README.md",
        "setup.py",
    } < found
    runs = {name.removeprefix("course/runs/local/") for name in found if name.startswith("course/runs/")}
    assert runs == {*RUN, "course.json"}
    texts = {name: (tmp_path / "stick" / name).read_text("utf-8", "replace") for name in found}
    for name in (name for name in found if name.endswith(".ipynb")):
        texts[name] = "\n".join("".join(cell["source"]) for cell in json.loads(texts[name])["cells"])
    for block in (block for name in notebooks.FOLDERS for block in solutions(name)):
        assert not [name for name, text in texts.items() if block in text], block


def test_a_folder_that_is_made_again_has_slides_for_a_class_alone(root, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "add_class", lambda folder, profile: (folder / "slides").mkdir())
    for profile in (PROFILES["local"], None):
        folder = prepare.prepare(tmp_path / "stick", profile)
        assert (folder / "slides").exists() == bool(profile)


def test_a_class_needs_a_finished_run(root, run_folder, tmp_path):
    (run_folder / "course.json").write_text('{"01_sft": {}, "02_reward": {}}')
    with pytest.raises(Refused, match="no finished 03_ppo, 04_eval: run `python"):
        prepare.prepare(tmp_path / "stick", PROFILES["local"])
    own = replace(PROFILES["local"], name="local-chats-0123abcd")
    run_folder.rename(run_folder.with_name(own.name))
    with pytest.raises(Refused, match="local-chats-0123abcd is a run of your own data or model"):
        prepare.prepare(tmp_path / "stick", own)


def test_the_command_asks_for_a_class(monkeypatch):
    monkeypatch.setenv("SAWYER_PROFILE", "local")
    asked = []
    monkeypatch.setattr(prepare, "prepare", lambda to, for_class: asked.append((to, for_class)))
    main(["prepare", "--to", "x", "--class"])
    main(["prepare", "--to", "x"])
    assert asked == [("x", PROFILES["local"]), ("x", None)]
