"""Profiles, precision, run folders and safe writing."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import types
from dataclasses import FrozenInstanceError
from pathlib import Path, PureWindowsPath

import pytest
import torch

from sawyer_utils import runtime
from sawyer_utils.plumbing import files, machine, memory
from sawyer_utils.profiles import PROFILES, current_profile

ROOT = Path(__file__).parents[1]
LOCAL = PROFILES["local"]


def python(code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter from the repository's root."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Run folders in a temporary place, and none of the developer's own settings."""
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("SAWYER_PROFILE", raising=False)
    return tmp_path / "runs"


# --- profiles -----------------------------------------------------------------------------------


def test_the_profile_is_the_environments_or_the_named_one(monkeypatch):
    assert current_profile().name == "local"  # what fits any machine
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    assert current_profile() is PROFILES["smoke"]
    assert current_profile("llama2") is PROFILES["llama2"]
    assert all(name == profile.name for name, profile in PROFILES.items())


def test_an_unknown_profile_lists_the_known(monkeypatch):
    monkeypatch.setenv("SAWYER_PROFILE", "huge")
    with pytest.raises(ValueError, match=r"'huge' \(SAWYER_PROFILE\).*local, smoke, colab, llama2"):
        current_profile()


def fake_gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    # What it says on a T4, too: bf16 is emulated there, and slow.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)


def fake_cpu(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def play_colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))


def test_colab_takes_its_profile_only_with_a_gpu(monkeypatch):
    play_colab(monkeypatch)
    fake_cpu(monkeypatch)
    assert current_profile().name == "local"
    fake_gpu(monkeypatch, (7, 5))
    assert current_profile().name == "colab"
    with pytest.raises(FrozenInstanceError):
        LOCAL.ppo_steps = 1


# --- precision ----------------------------------------------------------------------------------

CAPABILITIES = [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
INSTRUCTIONS = [({}, "float32"), ({"avx512_bf16": False, "amx_bf16": False}, "float32")]
INSTRUCTIONS += [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")]


@pytest.mark.parametrize(("capability", "dtype"), CAPABILITIES)
def test_the_compute_capability_decides_on_a_gpu(monkeypatch, capability, dtype):
    fake_gpu(monkeypatch, capability)
    found = runtime.choose_precision()
    assert (found.device, found.weights, found.compute) == ("cuda", *[getattr(torch, dtype)] * 2)
    assert (found.four_bit, found.autocast) == (False, True)
    assert "compute capability {}.{}".format(*capability) in found.reason
    four_bit = runtime.choose_precision("nf4")
    assert (four_bit.four_bit, four_bit.compute) == (True, getattr(torch, dtype))


@pytest.mark.parametrize(("capabilities", "dtype"), INSTRUCTIONS)
def test_a_cpu_takes_bf16_only_with_the_instructions_for_it(monkeypatch, capabilities, dtype):
    fake_cpu(monkeypatch, **capabilities)
    found = runtime.choose_precision()
    assert (found.device, found.compute) == ("cpu", getattr(torch, dtype))
    assert found.autocast == (dtype != "float32")


def test_an_older_torch_and_an_apple_gpu_stay_with_fp32(monkeypatch):
    fake_cpu(monkeypatch)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert runtime.choose_precision().compute == torch.float32
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = runtime.choose_precision()
    assert (found.device, found.compute) == ("mps", torch.float32)


def test_what_is_asked_for_is_taken(monkeypatch):
    fake_gpu(monkeypatch, (7, 5))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        found = runtime.choose_precision(name)
        assert (found.weights, found.compute, found.reason) == (dtype, dtype, f"asked for {name}")
    with pytest.raises(ValueError, match=r"'int8': auto, fp32, bf16, fp16 or nf4"):
        runtime.choose_precision("int8")


def test_a_seed_repeats_all_three_generators():
    import numpy as np

    def draw():
        runtime.seed_everything(7)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw() == draw()
    drawn = []
    for _ in range(2):  # each notebook's first cell does it
        runtime.setup()
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1]


# --- run folders --------------------------------------------------------------------------------


def test_runs_go_where_the_environment_says(home, monkeypatch):
    assert runtime.run_dir(LOCAL, "sft") == home / "local" / "sft"
    assert list((home / "local" / "sft").iterdir()) == []  # trying to write leaves nothing
    monkeypatch.delenv("SAWYER_HOME")
    assert runtime.home() == ROOT / "runs"


def test_a_home_that_cannot_be_written_names_the_remedy(home, monkeypatch):
    home.write_text("in the way")
    with pytest.raises(PermissionError, match="Set SAWYER_HOME to a folder you own"):
        runtime.run_dir(LOCAL, "sft")
    home.unlink()

    def refuse(*_, **__):  # root may write anywhere, so the refusal is played
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=rf"{home}/local/sft \(Permission denied\).*SAWYER_HOME"):
        runtime.run_dir(LOCAL, "sft")


NOTEBOOKS = {"sft": "01_sft", "reward": "02_reward", "ppo": "03_ppo", "gold": "04_eval"}


@pytest.mark.parametrize("stage", NOTEBOOKS)
def test_a_missing_stage_names_its_notebook(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    said = rf"weights\.safetensors.*Run notebooks/{NOTEBOOKS[stage]}\.ipynb first"
    with pytest.raises(runtime.StageMissing, match=said):
        runtime.find_stage(LOCAL, stage, "weights.safetensors")


def filled(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").touch()
    return folder


def test_a_stage_is_of_the_own_run_then_of_a_named_folder_then_the_shipped_one(
    tmp_path, home, monkeypatch, capsys
):
    def found(profile=LOCAL) -> tuple:
        return runtime.find_stage(profile, "sft", "weights"), capsys.readouterr().out

    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    shipped, given = (filled(tmp_path / name / "sft") for name in ("checkpoints/local", "given"))
    its = "sft    from the checkpoint that comes with the course\n"
    # A folder of a run that was cut before it saved anything is no result.
    own = runtime.run_dir(LOCAL, "sft")
    assert found() == (shipped, its)
    # It is for its base alone.
    assert found(PROFILES["smoke"]) == (shipped, its)
    with pytest.raises(runtime.StageMissing, match="nor shipped for the colab profile"):
        found(PROFILES["colab"])
    monkeypatch.setenv("SAWYER_CHECKPOINTS", str(given.parent))
    for profile in (LOCAL, PROFILES["colab"]):
        assert found(profile) == (given, "sft    from the folder in SAWYER_CHECKPOINTS\n")
    assert found()[0] == given
    assert (filled(own), "sft    from your local run\n") == found()
    # What it lacks is taken from the next.
    for folder in (own, given):
        (folder / "weights").unlink()
    assert found() == (shipped, its)


def test_the_hub_is_asked_only_if_nothing_is_here(tmp_path, home, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "project_root", lambda: tmp_path)
    asked, cache = [], filled(tmp_path / "cache" / "ppo")

    def download(repo, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(cache.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("sawyer_utils.plumbing.hub.offline", lambda: True)
    monkeypatch.setenv("SAWYER_CHECKPOINTS", "someone/sawyer-llama2")
    assert runtime.find_stage(PROFILES["llama2"], "ppo", "weights") == cache
    assert capsys.readouterr().out == "ppo    from someone/sawyer-llama2 on the Hub\n"
    # Safetensors and JSON of this stage; no pickle, no code.
    assert asked == [("someone/sawyer-llama2", ["ppo/*/*.safetensors", "ppo/*/*.json"])]
    own = filled(home / "llama2" / "ppo")
    assert runtime.find_stage(PROFILES["llama2"], "ppo", "weights") == own
    assert len(asked) == 1


def test_a_run_on_drive_is_called_that(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(files, "DRIVE", tmp_path / "content" / "drive")
    monkeypatch.setattr("os.path.ismount", lambda path: path == files.DRIVE)
    monkeypatch.setenv("SAWYER_HOME", "drive")
    assert runtime.home() == tmp_path / "content" / "drive" / "MyDrive" / "sawyer"
    own = filled(runtime.home() / "local" / "sft")
    assert runtime.find_stage(LOCAL, "sft", "weights") == own
    assert capsys.readouterr().out == "sft    from your run on Google Drive\n"


# --- safe writing -------------------------------------------------------------------------------


def test_of_several_processes_one_writes(tmp_path, monkeypatch):
    for rank, written in (("1", None), ("0", {"rank": "0"}), ("1", {"rank": "0"})):
        monkeypatch.setenv("RANK", rank)
        runtime.write_json(tmp_path / "numbers.json", {"rank": rank})
        found = {path.name: runtime.read_json(path) for path in tmp_path.iterdir()}
        assert found == ({"numbers.json": written} if written else {})


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_what_is_written_can_be_read_by_whom_the_user_lets_read(tmp_path, folder):
    with files.replacing(tmp_path / "result") as temporary:
        write(temporary, "text", folder)
        (temporary / "inside" if folder else temporary).chmod(0o600)  # as safetensors writes it
    found = tmp_path / "result" / "inside" if folder else tmp_path / "result"
    assert found.stat().st_mode & 0o777 == 0o666 & ~files.UMASK


def write(path: Path, text: str, folder: bool) -> None:
    if folder:
        path.mkdir()
    (path / "inside" if folder else path).write_text(text)


WRITE_AND_DIE = """
import os, signal
from pathlib import Path
from sawyer_utils.plumbing.files import replacing
with replacing(Path({path!r})) as temporary:
    if {folder}:
        temporary.mkdir()
    (temporary / "inside" if {folder} else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("trouble", ["interrupted", "no space", "killed", ""])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_what_is_written_is_there_whole_or_not_at_all(tmp_path, monkeypatch, folder, trouble):
    path, rename = tmp_path / "result", os.replace
    for text in ("old", "older"):  # over nothing, and over something
        with files.replacing(path) as temporary:
            write(temporary, text, folder)

    def fail_on_the_new(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    def write_half(interrupted):
        with files.replacing(path) as temporary:
            write(temporary, "half", folder)
            if interrupted:
                raise KeyboardInterrupt  # "Interrupt kernel" is no Exception

    if trouble == "killed":
        assert python(WRITE_AND_DIE.format(path=str(path), folder=folder)).returncode == -signal.SIGKILL
    elif trouble:
        monkeypatch.setattr(os, "replace", fail_on_the_new if trouble == "no space" else rename)
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_half(trouble == "interrupted")
        monkeypatch.setattr(os, "replace", rename)
    assert (path / "inside" if folder else path).read_text() == "older"
    assert os.listdir(tmp_path) == ["result"] or trouble == "killed"
    # What a dead process left beside it disturbs nobody.
    with files.replacing(path) as temporary:
        write(temporary, "new", folder)
    assert (path / "inside" if folder else path).read_text() == "new"


def test_a_file_never_takes_a_folders_place(tmp_path):
    write(tmp_path / "result", "mine", folder=True)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        runtime.write_json(tmp_path / "result", 1)
    assert (tmp_path / "result" / "inside").read_text() == "mine"
    assert os.listdir(tmp_path) == ["result"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_no_result(tmp_path, value):
    path = tmp_path / "metrics.json"
    runtime.write_json(path, {"reward": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        runtime.write_json(path, {"reward": value})
    assert runtime.read_json(path) == {"reward": 1.5}
    assert os.listdir(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("content", [b"", b'{"reward": 1.', b"\xff\xfe"], ids=["empty", "cut", "no text"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged") as caught:
        runtime.read_json(path)
    assert str(path) in str(caught.value)


def test_records_are_merged(home):
    runtime.record(LOCAL, "sft", loss=2.5, seconds=10)
    runtime.record(LOCAL, "sft", loss=1.5, name="Grüße")
    path = home / "local" / "sft" / "metrics.json"
    assert runtime.read_json(path) == {"loss": 1.5, "seconds": 10, "name": "Grüße"}
    assert json.loads(path.read_text(encoding="utf-8"))["loss"] == 1.5


def test_a_number_that_is_none_is_left_out_of_a_record_and_named(home, capsys):
    runtime.record(LOCAL, "sft", loss=2.5, seconds=10)
    runs = [{"kl": math.nan, "seed": 1}, {"kl": 0.5, "seed": 2}]
    runtime.record(LOCAL, "sft", loss=math.inf, runs=runs, curve=(0.5, -math.inf, 0.25), name="nan")
    kept = {"seconds": 10, "runs": [{"seed": 1}, {"kl": 0.5, "seed": 2}], "curve": [0.5, None, 0.25]}
    assert runtime.read_json(home / "local" / "sft" / "metrics.json") == {**kept, "name": "nan"}
    said = "sft: not recorded, for it is not finite: loss, runs.0.kl, curve.1\n"
    assert capsys.readouterr().out == said
    runtime.record(LOCAL, "sft", loss=1.5)
    assert not capsys.readouterr().out


# --- what a first cell needs --------------------------------------------------------------------


WITHOUT_TORCH = ("profiles", "runtime", "data", "chat", "plumbing.assets", "plumbing.colab", "plumbing.hub")
LIGHT = [(f"sawyer_utils.{module}", "torch") for module in WITHOUT_TORCH]


@pytest.mark.parametrize(("module", "not_needed"), [*LIGHT, ("sawyer_utils.losses", "transformers")])
def test_light_modules_import_nothing_heavy(module, not_needed):
    done = python(f"import {module}, sys; print({not_needed!r} in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_of_several_processes_one_speaks(monkeypatch, rank, speaks):
    before = sys.stdout
    monkeypatch.setattr(sys, "stdout", before)
    monkeypatch.setattr("accelerate.PartialState", lambda **_: None)
    monkeypatch.setenv("RANK", rank)
    machine.join_processes()
    assert (sys.stdout is before) == speaks


def first_screen(profile) -> str:
    return machine.report(profile, runtime.choose_precision(profile.precision))


def test_the_report_of_a_laptop_names_device_and_versions(monkeypatch):
    fake_cpu(monkeypatch)
    disk = types.SimpleNamespace(total=100 * 2**30, used=98 * 2**30, free=2 * 2**30)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: disk)
    report = first_screen(LOCAL)
    assert "disk       2 GiB free for runs" in report
    for line in ("profile    local", "device     cpu", "precision  float32 (CPU without bf16 instructions)"):
        assert line in report
    for library in ("torch", "transformers", "trl", "peft"):
        assert library in report
    assert "NO GPU" not in report


def test_a_home_on_a_missing_drive_is_said(monkeypatch):
    fake_cpu(monkeypatch)
    monkeypatch.setattr(
        machine, "home", lambda: PureWindowsPath("Z:/runs")
    )  # that exists, as no path does here
    monkeypatch.setattr(PureWindowsPath, "exists", lambda self: False, raising=False)
    monkeypatch.setattr(PureWindowsPath, "absolute", lambda self: self, raising=False)
    assert "disk       SAWYER_HOME is Z:\\runs, on a drive that is not there" in first_screen(LOCAL)


EMULATED = "float16 (compute capability 7.5, where bf16 is only emulated)"
CARDS = [
    ("Tesla T4", (7, 5), EMULATED, "NF4, float16"),
    ("NVIDIA A100-SXM4-40GB", (8, 0), "bfloat16 (compute capability 8.0)", "NF4, bfloat16"),
]


@pytest.mark.parametrize(("name", "capability", "precision", "four_bit"), CARDS)
def test_one_screen_about_a_colab_with_a_gpu(monkeypatch, name, capability, precision, four_bit):
    play_colab(monkeypatch)
    fake_gpu(monkeypatch, capability)
    card = types.SimpleNamespace(name=name, total_memory=14.75 * 1024**3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: card)
    report = first_screen(current_profile())
    assert "NO GPU" not in report
    for line in (
        "profile    colab (HuggingFaceTB/SmolLM2-1.7B)",
        f"device     {name}, 14.8 GiB, compute capability {capability[0]}.{capability[1]}, ",
        f"precision  {precision}; adapters and heads in float32; attention sdpa",
        "GiB free for runs",
        "network    offline (HF_HUB_OFFLINE is set)",
        "minutes    not measured for this profile",
    ):
        assert line in report
    assert four_bit in first_screen(PROFILES["llama2"])
    assert len(report.splitlines()) < 10
    assert str(ROOT) not in report, "the committed notebooks show no path of this machine"


def test_a_colab_without_a_gpu_says_so_first_and_runs_local(monkeypatch):
    play_colab(monkeypatch)
    fake_cpu(monkeypatch)
    report = first_screen(current_profile())
    assert report.splitlines()[1].startswith("NO GPU in this session. The small profile `local` runs")
    assert "Runtime > Change runtime type > T4 GPU" in report
    assert "profile    local" in report
    asked_for = first_screen(PROFILES["colab"])
    assert "SAWYER_PROFILE asks for `colab`: on a CPU that takes days." in asked_for


def test_minutes_are_those_that_were_measured_and_nobody_elses(monkeypatch):
    saved = {"minutes": {"01_sft": 5.31, "02_reward": 6.5}, "machine": {"device": "cpu", "cpu_cores": 2}}
    monkeypatch.setattr(machine, "read_json", lambda _: saved)
    took = "01_sft 5, 02_reward 6"  # 6.5 rounds to even
    assert machine.expected_minutes(LOCAL) == f"{took} (measured: cpu with 2 cores)"
    monkeypatch.undo()
    committed = runtime.read_json(runtime.project_root() / "results" / "local.json")
    assert f"01_sft {committed['minutes']['01_sft']:.0f}" in machine.expected_minutes(LOCAL)
    assert machine.expected_minutes(PROFILES["colab"]) == "not measured for this profile"


TROUBLES = [(None, "https://mirror answers")]
TROUBLES += [("It is away.", "OFFLINE, only what is cached can be loaded. It is away.")]


@pytest.mark.parametrize(("trouble", "line"), TROUBLES)
def test_the_network_is_tried_where_it_is_needed(monkeypatch, trouble, line):
    from sawyer_utils.plumbing import hub

    fake_cpu(monkeypatch)

    def ask():
        if trouble:
            raise hub.HubUnavailable(trouble)

    monkeypatch.setattr(hub, "offline", lambda: False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "https://mirror")
    monkeypatch.setattr(hub, "ask", ask)
    assert f"network    {line}" in first_screen(PROFILES["colab"])
    assert "network    not needed: models and data are embedded" in first_screen(LOCAL)


def test_memory_and_time_are_measured():
    peak = memory.peak_memory_gib()
    assert 0.05 < peak < 1000  # GiB, neither bytes nor MiB
    assert peak.entry == {"peak_memory_gib": peak}
    seconds = {}
    with runtime.stopwatch(seconds, "nothing"):
        pass
    assert 0 <= seconds["nothing"] < 1


def test_on_windows_the_peak_is_the_peak(monkeypatch):
    used = types.SimpleNamespace(peak_wset=3 * 2**30, rss=2**30)
    process = types.SimpleNamespace(memory_info=lambda: used)
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda: process))
    monkeypatch.setattr(memory, "card", lambda: None)
    monkeypatch.setattr(memory, "sys", types.SimpleNamespace(platform="win32"))
    assert memory.peak_memory_gib() == 3.0


def test_a_peak_can_be_forgotten(monkeypatch):
    monkeypatch.setattr(memory, "card", lambda: None)
    large = bytearray(os.urandom(2**20)) * 400
    before = memory.peak_memory_gib()
    del large
    if not memory.forget_peak_memory():
        pytest.skip("nothing here forgets it")
    assert memory.peak_memory_gib() < before - 0.2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_what_is_freed_between_other_blocks_is_given_back():
    def resident() -> float:  # MiB
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    blocks = [bytearray(100_000) for _ in range(4000)]  # each too small for a mapping of its own
    kept = blocks[::200]
    del blocks
    before = resident()
    memory.give_back()
    assert resident() < before - 200
    assert len(kept) == 20


class Card:
    """The counters of a GPU's memory, in GiB here."""

    def __init__(self):
        self.now = self.peak = 0.0

    def hold(self, gib: float) -> None:
        self.now, self.peak = gib, max(self.peak, gib)

    def max_memory_allocated(self) -> int:
        return int(self.peak * 2**30)

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.now


@pytest.fixture
def gpu(monkeypatch):
    """A card that counts; the process itself has its own, other peak."""
    found = Card()
    monkeypatch.setattr(memory, "card", lambda: found)
    monkeypatch.setattr(memory, "_before_reset", 0.0)
    return found


def test_on_a_gpu_the_peak_is_the_cards_own_and_a_stages_does_not_hide_it(gpu):
    gpu.hold(11.5)
    gpu.hold(1.0)
    peak = memory.peak_memory_gib()
    assert (peak, peak.key) == (11.5, "peak_memory_gpu_gib")
    assert json.dumps(peak.entry) == '{"peak_memory_gpu_gib": 11.5}'
    memory.reset_card_peak()
    gpu.hold(3.0)
    assert gpu.max_memory_allocated() == 3 * 2**30  # of the stage
    assert memory.peak_memory_gib() == 11.5  # of all so far
    gpu.hold(2.0)
    assert memory.forget_peak_memory()
    assert memory.peak_memory_gib() == 2.0


def test_peaks_of_gpu_and_process_are_recorded_apart(gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    with monkeypatch.context() as cpu:
        cpu.setattr(memory, "card", lambda: None)
        process = runtime.record_peak(LOCAL, "sft")
    gpu.hold(0.01)
    assert runtime.record_peak(LOCAL, "sft") == pytest.approx(0.01), "a process's peak is not a card's"
    saved = runtime.read_json(tmp_path / "local" / "sft" / "metrics.json")
    assert saved == {"peak_memory_gib": process, "peak_memory_gpu_gib": pytest.approx(0.01)}
    gpu.peak = 0.001  # another process, which only loads
    assert runtime.record_peak(LOCAL, "sft") == pytest.approx(0.01)


@pytest.mark.parametrize(("device", "counts"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_only_a_device_that_counts_its_memory_is_asked(monkeypatch, device, counts):
    monkeypatch.setattr(machine, "number_format", lambda: (device, torch.float32, ""))
    assert (memory.card() is torch.cuda) == counts
    assert (memory.card() is None) != counts
