"""The folder for a room without internet: made, cut off, damaged, set up from; with tiny wheels that
pip finds on this disk, and a Hub played by a local server."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import build_model, letter_tokenizer
from hub_server import HubServer

from sawyer_utils.__main__ import main
from sawyer_utils.course import offline_setup, prepare
from sawyer_utils.course.offline_setup import Refused
from sawyer_utils.course.prepare import NotPrepared
from sawyer_utils.plumbing import assets
from sawyer_utils.profiles import PROFILES, current_profile

ROOT = Path(__file__).parents[1]
LOCAL = PROFILES["local"]
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
    known = assets.Wheel("toy-model==1.0", weights.name, assets.sha256_of(weights), "toy_model/", "MIT")
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
    return prepare.prepare(tmp_path / "stick", LOCAL)


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
    prepare.prepare(made, LOCAL)
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
        main(["prepare", "--to", str(made), "--profile", "local"])
    with pytest.raises(Refused, match="is not finished: run `python -m sawyer_utils prepare"):
        offline_setup.set_up(made, tmp_path / "target")
    (tmp_path / "kept").rename(wheel)
    main(["prepare", "--to", str(made), "--profile", "local"])
    assert offline_setup.check(made)["variables"] == {"SAWYER_PROFILE": "local"}


def test_a_folder_with_other_files_is_left_alone(root, tmp_path):
    mine = make_wheel(tmp_path / "mine/wheels", "mine")
    with pytest.raises(NotPrepared, match=r"holds other files\. Take an empty or a new folder"):
        prepare.prepare(tmp_path / "mine", LOCAL)
    assert listing(tmp_path / "mine") == {f"wheels/{mine.name}"}


def test_the_variables_name_a_model_of_ones_own(monkeypatch):
    monkeypatch.setenv("SAWYER_MODEL", "NousResearch/Llama-2-7b-hf")
    chosen = prepare.variables(current_profile("llama2"))
    assert chosen == {"SAWYER_PROFILE": "llama2", "SAWYER_MODEL": "NousResearch/Llama-2-7b-hf"}


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
    refused("1 of the folder's files missing or damaged: folder.json")


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


# --- the Hub, played ----------------------------------------------------------------------------

FETCH = """
import os, sys
from dataclasses import replace
from pathlib import Path
from sawyer_utils.course import prepare
from sawyer_utils.profiles import PROFILES
models = {"policy_base": "toy/base", "reward_base": "toy/base", "encoder": "toy/base"}
sources = dict.fromkeys(("conversations", "preferences", "gold", "news"), "embedded")
sources |= {"prompts": os.environ.get("PROMPTS", "databricks/databricks-dolly-15k")}
profile = replace(PROFILES["colab"], benchmarks=("cais/mmlu:world_religions",), **models, **sources)
folder = Path(sys.argv[1])
prepare.save_hub(folder / "hub", profile)
prepare.write_sums(folder)
"""
USE = """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
from sawyer_utils.chapters import choices
from sawyer_utils import data
prompts = data.load_prompts("train", "databricks/databricks-dolly-15k", 20)
found = {
    "parameters": AutoModelForCausalLM.from_pretrained("toy/base").num_parameters() > 0,
    "words": len(AutoTokenizer.from_pretrained("toy/base")("a b c")["input_ids"]),
    "prompts": len({row["prompt"] for row in prompts}),
    "labels": [row["label"] for row in choices.load_questions("cais/mmlu:world_religions", 3)],
}
print(json.dumps(found))
"""
MODEL = "models/toy/base/model.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What the played Hub holds: a model with its other formats, and data sets in their own shapes."""
    root = tmp_path_factory.mktemp("hub")
    base, dolly = root / "models/toy/base", root / "datasets/databricks/databricks-dolly-15k"
    build_model(letter_tokenizer()).save_pretrained(base)
    letter_tokenizer().save_pretrained(base)
    for name in ("pytorch_model.bin", "onnx/model.onnx", "original/x.safetensors"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"not wanted")
    dolly.mkdir(parents=True)
    rows = [{"instruction": f"Question {i}?", "context": "", "response": f"Answer {i}."} for i in range(40)]
    (dolly / "databricks-dolly-15k.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for file in ("astronomy/test", "world_religions/dev", "world_religions/test"):
        path = root / f"datasets/cais/mmlu/{file}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"question": "Which?", "choices": list("abcd"), "answer": 2 if "test" in file else 0}
        pd.DataFrame([{**row, "subject": path.parent.name}] * 4).to_parquet(path)
    return root


@pytest.fixture(scope="module")
def play(hub):
    """``play(code, *arguments, **environment)`` runs code beside the played Hub."""
    hidden = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_HUB_CACHE"}
    clean = {k: v for k, v in os.environ.items() if k not in hidden and "proxy" not in k.lower()}

    def run(code: str, *arguments: str, **environment: str):
        everything = {**clean, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": server.url, **environment}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=everything, timeout=120)

    with HubServer(hub) as server:
        yield run


def test_the_course_reads_models_and_data_from_the_folder_offline(play, hub, tmp_path):
    folder, homes = tmp_path / "folder", [str(tmp_path / f"home{i}") for i in range(3)]
    done = play(FETCH, str(folder), HF_HOME=homes[0])
    assert done.returncode == 0, done.stdout + done.stderr
    served = set((hub / "served").read_text().split())
    assert {MODEL, "datasets/cais/mmlu/world_religions/test-00000-of-00001.parquet"} <= served
    assert not {n for n in served if "onnx" in n or "original" in n or n.endswith(".bin") or "astro" in n}
    assert not [path for path in folder.rglob("*") if path.is_symlink() or path.name in {"blobs", ".cache"}]

    copy = shutil.copytree(folder, tmp_path / "copy")
    offline = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(copy / "hub")}
    used = play(USE, HF_HOME=homes[1], **offline)
    assert used.returncode == 0, used.stderr
    found = json.loads(used.stdout.splitlines()[-1])
    assert found == {"parameters": True, "words": 3, "prompts": 20, "labels": [2, 2, 2]}  # of the test split

    before = sums(folder)
    for path in folder.rglob("*"):
        if path.name in {"model.safetensors", "config.json"}:
            flip(path)
    (hub / "served").unlink()
    again = play(FETCH, str(folder), HF_HOME=homes[2])
    assert again.returncode == 0, again.stderr
    assert sums(folder) == before
    served = (hub / "served").read_text()
    assert MODEL in served
    assert ".parquet" not in served, "large files that are whole stay"


def test_a_hub_that_does_not_give_a_data_set_or_answer_is_explained(play, hub, tmp_path):
    def last_words(**environment):
        return play(FETCH, str(tmp_path), HF_HOME=str(tmp_path), **environment).stderr.splitlines()[-1]

    assert "Unset HF_HUB_OFFLINE" in last_words(HF_HUB_OFFLINE="1")
    assert (
        "does not answer in time, or not at all; nor is a file or folder here called so. Check"
        in last_words(HF_ENDPOINT="http://127.0.0.1:1")
    )
    assert "none/here does not exist on the Hub" in last_words(PROMPTS="none/here")
