"""The Hub when it is slow, gone, gated or changed: a clear message, in time, before anything trains.

The libraries' real exceptions, from a Hub on the loopback address (``hub_server.py``); nothing here needs
a network.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from sawyer_utils import data, runtime
from sawyer_utils.data import DataError
from sawyer_utils.plumbing import hub
from sawyer_utils.profiles import PROFILES, current_profile

ROOT = Path(__file__).parents[1]
SECRET = "hf_thisIsNoRealToken"


def alone(code: str, home: Path, *arguments, **environment):
    """Run code in a Python of its own, whose Hub libraries read this environment; what it prints as JSON."""
    hidden = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    clean = {k: v for k, v in os.environ.items() if k not in hidden and "proxy" not in k.lower()}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    clean |= {"HF_HOME": str(home), "PYTHONPATH": path, **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- login --------------------------------------------------------------------------------------

# The library decides by the shell's name whether this is Colab, and asks the vault itself.
VAULT = """
import builtins, contextlib, io, json, os, sys, types
how, optional = sys.argv[1], sys.argv[2] == "True"
builtins.get_ipython = lambda: "<google.colab._shell.Shell object>"
colab, errors, userdata = (types.ModuleType(f"google.colab{n}") for n in ("", ".errors", ".userdata"))
errors.Error = type("Error", (Exception,), {})
for name, base in (("NotebookAccessError", Exception), ("SecretNotFoundError", errors.Error),
                   ("TimeoutException", errors.Error)):
    setattr(userdata, name, type(name, (base,), {}))
asked = []
def get(key):
    asked.append(key)
    if hasattr(userdata, how):
        raise getattr(userdata, how)(f"no {key}")
    return how
userdata.get, colab.userdata = get, userdata
sys.modules |= {"google.colab": colab, "google.colab.errors": errors, "google.colab.userdata": userdata}
from sawyer_utils.plumbing import hub
import huggingface_hub
said = io.StringIO()
try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found = hub.hf_login(optional)
        tokens = {huggingface_hub.get_token() for _ in range(3)}  # as each download does
except hub.HubUnavailable as error:
    found, tokens = str(error), set()
print(json.dumps([found, said.getvalue(), asked, [*tokens], os.environ.get("HF_TOKEN")]))
"""


def log_in(home: Path, how: str = "SecretNotFoundError", optional: bool = True, **environment) -> list:
    return alone(VAULT, home, how, optional, **environment)


def test_a_token_of_the_environment_is_enough(tmp_path):
    assert log_in(tmp_path, "another", HF_TOKEN=SECRET) == [
        True,
        "Hub login  HF_TOKEN\n",
        [],
        [SECRET],
        SECRET,
    ]


def test_an_earlier_login_is_enough(tmp_path):
    (tmp_path / "token").write_text(SECRET)
    found, said, asked, tokens, _ = log_in(tmp_path, "another")
    assert (found, asked, tokens) == (True, [], [SECRET])
    assert "an earlier login" in said
    assert SECRET not in said


def test_a_secret_of_colab_is_used_and_neither_shown_nor_written(tmp_path):
    found, said, asked, tokens, variable = log_in(tmp_path, SECRET)
    assert (found, asked, tokens, variable) == (True, ["HF_TOKEN"], [SECRET], None)
    assert SECRET not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("NotebookAccessError", "Access to the secret `HF_TOKEN` has not been granted on this notebook."),
        ("SecretNotFoundError", "no HF_TOKEN, no login, no secret of Colab."),
        ("TimeoutException", "Error while fetching `HF_TOKEN` secret value from your vault"),
        (" ", "no HF_TOKEN, no login, no secret of Colab."),
    ],
    ids=["refused", "not there", "timed out", "empty"],
)
def test_without_a_secret_one_line_says_so_and_the_course_goes_on(tmp_path, how, why):
    found, said, asked, tokens, _ = log_in(tmp_path, how)
    assert not found
    assert said.startswith(f"Hub login  {why}")
    assert said.endswith("Going on without: public models and data need none\n")
    assert said.count("\n") == 1
    assert tokens == [None]
    assert asked == ["HF_TOKEN"], "a download would ask, and wait, once more"


def test_a_login_that_is_needed_says_how(tmp_path):
    said = log_in(tmp_path, optional=False)[0]
    assert "huggingface_hub.login()" in said
    assert "add a secret HF_TOKEN" in said


# --- the whole Hub, played ----------------------------------------------------------------------

SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Anthropic/hh-rlhf with its folders, of which the first is as long as it gets, and a TLS certificate."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "datasets/Anthropic/hh-rlhf"
    for subset in SUBSETS:
        (folder / subset).mkdir(parents=True)
        rows = [json.dumps(hh(i, f"{subset} ")) + "\n" for i in range(900)]
        for split in ("test", "train"):
            (folder / subset / f"{split}.jsonl.gz").write_bytes(gzip.compress("".join(rows).encode()))
    (folder / "red-team-attempts").mkdir()
    (folder / "red-team-attempts/red_team_attempts.jsonl.gz").write_bytes(gzip.compress(b'{"rating": 1}\n'))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    if openssl := shutil.which("openssl"):
        command = [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=proxy",
        ]
        command += [
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            root / "key",
            "-out",
            root / "certificate",
        ]
        subprocess.run(command, check=True, capture_output=True)
    return root


PLAYED = """
import json, os, sys, time
from pathlib import Path
from hub_server import HubServer
root, *troubles = sys.argv[1:]
tls = os.environ["PLAY"] == "https"
server = HubServer(Path(root), certificate=(f"{root}/certificate", f"{root}/key") if tls else None)
os.environ["HF_ENDPOINT"] = server.start()
time.sleep = lambda seconds: None  # between two tries
from sawyer_utils import data
from sawyer_utils.plumbing import hub
found = {}
def tell(name, call):
    start = time.time()
    try:
        said = call()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    found[name] = [said, time.time() - start]
for server.trouble in troubles:
    if server.trouble == "unreachable":
        server.shutdown()
        server.server_close()
    name = "Anthropic/hh-rlhf"
    tell(server.trouble + " Hub", hub.trouble)
    tell(server.trouble + " model", lambda: hub.check_access(["meta-llama/Llama-2-7b-hf"]))
    tell(server.trouble + " data", lambda: [r["prompt"].split()[1] for r in data.load_gold(name, 400)])
    if server.trouble != "stalled":
        tell(server.trouble + " checkpoint", lambda: hub.fetch_stage("someone/sawyer", "sft"))
print(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""


def play(root: Path, home: Path, *troubles: str, scheme: str = "http", **environment) -> dict[str, list]:
    """What is said, and after how many seconds, about the Hub, a model, data and a pushed run."""
    limits = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    return alone(PLAYED, home, root, *troubles, PLAY=scheme, **limits, **environment)


@pytest.fixture(scope="module")
def played(repositories, tmp_path_factory):
    troubles = ("none", "gated", "gone", "slow", "stalled", "unreachable")
    return play(repositories, tmp_path_factory.mktemp("hf"), *troubles)


LLAMA = "NousResearch/Llama-2-7b-hf"


@pytest.mark.parametrize(
    ("case", "problem", "remedy"),
    [
        ("gated model", "is gated", f'SAWYER_MODEL"] = "{LLAMA}"'),
        ("gated data", "is gated", "Accept its conditions at https://huggingface.co/datasets/Anthropic"),
        ("gated checkpoint", "is gated", "Accept its conditions at https://huggingface.co/someone/sawyer"),
        ("gone model", "does not exist on the Hub", "may have been renamed"),
        ("gone data", "does not exist on the Hub", "may have been renamed"),
        ("gone checkpoint", "does not exist on the Hub", "or is private"),
        ("slow model", "gave no answer in time", "HTTPS_PROXY"),
        ("slow data", "gave no answer in time", "HF_HUB_DOWNLOAD_TIMEOUT"),
        ("slow checkpoint", "gave no answer in time", "HTTPS_PROXY"),
        ("stalled data", "gave no answer in time", "HF_HUB_DOWNLOAD_TIMEOUT"),
        ("unreachable model", "is out of reach", "HTTPS_PROXY"),
        ("unreachable data", "is out of reach", "HTTPS_PROXY"),
        ("unreachable checkpoint", "is out of reach", "HTTPS_PROXY"),
    ],
)
def test_each_trouble_is_named_in_time_with_its_remedy(played, case, problem, remedy):
    said, seconds = played[case]
    assert said.startswith("HubUnavailable: "), said
    assert problem in said
    assert remedy in said
    assert 'SAWYER_PROFILE"] = ' in said, "there is always a way that needs no Hub"
    # Limits of 1 s, and six tries of a file: the libraries alone wait for ever, or try 120 times.
    assert seconds < (15 if case == "stalled data" else 5)


def test_the_setup_cell_says_whether_the_hub_answers(played):
    assert [played[f"{how} Hub"][0] for how in ("none", "gated", "gone", "stalled")] == [None] * 4
    assert "gave no answer in time" in played["slow Hub"][0]
    assert "is out of reach" in played["unreachable Hub"][0]


def test_all_subsets_are_streamed_and_not_only_their_first_rows(played, repositories, tmp_path):
    """One after the other, all rows would be of the first file."""
    subsets = Counter(played["none data"][0])
    assert subsets.keys() == set(SUBSETS)
    assert min(subsets.values()) > 70  # of 400; 100 each but for the draw
    assert play(repositories, tmp_path, "none")["none data"][0] == played["none data"][0]


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_proxy_that_opens_tls_is_told_from_a_network_that_is_down(repositories, tmp_path):
    found = play(repositories, tmp_path, "none", scheme="https")
    for what in ("Hub", "model", "data", "checkpoint"):
        said, seconds = found[f"none {what}"]
        assert "the certificate shown for https://127.0.0.1:" in said
        assert "self-signed certificate" in said or "self signed certificate" in said
        assert "set SSL_CERT_FILE and REQUESTS_CA_BUNDLE" in said
        assert "out of reach" not in said
        assert seconds < 5
    remedy = {"SSL_CERT_FILE": str(repositories / "certificate")}
    found = play(repositories, tmp_path / "again", "none", scheme="https", **remedy)
    assert found["none Hub"][0] is None
    assert len(found["none data"][0]) == 400


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ConnectError",
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer",
        ),
        (
            "SSLError",
            "HTTPSConnectionPool(host='x', port=443): (SSLCertVerificationError(1, '[SSL: "
            "CERTIFICATE_VERIFY_FAILED] certificate verify failed')",
        ),
        ("SSLCertVerificationError", "certificate has expired"),
        ("ClientConnectorCertificateError", "Cannot connect to host huggingface.co:443 ssl:True"),
        ("RuntimeError", "Data processing error: invalid peer certificate: UnknownIssuer"),
    ],
    ids=["httpx", "requests", "ssl", "aiohttp", "hf_xet"],
)
def test_each_librarys_word_for_a_certificate_is_known(name, text):
    outer = OSError("We could not connect to the Hub")
    outer.__cause__ = type(name, (ConnectionError,), {})(text)
    assert "SSL_CERT_FILE" in hub.explain("some/model", outer)


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


def test_a_token_without_access_is_told_from_no_token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: SECRET)  # wherever it comes from
    said = hub._gated("meta-llama/Llama-2-7b-hf")
    assert "your account has not been granted access" in said
    assert SECRET not in said


@pytest.fixture
def quiet_setup(monkeypatch):
    """``runtime.setup`` without what it does to the process."""
    from sawyer_utils import plots
    from sawyer_utils.plumbing import machine

    monkeypatch.setattr(machine, "quiet_libraries", lambda: None)
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
    monkeypatch.setattr(hub, "trouble", lambda: pytest.fail("asked"))
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


def test_offline_is_named():
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


def hh(i: int, subset: str = "") -> dict:
    start = f"\n\nHuman: {subset}Question {i}?\n\nAssistant: What do you mean?\n\nHuman: That.\n\nAssistant:"
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


def news(i: int) -> dict:
    return {"text": f"Question {i} was asked.", "prediction": [{"text": "Asked.", "score": 1.0}]}


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
            row["prompt"] == "Human: Question 0?\n\nAssistant: What do you mean?\n\nHuman: That."
            and [r["text"] for r in row["responses"]] == ["Good answer 0.", "Bad answer 0."]
        ),
    ),
    "databricks/databricks-dolly-15k": (
        lambda source, limit: data.load_prompts("train", source, limit),
        dolly,
        "instruction",
        lambda row: row["prompt"] in {"Question 0? Context 0.", "Question 1?", "Question 2? Context 2."},
    ),
    "argilla/news-summary": (
        lambda source, limit: data.load_news("train", source, limit),
        news,
        "text",
        lambda row: row["text"] in {f"Question {i} was asked." for i in range(3)},
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
    assert SOURCES.keys() == data.HUB_SOURCES.keys()
    serve(row(i) for i in range(40))
    assert first_is_right(load(name, 40)[0])
    assert len(load(name, 20)) == 20


def numbers(rows: list[dict]) -> list[int]:
    return [int(re.search(r"Question (\d+)", json.dumps(row))[1]) for row in rows]


def test_a_limit_takes_more_than_the_start_of_a_file(source):
    """Files may be ordered: a few rows of each hundred, and always the same ones."""
    name, load, row, *_, serve = source
    serve(row(i) for i in range(900))
    found = numbers(load(name, 150))
    assert len(found) == 150
    hundreds = Counter(number // 100 for number in found)
    # Of a long stream three times the limit is read; questions, and what is split here, are read whole.
    reach = 4 if load in (data.load_conversations, data.load_preferences, data.load_gold) else 9
    assert all(hundreds[hundred] >= 5 for hundred in range(reach))
    assert found == sorted(found) == numbers(load(name, 150))


def test_a_renamed_column_names_the_source_its_columns_and_a_way_out(source):
    name, load, row, column, _, serve = source
    serve({f"new_{k}" if k == column else k: v for k, v in row(i).items()} for i in range(3))
    with pytest.raises(DataError, match=f"{name}: none of 3 rows can be used .*'new_{column}'") as caught:
        load(name, 2)
    assert "The data set has changed." in str(caught.value)
    assert 'SAWYER_PROFILE"] = "local"' in str(caught.value)


# --- rows that cannot be used -------------------------------------------------------------------

GONE = object()


def places(value, path=()) -> list[tuple]:
    """The path of every value in a row, however deep."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in below for place in places(inner, (*path, key))]


def damaged(row: dict, path: tuple, value) -> dict:
    copy = json.loads(json.dumps(row))
    target = copy
    for key in path[:-1]:
        target = target[key]
    if value is GONE:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", SOURCES)
def test_one_row_damaged_anywhere_costs_that_row_at_most(name):
    """A null, a wrong type, an empty text or a missing key, at every place of a row."""
    schemas = {data.load_conversations: "conversations", data.load_preferences: "preferences"}
    schemas |= {data.load_gold: "gold_preferences"}
    schema = {"databricks/databricks-dolly-15k": "prompts", "argilla/news-summary": "news"}.get(name)
    schema = schema or schemas.get(SOURCES[name][0], "questions")
    make, needed, mapping = SOURCES[name][1], SOURCES[name][2], data.HUB_SOURCES[name][1]
    whole = [{**row, "id": ""} for row in data.map_rows(schema, [make(0), make(2)], mapping)]
    assert len(whole) == 2
    tried = 0
    for path in places(make(1)):
        for value in (None, 3, 2.5, True, "", " \n", [], [None], {}, {"a": 1}, GONE):
            rows = [make(0), damaged(make(1), path, value), make(2)]
            left_out = Counter()
            kept = list(data.map_rows(schema, rows, mapping, left_out))
            assert len(kept) + left_out.total() == 3, (path, value)
            found = [{**row, "id": ""} for row in kept]  # some ids are row numbers
            assert all(row in found for row in whole), (path, value)
            if path == (needed,) and value not in (3, 2.5):  # which may be a score or a label
                assert left_out.total() == 1, (path, value)
            if left_out:
                tried += 1
                with pytest.raises(DataError, match="none of 2 rows can be used"):
                    list(data.map_rows(schema, [rows[1]] * 2, mapping))
    assert tried >= 10


def test_what_was_left_out_is_said_in_one_line(source, capsys):
    name, load, row, column, _, serve = source
    serve(row(i) if i % 10 else damaged(row(i), (column,), None) for i in range(50))
    assert len(load(name, 50)) in range(30, 46)  # 45, and without those of the other split
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: 5 of 50 rows left out: 5 × ")
    assert said.count("\n") == 1
    serve(row(i) for i in range(5))
    load(name, 5)
    assert capsys.readouterr().out == ""


def test_an_unexpected_error_is_shown_with_its_words(monkeypatch):
    def fail(*_, **__):
        raise ValueError("Bad split: train. Available splits: ['all']")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(hub.HubUnavailable, match=r"ValueError: Bad split: train.*source may have changed"):
        data.load_prompts("train", "databricks/databricks-dolly-15k")
