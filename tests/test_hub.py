"""The Hub when it is slow, gone, gated or changed: a clear message, in time, before anything trains.

The libraries' real exceptions, from a Hub on the loopback address (``hub_server.py``); nothing here needs
a network.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
from hub_server import environment
from test_hub_rows import hh

from sawyer_utils import data, runtime
from sawyer_utils.plumbing import hub

ROOT = Path(__file__).parents[1]
LLAMA = "meta-llama/Llama-2-7b-hf"
SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


# --- the whole Hub, played ----------------------------------------------------------------------


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
        command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=proxy -addext"
        command += " subjectAltName=IP:127.0.0.1 -keyout key -out certificate"
        subprocess.run(command.split(), cwd=root, check=True, capture_output=True)
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
    tell(server.trouble + " Hub", hub.ask)
    tell(server.trouble + " model", lambda: hub.check_access(["meta-llama/Llama-2-7b-hf"]))
    tell(server.trouble + " data", lambda: [r["prompt"].split()[1] for r in data.load_gold(name, 400)])
    if server.trouble != "stalled":
        tell(server.trouble + " checkpoint", lambda: hub.fetch_stage("someone/sawyer", "sft"))
print(json.dumps(found))
sys.stdout.flush()
os._exit(0)
"""


def play(root: Path, home: Path, *troubles: str, scheme: str = "http", **more) -> dict[str, list]:
    """What is said, and after how many seconds, about the Hub, a model, data and a pushed run: by a Python of
    its own, whose Hub libraries read this environment."""
    more |= {"HF_HOME": str(home), "PLAY": scheme, "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    command = [sys.executable, "-c", PLAYED, str(root), *troubles]
    options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 120}
    done = subprocess.run(command, env=environment(**more), **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def played(repositories, tmp_path_factory):
    troubles = ("none", "gated", "gone", "slow", "stalled", "unreachable")
    return play(repositories, tmp_path_factory.mktemp("hf"), *troubles)


GATED = ("is gated, and no Hub token was found", "Accept the licence at https://huggingface.co/")
GONE_AWAY = ("does not exist on the Hub (any more), or is private", "may have been renamed")
SLOW = ("does not answer in time", "HF_HUB_DOWNLOAD_TIMEOUT")
SAID = [
    (f"{trouble} {what}", *words)
    for trouble, words in (("gated", GATED), ("gone", GONE_AWAY), ("slow", SLOW), ("unreachable", SLOW))
    for what in ("model", "data", "checkpoint")
]


@pytest.mark.parametrize(("case", "problem", "remedy"), [*SAID, ("stalled data", *SLOW)])
def test_each_trouble_is_named_in_time_with_its_remedy(played, case, problem, remedy):
    said, seconds = played[case]
    assert said.startswith("HubUnavailable: "), said
    assert problem in said
    assert remedy in said
    assert 'SAWYER_PROFILE"] = ' in said, "there is always a way that needs no Hub"
    # Limits of 1 s, and six tries of a file: the libraries alone wait for ever, or try 120 times.
    assert seconds < (15 if case == "stalled data" else 5)


def test_a_gated_llama_has_three_ways_out(played, monkeypatch):
    said = played["gated model"][0]
    for way in (f"at https://huggingface.co/{LLAMA}. Log in", f'"NousResearch/{LLAMA[11:]}"', '= "local"'):
        assert way in said
    assert "/datasets/Anthropic/hh-rlhf" in played["gated data"][0]
    assert "SAWYER_MODEL" not in played["gated data"][0]
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_thisIsNoRealToken")
    said = hub.explain(LLAMA, type("GatedRepoError", (OSError,), {})("no"))
    assert "your account has not been granted access" in said
    assert "hf_thisIsNoRealToken" not in said + hub.token_state()
    assert hub.token_state() == "found"


def test_the_setup_cell_says_whether_the_hub_answers(played):
    assert [played[f"{how} Hub"][0] for how in ("none", "gated", "gone", "stalled")] == [None] * 4
    assert "does not answer" in played["slow Hub"][0]
    assert "does not answer" in played["unreachable Hub"][0]


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
        assert seconds < 5
    remedy = {"SSL_CERT_FILE": str(repositories / "certificate")}
    found = play(repositories, tmp_path / "again", "none", scheme="https", **remedy)
    assert found["none Hub"][0] is None
    assert len(found["none data"][0]) == 400


VERIFY = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get"
CERTIFICATES = {  # each library's word
    "ConnectError": VERIFY,  # httpx
    "SSLError": f"SSLCertVerificationError(1, '{VERIFY}",  # requests
    "SSLCertVerificationError": "certificate has expired",
    "ClientConnectorCertificateError": "Cannot connect to host huggingface.co:443 ssl:True",  # aiohttp
    "RuntimeError": "Data processing error: invalid peer certificate: UnknownIssuer",  # hf_xet
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_each_librarys_word_for_a_certificate_is_known(name):
    outer = OSError("We could not connect to the Hub")
    outer.__cause__ = type(name, (ConnectionError,), {})(CERTIFICATES[name])
    assert "SSL_CERT_FILE" in hub.explain("some/model", outer)
    while_handling = OSError("We could not connect to the Hub")
    while_handling.__context__ = outer.__cause__
    assert "SSL_CERT_FILE" in hub.explain("some/model", while_handling)


def test_setup_asks_for_access_first_and_an_embedded_profile_asks_nothing(monkeypatch, capsys):
    from sawyer_utils import plots
    from sawyer_utils.plumbing import machine

    asked = []
    monkeypatch.setattr(machine, "quiet_libraries", lambda: None)
    monkeypatch.setattr(plots, "use_style", lambda: None)
    monkeypatch.setattr(hub, "check_access", asked.append)
    monkeypatch.setenv("SAWYER_PROFILE", "llama2")
    runtime.setup()
    assert asked.pop() == (LLAMA, "FacebookAI/roberta-base")
    assert "Hub token  none; public models and data need none" in capsys.readouterr().out
    monkeypatch.setenv("SAWYER_PROFILE", "local")
    monkeypatch.setattr(hub, "offline", lambda: False)
    monkeypatch.setattr(hub, "ask", lambda: asked.append("the Hub"))
    runtime.setup()
    assert asked == []


def test_what_is_cached_is_not_asked_for_and_offline_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: pytest.fail("asked"))
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/some/config.json")
        hub.check_access([LLAMA])
    monkeypatch.undo()
    with monkeypatch.context() as patch:  # the Hub's cache also keeps that something was not there
        patch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: object())
        with pytest.raises(hub.HubUnavailable):
            hub.check_access([LLAMA])
    for load in (
        lambda: hub.check_access([LLAMA]),
        lambda: hub.fetch_stage("someone/sawyer", "sft"),
        lambda: data.load_prompts("train", "databricks/databricks-dolly-15k"),
    ):
        with pytest.raises(hub.HubUnavailable, match="is not cached, and HF_HUB_OFFLINE is set"):
            load()


def test_an_unexpected_error_is_shown_with_its_words():
    said = hub.explain("some/data", ValueError("Bad file: {train}. Available files: ['all']"), "dataset")
    assert "ValueError: Bad file: {train}. Available" in said
    assert "source may have changed" in said


ONCE = 'datasets.load_dataset("some/data", "configuration", split="…").to_json("mine.jsonl")'
REMEDIES = [
    (ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']"), ONCE),
    (ValueError("BuilderConfig 'x' not found. Available: ['a', 'b']"), ONCE),
    (ValueError("Bad split: train. Available splits: ['test']"), ONCE),
    (OSError(28, "No space left on device"), "Make room"),
    (PermissionError(13, "Permission denied"), "set HF_HOME to a folder of yours"),
    (OSError(30, "Read-only file system"), "set HF_HOME to a folder of yours"),
    (datasets.exceptions.DatasetNotFoundError("no"), "If it is private, log in"),
]


@pytest.mark.parametrize(("error", "remedy"), REMEDIES)
def test_each_trouble_with_data_has_its_own_remedy(error, remedy):
    assert remedy in hub.explain("some/data:x", error, "dataset")


@pytest.mark.parametrize("offline", [True, False])
def test_what_was_only_streamed_is_not_cached(monkeypatch, offline):
    monkeypatch.setattr(hub, "offline", lambda: offline)
    empty = datasets.data_files.EmptyDatasetError("The directory at\n/x doesn't contain any data files")
    assert ("Unset HF_HUB_OFFLINE" in hub.explain("some/data", empty, "dataset")) == offline


def test_no_row_of_the_longest_file_is_lost(monkeypatch):
    def rows(files):
        for name, count in files:
            yield from ({"row": f"{name}{i}"} for i in range(count))

    files = datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": [("a", 5), ("b", 2)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: files)
    monkeypatch.setattr(hub, "offline", lambda: False)
    monkeypatch.setattr(hub, "ask", lambda source: None)
    found = [row["row"] for row in hub.stream("owner/name", "train")]
    assert found[:4] == ["a0", "b0", "a1", "b1"]  # they take turns
    assert sorted(found) == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]
