"""The Hub when it is slow, gone, gated or changed: a clear message, in time, before anything trains.

One test plays the whole Hub with a local server, for the real libraries' real exceptions; nothing
here needs a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
import types
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from sawyer_utils import data, hub, runtime
from sawyer_utils.data import DataError
from sawyer_utils.profiles import PROFILES, current_profile

ROOT = Path(__file__).parents[1]
SECRET = "hf_thisIsNoRealToken"


# --- time limits --------------------------------------------------------------------------------


def test_a_function_gets_no_longer_than_its_time():
    assert hub.within(5, pow, 2, 3) == 8
    with pytest.raises(ZeroDivisionError):
        hub.within(5, lambda: 1 / 0)
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        hub.within(0.1, time.sleep, 5)
    assert time.perf_counter() - start < 2


# --- login --------------------------------------------------------------------------------------


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # so that a token set by the code under test goes, too
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    return tmp_path


@pytest.fixture
def vault(monkeypatch, no_token):
    """``vault(answer)``: Colab's secrets, whose ``get`` calls ``answer``."""

    def play(answer):
        colab, userdata = types.ModuleType("google.colab"), types.ModuleType("google.colab.userdata")
        for name in ("NotebookAccessError", "SecretNotFoundError", "TimeoutException"):
            setattr(userdata, name, type(name, (Exception,), {}))
        userdata.asked = []
        userdata.get = lambda key: userdata.asked.append(key) or answer(userdata)
        colab.userdata = userdata
        monkeypatch.setitem(sys.modules, "google.colab", colab)
        monkeypatch.setitem(sys.modules, "google.colab.userdata", userdata)
        return userdata

    return play


def raises(name: str):
    def answer(userdata):
        raise getattr(userdata, name, ValueError)(f"secret {SECRET}")

    return answer


def test_a_token_of_the_environment_is_enough(no_token, monkeypatch, capsys, vault):
    userdata = vault(lambda _: "another")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert hub.hf_login()
    assert userdata.asked == []
    said = capsys.readouterr().out
    assert said == "Hub login  token of the environment (HF_TOKEN)\n"


def test_an_earlier_login_is_enough(no_token, vault, capsys):
    (no_token / "token").write_text(SECRET)
    userdata = vault(lambda _: "another")
    assert hub.hf_login()
    assert userdata.asked == []
    assert SECRET not in capsys.readouterr().out


def test_a_secret_of_colab_goes_into_the_process_and_nowhere_else(no_token, vault, capsys):
    import os

    vault(lambda _: SECRET + "\n")
    assert hub.hf_login()
    assert os.environ["HF_TOKEN"] == SECRET
    assert SECRET not in "".join(capsys.readouterr())
    assert list(no_token.iterdir()) == [], "nothing may be written"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (raises("NotebookAccessError"), "this notebook has no access to Colab's secret HF_TOKEN"),
        (raises("SecretNotFoundError"), "no HF_TOKEN among Colab's secrets"),
        (raises("TimeoutException"), "Colab's secrets timed out"),
        (raises("SomethingNew"), "Colab's secrets: ValueError"),
        (lambda _: " ", "Colab's secret HF_TOKEN is empty"),
        (lambda _: time.sleep(5), "gave no answer within 0.1 s"),
    ],
    ids=["refused", "not there", "timed out", "something new", "empty", "no answer"],
)
def test_without_a_secret_one_line_says_so_and_the_course_goes_on(answer, why, vault, monkeypatch, capsys):
    from huggingface_hub.utils import _auth

    monkeypatch.setattr(hub, "VAULT_SECONDS", 0.1)
    monkeypatch.setattr(_auth, "_IS_GOOGLE_COLAB_CHECKED", False)
    vault(answer)
    start = time.perf_counter()
    assert not hub.hf_login(optional=True)
    assert time.perf_counter() - start < 2
    said = "".join(capsys.readouterr())
    assert why in said
    assert said.count("\n") == 1
    assert SECRET not in said
    assert _auth._IS_GOOGLE_COLAB_CHECKED, "the library would ask, and wait, once more"


def test_outside_colab_nobody_is_asked(no_token, capsys):
    assert not hub.hf_login()
    assert "no HF_TOKEN, no login; going on without" in capsys.readouterr().out


def test_a_login_that_is_needed_says_how(no_token):
    with pytest.raises(hub.HubUnavailable, match=r"huggingface_hub\.login\(\).*secret HF_TOKEN"):
        hub.hf_login(optional=False)


# --- the whole Hub, played ----------------------------------------------------------------------

PLAYED = """
import http.server, json, os, sys, threading, time
mode = "gated"
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if mode == "slow":
            time.sleep(20)
        codes = {"gated": (401, "GatedRepo"), "gone": (404, "RepoNotFound")}
        status, code = codes.get(mode, (500, ""))
        self.send_response(200 if self.path == "/" else status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_POST = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
from sawyer_utils import data, hub
hub.ANSWER_SECONDS = 1.5
found = {}
def tell(name, call):
    start = time.time()
    try:
        call()
        found[name] = ["no exception", 0]
    except Exception as error:
        found[name] = [f"{type(error).__name__}: {error}", time.time() - start]
for mode in ("gated", "gone", "slow", "unreachable"):
    if mode == "unreachable":
        server.shutdown()
        server.server_close()
    tell(mode + " model", lambda: hub.check_access(["meta-llama/Llama-2-7b-hf"]))
    tell(mode + " data", lambda: data.load_prompts("train", "databricks/databricks-dolly-15k"))
    tell(mode + " checkpoint", lambda: hub.fetch_stage("someone/sawyer", "sft"))
print(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What is said, and after how many seconds, when models and data are gated, gone, slow, away."""
    import os

    hidden = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden and "proxy" not in k.lower()}
    environment |= {"HF_HOME": str(tmp_path_factory.mktemp("hf")), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(PLAYED)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("case", "problem", "remedy"),
    [
        ("gated model", "is gated", 'SAWYER_MODEL"] = "NousResearch/Llama-2-7b-hf"'),
        ("gated data", "is gated", "Accept its conditions at https://huggingface.co/datasets/databricks"),
        ("gated checkpoint", "is gated", "Accept its conditions at https://huggingface.co/someone/sawyer"),
        ("gone checkpoint", "does not exist on the Hub", "or is private"),
        ("slow checkpoint", "gave no answer in time", "HTTPS_PROXY"),
        ("unreachable checkpoint", "is out of reach", "HTTPS_PROXY"),
        ("gone model", "does not exist on the Hub", "may have been renamed"),
        ("gone data", "does not exist on the Hub", "may have been renamed"),
        ("slow model", "gave no answer in time", "HTTPS_PROXY"),
        ("slow data", "gave no answer in time", "HTTPS_PROXY"),
        ("unreachable model", "is out of reach", "HTTPS_PROXY"),
        ("unreachable data", "is out of reach", "HTTPS_PROXY"),
    ],
)
def test_each_trouble_is_named_in_time_with_its_remedy(played, case, problem, remedy):
    said, seconds = played[case]
    assert said.startswith("HubUnavailable: "), said
    assert problem in said
    assert remedy in said
    assert 'SAWYER_PROFILE"] = ' in said, "there is always a way that needs no Hub"
    assert seconds < 10  # datasets alone would try for 23 s, huggingface_hub as long as it takes


# --- before anything downloads ------------------------------------------------------------------


def test_a_gated_llama_explains_three_ways_out(played):
    said = played["gated model"][0]
    assert "no Hub token was found. Nothing was downloaded." in said
    for way in (
        "1. Accept the licence at https://huggingface.co/meta-llama/Llama-2-7b-hf",
        '2. The ungated copy: os.environ["SAWYER_MODEL"] = "NousResearch/Llama-2-7b-hf"',
        "3. Another model:",
    ):
        assert way in said


@pytest.fixture
def quiet_setup(monkeypatch):
    """``runtime.setup`` without what it does to the process."""
    from sawyer_utils import plots

    monkeypatch.setattr(runtime, "quiet_libraries", lambda: None)
    monkeypatch.setattr(plots, "use_style", lambda: None)
    calls = []
    monkeypatch.setattr(hub, "hf_login", lambda optional: calls.append(("login", optional)))
    monkeypatch.setattr(hub, "check_access", lambda models: calls.append(("access", models)))
    return calls


def test_setup_asks_for_access_first(quiet_setup, monkeypatch):
    monkeypatch.setenv("SAWYER_PROFILE", "llama2")
    runtime.setup()
    models = ("meta-llama/Llama-2-7b-hf", "FacebookAI/roberta-base")
    assert quiet_setup == [("login", True), ("access", models)]


def test_an_embedded_profile_asks_the_hub_nothing(quiet_setup, monkeypatch):
    monkeypatch.setenv("SAWYER_PROFILE", "local")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "reachable", lambda: pytest.fail("asked"))
    runtime.setup()
    assert quiet_setup == []


def test_another_model_has_a_run_folder_of_its_own(monkeypatch):
    monkeypatch.setenv("SAWYER_MODEL", "NousResearch/Llama-2-7b-hf")
    profile = current_profile("llama2")
    assert profile.policy_base == "NousResearch/Llama-2-7b-hf"
    assert profile.name == "llama2-NousResearch-Llama-2-7b-hf"
    assert replace(profile, name="llama2", policy_base=PROFILES["llama2"].policy_base) == PROFILES["llama2"]
    monkeypatch.setenv("SAWYER_MODEL", PROFILES["llama2"].policy_base)
    assert current_profile("llama2") is PROFILES["llama2"]


def test_the_precision_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("SAWYER_PRECISION", "fp32")
    assert current_profile("colab") == replace(PROFILES["colab"], precision="fp32")


def test_what_is_cached_or_offline_is_not_asked_for(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "auth_check", lambda name: pytest.fail("asked"))
    hub.check_access(["meta-llama/Llama-2-7b-hf"])  # the tests are offline
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/some/config.json")
    hub.check_access(["meta-llama/Llama-2-7b-hf"])


def test_offline_is_named(no_token):
    with pytest.raises(hub.HubUnavailable, match="is not cached, and HF_HUB_OFFLINE is set"):
        data.load_prompts("train", "databricks/databricks-dolly-15k")


# --- each loader on a local file in its source's own shape --------------------------------------


def message(role: str, content: str) -> dict:
    return {"content": content, "role": role}


def guanaco(i: int) -> dict:
    return {"text": f"### Human: Question {i}?### Assistant: Answer {i}.### Human: And?### Assistant: So."}


def ultrafeedback(i: int) -> dict:
    asked, good, bad = message("user", f"Question {i}?"), f"Good answer {i}.", f"Bad answer {i}."
    return {
        "prompt": f"Question {i}?",
        "prompt_id": f"{i:064x}",
        "chosen": [asked, message("assistant", good)],
        "rejected": [asked, message("assistant", bad)],
        "messages": [asked, message("assistant", good)],
        "score_chosen": 8.0,
        "score_rejected": 4.5,
    }


def hh(i: int) -> dict:
    start = f"\n\nHuman: Question {i}?\n\nAssistant: What do you mean?\n\nHuman: That.\n\nAssistant:"
    return {"chosen": f"{start} Good answer {i}.", "rejected": f"{start} Bad answer {i}."}


def dolly(i: int) -> dict:
    return {
        "instruction": f"Question {i}?",
        "context": "" if i % 2 else f"Context {i}.",
        "response": f"Answer {i}.",
        "category": "open_qa",
    }


def truthfulqa(i: int) -> dict:
    return {
        "question": f"Question {i}?",
        "mc1_targets": {"choices": ["Right.", "Wrong."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Right.", "Right, too.", "Wrong."], "labels": [1, 1, 0]},
    }


def mmlu(i: int) -> dict:
    choices = [f"Choice {letter} of {i}" for letter in "ABCD"]
    return {"question": f"Question {i}?", "subject": "world_religions", "choices": choices, "answer": i % 4}


def load_mmlu(source: str, limit: int) -> list[dict]:
    return data.load_questions(source, limit, subject="world_religions")


CONFIGURATIONS = {"truthfulqa/truthful_qa": "multiple_choice", "cais/mmlu": "world_religions"}
SOURCES = {  # source -> (loader, a row, a column that the loader needs, what the first row becomes)
    "timdettmers/openassistant-guanaco": (
        data.load_conversations,
        guanaco,
        "text",
        lambda row: [m["content"] for m in row["messages"]] == ["Question 0?", "Answer 0.", "And?", "So."],
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        data.load_preferences,
        ultrafeedback,
        "score_chosen",
        lambda row: data.pairs([row])[0].margin == 3.5 and row["prompt"] == "Question 0?",
    ),
    "Anthropic/hh-rlhf": (
        data.load_gold,
        hh,
        "chosen",
        lambda row: (
            row["prompt"] == "Question 0?\nWhat do you mean?\nThat."
            and [r["text"] for r in row["responses"]] == ["Good answer 0.", "Bad answer 0."]
        ),
    ),
    "databricks/databricks-dolly-15k": (
        lambda source, limit: data.load_prompts("train", source, limit),
        dolly,
        "instruction",
        lambda row: row["prompt"] in {"Question 0? Context 0.", "Question 1?", "Question 2? Context 2."},
    ),
    "truthfulqa/truthful_qa": (
        lambda source, limit: data.load_questions(source, limit)[::2],
        truthfulqa,
        "mc1_targets",
        lambda row: row["task"] == "truthfulqa_mc1" and row["label"] == 0,
    ),
    "cais/mmlu": (
        load_mmlu,
        mmlu,
        "answer",
        lambda row: row["task"] == "mmlu_world_religions" and row["label"] == 0,
    ),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path, monkeypatch):
    """A source's (name, loader, row, column, check), and ``serve(rows)``: the file that it streams."""
    real, path = datasets.load_dataset, tmp_path / "rows.jsonl"

    def local(source, split, streaming, name=None):
        assert (source, split, streaming) == (request.param, data.HUB_SOURCES[source][0], True)
        assert name == CONFIGURATIONS.get(source)
        return real("json", data_files={split: str(path)}, split=split, streaming=True)

    def serve(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return request.param, *SOURCES[request.param], serve


def test_each_source_maps_from_a_file_in_its_own_shape(source):
    name, load, row, _, first_is_right, serve = source
    serve(row(i) for i in range(40))
    rows = load(name, 20)
    assert len(rows) == 20
    assert first_is_right(rows[0])


def test_a_renamed_column_names_the_source_the_column_and_a_way_out(source):
    name, load, row, column, _, serve = source
    serve({f"new_{k}" if k == column else k: v for k, v in row(i).items()} for i in range(3))
    with pytest.raises(DataError, match=f"{name}: row 0: the source has no column '{column}'") as caught:
        load(name, 2)
    assert "The data set has changed." in str(caught.value)
    assert 'SAWYER_PROFILE"] = "local"' in str(caught.value)


def test_a_stream_that_dries_up_is_given_up(source, monkeypatch):
    name, load, row, *_ = source

    def stall(*_, **__):
        yield row(0)
        time.sleep(20)

    monkeypatch.setattr(datasets, "load_dataset", stall)
    monkeypatch.setattr(hub, "ROW_SECONDS", 0.2)
    start = time.perf_counter()
    with pytest.raises(hub.HubUnavailable, match=f"{name} did not arrive: .* gave no answer in time"):
        load(name, 20)
    assert time.perf_counter() - start < 5


def test_an_unexpected_error_is_shown_with_its_words(monkeypatch):
    def fail(*_, **__):
        raise ValueError("Bad split: train. Available splits: ['all']")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(hub.HubUnavailable, match=r"ValueError: Bad split: train.*source may have changed"):
        data.load_prompts("train", "databricks/databricks-dolly-15k")
