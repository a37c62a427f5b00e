"""The rehearsal's own parts: its Hub against the libraries of this environment, its rows, its session."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
import sys
import textwrap
import types
import urllib.error
import urllib.request
from pathlib import Path

import colab_session
import hub_data
import hub_models
import on_second_device
import pytest
from hub_server import GRANTED, HubServer
from safetensors.torch import load_file

from sawyer_utils import profiles
from sawyer_utils.chapters import checkable, choices, summaries
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing import sources

# In a process of its own: huggingface_hub reads its address once, and the tests' is offline.
CLIENT = """
import json, sys
from datasets import load_dataset
from huggingface_hub import HfApi, auth_check, hf_hub_download, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

gated, copy, granted = sys.argv[1:]

def said(function, *args, **options):
    try:
        return function(*args, **options)
    except Exception as error:
        return type(error).__name__

def size(name, **options):
    model = AutoModelForCausalLM.from_pretrained(name, **options)
    return [type(model).__name__, sum(p.numel() for p in model.parameters()), str(model.dtype)]

def pieces(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    ids = tokenizer("Who was 1? \\u00e9")["input_ids"]
    return tokenizer.tokenize("Who was 1?"), tokenizer.decode(ids[1:])

def rows(path, split, **options):
    return list(load_dataset(path, streaming=True, split=split, **options))

found = {
    "copy": said(size, copy), "pieces": said(pieces, copy),
    "no token": said(size, gated, token=False), "another's": said(size, gated, token="hf_other"),
    "granted": said(size, gated, token=granted),
    "check": [said(auth_check, gated, token=token) for token in (False, "hf_other", granted)],
    "gone": [said(auth_check, "no/model"), said(size, "no/model"), said(rows, "no/data", "train")],
    "no file": said(hf_hub_download, copy, "nothing.json"),
    "revision": said(hf_hub_download, copy, "config.json", revision="other"),
    "card": HfApi().model_info(gated).gated,
    "tree": sorted(f.path for f in HfApi().list_repo_tree("Anthropic/hh-rlhf", repo_type="dataset")),
    "snapshot": snapshot_download(copy),
    "dolly": rows("databricks/databricks-dolly-15k", "train"),
    "subset": len(rows("Anthropic/hh-rlhf", "train", data_dir="helpful-base")),
    "all": len(rows("Anthropic/hh-rlhf", "train")),
    "truthful": rows("truthfulqa/truthful_qa", "validation", name="multiple_choice"),
    "dev": len(rows("cais/mmlu", "dev", name="world_religions")),
    "sums": [len(rows("openai/gsm8k", split, name="main")) for split in ("train", "test")],
    "sets": [len(rows(name, split)) for name, split in (
        ("timdettmers/openassistant-guanaco", "train"),
        ("HuggingFaceH4/ultrafeedback_binarized", "train_prefs"),
        ("argilla/news-summary", "train"))],
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hub")
    hub_models.write_llama2(path)
    hub_data.write_data(path)
    return path


@pytest.fixture(scope="module")
def hub(folder):
    with HubServer(folder, gated={hub_models.GATED}) as hub:
        yield hub


@pytest.fixture(scope="module")
def found(hub, tmp_path_factory) -> dict:
    """What the libraries answered."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), hub_models.GATED, hub_models.COPY, GRANTED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_model_of_two_files_arrives_whole(found, folder):
    kind, weights, number = found["copy"]
    stored = (folder / "models" / hub_models.COPY).glob("*.safetensors")
    assert (kind, number) == ("LlamaForCausalLM", "torch.float16")
    assert weights == sum(value.numel() for path in stored for value in load_file(path).values())
    for path in (folder / "models" / hub_models.COPY).iterdir():
        assert (Path(found["snapshot"]) / path.name).read_bytes() == path.read_bytes()


def test_its_tokenizer_is_llama2s(found):
    pieces, text = found["pieces"]
    assert pieces[0] == "▁Who"
    assert text == "Who was 1? é"


def test_a_gated_model_opens_with_the_right_token_alone(found):
    assert found["no token"] == found["another's"] == "OSError"
    assert found["granted"] == found["copy"]
    assert found["check"] == ["GatedRepoError", "GatedRepoError", None]
    assert found["card"] == "manual", "that it exists is no secret"


def test_what_is_not_there_is_told_apart(found):
    assert found["gone"] == ["RepositoryNotFoundError", "OSError", "DatasetNotFoundError"]
    assert found["no file"] == "RemoteEntryNotFoundError"
    assert found["revision"] == "RevisionNotFoundError"


def test_streamed_rows_are_the_written_ones(found):
    assert found["dolly"] == hub_data.dolly()
    assert found["truthful"] == hub_data.truthful()
    assert found["sets"] == [
        len(s) for s in (hub_data.guanaco()[0], hub_data.ultrafeedback()[:-40], hub_data.news())
    ]
    assert found["dev"] == 5
    assert found["sums"] == [80, len(hub_data.gsm8k()) - 80]


def test_a_configuration_and_a_folder_can_be_had_alone(found):
    parts = {name: len(some) for name, some in hub_data.hh_rlhf().items()}
    assert found["subset"] == parts["helpful-base"]
    assert found["all"] == sum(parts.values())
    assert set(parts) < set(found["tree"])


def test_the_libraries_asked_nothing_that_it_does_not_know(found, hub):
    assert hub.unknown == []


def get(address: str, **headers: str):
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.headers, answer.read()


@pytest.mark.parametrize(
    ("asked", "part"), [("0-3", slice(0, 4)), ("5-", slice(5, None)), ("-4", slice(-4, None))]
)
def test_a_range_of_a_large_file(hub, folder, asked, part):
    name = "truthfulqa/truthful_qa/resolve/main/multiple_choice/validation-00000-of-00001.parquet"
    whole = (folder / "datasets" / name.replace("resolve/main/", "")).read_bytes()
    status, headers, body = get(f"{hub.url}/datasets/{name}", Range=f"bytes={asked}")
    assert (status, body) == (206, whole[part])
    assert headers["ETag"] == f'"{hashlib.sha256(whole).hexdigest()}"'
    assert headers["Content-Range"].endswith(f"/{len(whole)}")


def test_a_range_past_the_end_is_refused(hub):
    with pytest.raises(urllib.error.HTTPError, match="416"):
        get(f"{hub.url}/{hub_models.COPY}/resolve/main/config.json", Range="bytes=99999-")


def test_a_token_has_no_business_at_the_storage(hub):
    address = f"{hub.storage}/storage/{next(iter(hub.stored), '0' * 64)}"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        get(address, Authorization=f"Bearer {GRANTED}")


def test_a_request_that_it_does_not_know_is_kept(folder):
    with HubServer(folder) as hub:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{hub.url}/api/something/new")
        assert hub.unknown == [("GET", "/api/something/new")]


# --- the rows -----------------------------------------------------------------------------------

SETS = {
    "timdettmers/openassistant-guanaco": (sources.CONVERSATIONS, lambda: hub_data.guanaco()[0]),
    "HuggingFaceH4/ultrafeedback_binarized": (sources.PREFERENCES, hub_data.ultrafeedback),
    "Anthropic/hh-rlhf": (
        sources.GOLD,
        lambda: [r for some in hub_data.hh_rlhf().values() for r in some],
    ),
    "databricks/databricks-dolly-15k": (sources.PROMPTS, hub_data.dolly),
    "argilla/news-summary": (summaries.NEWS, hub_data.news),
    "truthfulqa/truthful_qa": (choices.BENCHMARKS, hub_data.truthful),
    "cais/mmlu": (choices.BENCHMARKS, lambda: hub_data.mmlu()["test"]),
    "openai/gsm8k": (checkable.SOLVED, hub_data.gsm8k),
}


def test_every_set_that_the_course_knows_is_there():
    assert SETS.keys() == {name for schema, _ in SETS.values() for name in schema.hub}


@pytest.mark.parametrize("name", SETS)
def test_the_course_takes_the_good_rows_and_counts_the_others(name):
    schema, make = SETS[name]
    rows, told = make(), sources.Told()
    taken = list(sources.map_rows(schema, ((f"row {i}", row) for i, row in enumerate(rows)), told))
    left_out = told.left_out
    assert len(taken) + left_out.total() == len(rows)
    assert len(taken) > 0.8 * len(rows)
    assert bool(left_out) == (schema is not choices.BENCHMARKS), "the odd rows are not in it"


# --- the session --------------------------------------------------------------------------------

REPORT = """
collected 3 items
=================================== FAILURES ===================================
\x1b[31m_________________________ 01_sft.ipynb::Cell 0 _________________________\x1b[0m
Notebook cell execution failed
RestartNeeded: RESTART NEEDED, once: this session
still holds pyarrow 18.1.0
_________________________ 01_sft.ipynb::Cell 1 _________________________
NameError: name 'profile' is not defined
=========================== short test summary info ============================
========================= 2 failed, 1 passed in 1.0s =========================
"""


def test_of_a_failed_run_the_first_cell_is_shown():
    shown = colab_session.first_failure(REPORT)
    assert "RESTART NEEDED" in shown
    assert "NameError" not in shown
    assert colab_session.first_failure("pytest: error: no such option").startswith("pytest: error")


@pytest.mark.parametrize(
    ("code", "stops", "fine"),
    [
        (0, "", True),
        (1, "", False),
        (1, "RESTART NEEDED, once: this session still holds", True),
        (0, "RESTART NEEDED", False),  # it should have stopped, and did not
        (1, "Google Drive was not mounted", False),  # it stopped for another reason
        (2, "RESTART NEEDED", False),  # pytest itself was stopped
    ],
)
def test_a_run_is_judged_by_where_it_stops(code, stops, fine):
    assert (colab_session._problem(code, REPORT if code else "3 passed", stops) == "") is fine


def test_a_clone_of_the_courses_address_is_the_working_tree(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    (tree / "build").mkdir(parents=True)
    (tree / ".gitignore").write_text("build/\n")
    (tree / "written.py").write_text("not committed anywhere\n")
    (tree / "build" / "large").write_text("ignored\n")
    monkeypatch.setattr(colab_session, "ROOT", tree)
    monkeypatch.setattr(colab_session, "BUILD", tree / "build")
    way = colab_session.publish("someone/course", "v1")
    clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", "v1", "https://github.com/someone/course"]
    subprocess.run([*clone, str(tmp_path / "clone")], check=True, env=os.environ | way)
    assert {path.name for path in (tmp_path / "clone").iterdir()} == {".git", ".gitignore", "written.py"}


def test_a_course_that_no_rehearsal_cloned_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(colab_session, "CONTENT", tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "sawyer-main")], check=True)
    with pytest.raises(colab_session.NotPlayed, match="no rehearsal made it"):
        colab_session.Session("", "someone/course", "main")._claim_content()
    assert (tmp_path / "sawyer-main").is_dir()


def test_what_a_killed_rehearsal_leaves_is_in_nobodys_way(tmp_path, monkeypatch, capsys):
    """Its kernel may go on writing into the course's folder after that was deleted."""
    monkeypatch.setattr(colab_session, "CONTENT", tmp_path)
    (tmp_path / "sawyer-main" / "runs").mkdir(parents=True)
    (tmp_path / "sawyer-main" / "runs" / "log.json").write_text("[1]")
    colab_session.Session("", "someone/course", "main")._claim_content()
    assert not (tmp_path / "sawyer-main").exists()
    (moved,) = tmp_path.rglob("log.json")
    assert moved.read_text() == "[1]"  # whose it is, nobody knows: it is kept
    assert str(moved.parents[2]) in capsys.readouterr().out


def test_a_content_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(colab_session, "CONTENT", tmp_path / "file" / "content")
    with pytest.raises(colab_session.NotPlayed, match="this user cannot write there"):
        colab_session.Session("", "someone/course", "main")._claim_content()


def test_the_kernel_is_colabs_to_the_libraries(tmp_path):
    """huggingface_hub asks Colab's secrets only if the shell's name says that it is Colab's."""
    code = "from google.colab import _kernel, userdata; print(_kernel.Kernel.shell_class.klass)\n"
    code += (
        "try:\n    print(userdata.get('HF_TOKEN'))\nexcept userdata.SecretNotFoundError as e:\n    print(e)"
    )
    kernel = str(Path(colab_session.__file__).with_name("kernel"))
    said = {}
    for answer in ("hf_mine", "SecretNotFoundError"):
        own = os.environ | {"PYTHONPATH": kernel, "REHEARSAL_SECRET": answer}
        said[answer] = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own)
    assert "google.colab._shell.Shell" in said["hf_mine"].stdout
    assert said["hf_mine"].stdout.endswith("hf_mine\n")
    assert said["SecretNotFoundError"].stdout.endswith("refused.\n")


def test_the_rehearsal_cuts_steps_and_nothing_that_decides_what_fits(monkeypatch):
    monkeypatch.delenv("SAWYER_REHEARSAL", raising=False)
    whole = profiles.current_profile("colab")
    monkeypatch.setenv("SAWYER_REHEARSAL", "1")
    cut = profiles.current_profile("colab")
    assert (cut.ppo_steps, cut.sft_max_steps, cut.limit) == (2, 2, 48)
    same = (
        "name",
        "policy_base",
        "preferences",
        "prompt_tokens",
        "conversation_tokens",
        "reward_pair_tokens",
    )
    assert all(getattr(cut, name) == getattr(whole, name) for name in same)


class Told:
    """A session that only notes what it is told to run."""

    def __init__(self):
        self.runs: list[dict] = []

    def run(self, name, **options):
        self.runs.append({"name": name, **options})


def test_every_notebook_is_rehearsed_on_the_pretended_t4():
    rehearsal = runpy.run_path(str(Path(colab_session.__file__).with_name("__main__.py")))
    for chain, names in (("colab_chain", course.FOLDERS), ("llama2_chain", course.NOTEBOOKS)):
        told = Told()
        list(rehearsal[chain](told))
        whole = [run for run in told.runs if not run.get("setup_only")]
        assert {run["name"] for run in whole} == set(names)
        assert {run["SAWYER_SECOND_DEVICE"] for run in whole} == {"fp16"}
        if chain == "colab_chain":  # a class's edition: the code that a student has before the first answer
            made = [run["edition"](run["name"]) for run in whole]
            assert not [cell for one in made for cell in one.cells if "solution" in course.tags(cell)]
            assert all("[![Open in Colab]" in one.cells[0].source for one in made)


def test_a_kernel_on_the_second_device_is_still_colabs(tmp_path, monkeypatch):
    given = tmp_path / "profile_default"
    given.mkdir()
    (given / "ipython_kernel_config.py").write_text("c = get_config()")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("SAWYER_SECOND_DEVICE", "fp16")
    on_second_device.pytest_configure(types.SimpleNamespace())
    made = Path(os.environ["IPYTHONDIR"]) / "profile_default"
    assert made != given
    assert (made / "ipython_kernel_config.py").read_text() == "c = get_config()"
    (startup,) = (made / "startup").iterdir()
    assert "_device.stay('fp16')" in startup.read_text()
    assert [path.name for path in given.iterdir()] == ["ipython_kernel_config.py"]
