"""The setup cell in a Colab that is played: its package set, its old torchao, its loaded pyarrow.

Nothing here runs on Colab. The versions are those of its published lists (``constraints/colab-shipped.txt``);
pip and git are faked, the packages are folders with nothing but metadata; for real ones: ``tests/rehearsal``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from sawyer_utils import runtime
from sawyer_utils.plumbing import colab, files
from sawyer_utils.profiles import PROFILES

ROOT = Path(__file__).parents[1]
TRIED = colab.tested(ROOT / "constraints" / "colab.txt")
BROUGHT = {"trl", "bitsandbytes", "gguf", "vadersentiment"}
SHIPPED = colab.tested(ROOT / "constraints" / "colab-shipped.txt") | {
    "torch": "2.11.0+cu128",
    "cudf-cu12": "26.4.0",
    "gpg": "1.16.0-unknown",  # from Ubuntu: no version that pip would take
}
KNOWN = [*colab.requirements(ROOT / "requirements.txt"), *colab.MAY_MOVE, "torchao"]


class Session:
    """A folder of installed packages, and a pip that works on it."""

    def __init__(self, site: Path, monkeypatch):
        self.site, self.calls, self.pins, self.refusals = site, [], [], 0
        self.monkeypatch = monkeypatch
        standard = [path for path in sys.path if "site-packages" not in path]
        monkeypatch.setattr(sys, "path", [str(site), *standard])
        monkeypatch.setattr(colab.subprocess, "run", self.run)
        for name in KNOWN:
            monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)
        for name, version in SHIPPED.items():
            self.put(name, version)

    def put(self, name: str, version: str) -> None:
        self.remove(name)
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def remove(self, name: str) -> None:
        for info in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            (info / "METADATA").unlink()
            info.rmdir()

    def load(self, name: str, version: str) -> None:
        module = types.ModuleType(name)
        module.__version__ = version
        self.monkeypatch.setitem(sys.modules, name, module)

    def run(self, command, **_) -> subprocess.CompletedProcess:
        assert command[:3] == [sys.executable, "-m", "pip"]
        self.calls.append(command[3:])
        if command[3] == "uninstall":
            self.remove(command[-1])
            return subprocess.CompletedProcess(command, 0, "", "")
        pins = Path(command[command.index("--constraint") + 1]).read_text().split()
        self.pins.append(pins)
        if self.refusals:
            self.refusals -= 1
            said = "WARNING: slow\nERROR: Cannot install trl: conflicting dependencies\n"
            return subprocess.CompletedProcess(command, 1, "", said)
        versions = dict(pin.split("==") for pin in pins)
        wanted = {re.split("[<>=]", word)[0] for word in command[command.index("--constraint") + 2 :]}
        for name in wanted | {"pyarrow", "huggingface-hub"}:
            self.put(name, versions.get(name, "99.0"))
        said = "ERROR: pip's resolver …\ncudf-cu12 26.4.0 requires pyarrow<19, but you have pyarrow 26.0.1.\n"
        return subprocess.CompletedProcess(command, 0, "", said)


@pytest.fixture
def session(tmp_path, monkeypatch):
    return Session(tmp_path / "site", monkeypatch)


def installs(session) -> list[list[str]]:
    return [call for call in session.calls if call[0] == "install"]


# --- a first and a second run -------------------------------------------------------------------


def test_only_what_is_missing_is_installed(session, capsys):
    colab.prepare()
    (call,) = installs(session)
    wanted = call[call.index("--constraint") + 2 :]
    assert {re.split("[<>=]", word)[0] for word in wanted} == {"datasets", *BROUGHT}
    assert not {"-U", "--upgrade"} & set(call)
    said = capsys.readouterr().out
    assert "Installing" in said
    assert "cudf-cu12 wanted other versions: harmless" in said


def test_what_is_installed_stays_as_it_is(session):
    colab.prepare()
    (pins,) = session.pins
    for name in ("transformers", "numpy", "peft", "accelerate", "pandas", "ipywidgets", "ipython"):
        assert f"{name}=={SHIPPED[name]}" in pins
        assert colab.installed(name) == SHIPPED[name]
    assert "torch==2.11.0+cu128" in pins
    assert not [pin for pin in pins if pin.startswith("gpg==")], "pip would stop at that line"
    # What the course brings comes in the versions that were tried together.
    for name in ("trl", "datasets", "pyarrow", "huggingface-hub", "bitsandbytes"):
        assert f"{name}=={TRIED[name]}" in pins
        assert colab.installed(name) == TRIED[name]


def test_the_second_run_calls_nobody_and_takes_no_time(session, capsys):
    colab.prepare()
    session.calls.clear()
    capsys.readouterr()
    start = time.perf_counter()
    colab.prepare()
    assert time.perf_counter() - start < 2.0
    assert session.calls == []
    assert capsys.readouterr().out == ""


def test_a_torchao_that_peft_refuses_is_removed(session, capsys):
    colab.prepare()
    assert session.calls[0][0] == "uninstall"
    assert session.calls[0][-1] == "torchao"
    assert colab.installed("torchao") is None
    assert "Removed torchao 0.10.0: peft refuses it" in capsys.readouterr().out


def test_peft_does_refuse_it(tmp_path, monkeypatch):
    check = pytest.importorskip("peft.import_utils").is_torchao_available.__wrapped__
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for version, refused in (("0.10.0", True), (colab.OLDEST_TORCHAO + ".0", False)):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        assert colab.older(version, colab.OLDEST_TORCHAO) is refused
        if not refused:
            assert check()
            continue
        with pytest.raises(ImportError, match="incompatible version of torchao"):
            check()


def test_a_removal_that_fails_is_said(session, monkeypatch):
    monkeypatch.setattr(session, "remove", lambda name: None)
    with pytest.raises(colab.InstallFailed, match="could not remove torchao"):
        colab.prepare()


def test_a_torchao_that_peft_takes_is_left(session):
    session.put("torchao", "0.16.0")
    colab.prepare()
    assert colab.installed("torchao") == "0.16.0"
    assert [call[0] for call in session.calls] == ["install"]


# --- restart ------------------------------------------------------------------------------------


def test_a_module_in_memory_that_was_replaced_asks_for_a_restart_until_it_has_happened(session):
    session.load("pyarrow", "18.1.0")  # Colab's kernel comes with it
    for _ in range(2):  # a cell run again without a restart is no better
        with pytest.raises(colab.RestartNeeded, match="Restart session") as caught:
            colab.prepare()
        assert "pyarrow 18.1.0 (now 26.0.1)" in str(caught.value)
    assert len(installs(session)) == 1
    session.load("pyarrow", "26.0.1")
    colab.prepare()


def test_a_removed_torchao_in_memory_asks_for_a_restart(session):
    session.load("torchao", "0.10.0")
    with pytest.raises(colab.RestartNeeded, match=r"torchao 0\.10\.0 \(removed\)"):
        colab.prepare()


def test_modules_that_are_current_ask_for_nothing(session):
    session.load("torch", "2.11.0+cu128")
    session.load("datasets", TRIED["datasets"])
    colab.prepare()


def test_the_packages_of_this_machine_agree_with_their_metadata():
    # A __version__ that is never the installed one would ask for a restart for ever.
    for name in ("torch", "datasets", "transformers", "trl", "peft", "ipywidgets"):
        pytest.importorskip(name)
    assert colab.outdated_modules(KNOWN) == []


@pytest.mark.parametrize("error", [colab.RestartNeeded, colab.InstallFailed])
def test_a_notebook_shows_the_message_and_no_traceback(error, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.push({"error": error})
    result = shell.run_cell("raise error('One thing to do.')")
    InteractiveShell.clear_instance()
    said = capsys.readouterr()
    assert not result.success, "Run all has to stop here"
    assert (said.out + said.err).strip() == "One thing to do."


# --- trouble ------------------------------------------------------------------------------------


def test_a_newer_colab_may_move_all_but_what_must_stay(session):
    session.refusals = 1
    colab.prepare()
    strict, loose = session.pins
    assert len(strict) > 10
    assert sorted(loose) == [f"{name}=={SHIPPED[name]}" for name in ("numpy", "torch", "transformers")]


def test_a_failed_installation_says_why_and_what_to_do(session):
    session.refusals = 2
    with pytest.raises(colab.InstallFailed, match="Disconnect and delete runtime") as caught:
        colab.prepare()
    assert "ERROR: Cannot install trl: conflicting dependencies" in str(caught.value)


def test_a_torch_that_is_too_new_is_said_and_kept(session, capsys):
    session.put("torch", "3.0.0")
    colab.prepare()
    assert "torch 3.0.0 is outside >=2.11,<3" in capsys.readouterr().out
    assert colab.installed("torch") == "3.0.0"
    assert not [word for word in installs(session)[0] if re.match("torch[<>=]", word)]


@pytest.mark.parametrize(
    ("version", "bound", "expected"),
    [
        ("4.0.0", "4.7", True),
        ("4.10", "4.7", False),
        ("2.11.0+cu128", "2.11", False),
        ("1.13", "1.13.0", False),
        ("0.10.0", "0.16", True),
        ("3.0.0rc1", "3", False),
        ("unknown", "1", True),
    ],
)
def test_versions_are_compared_as_numbers(version, bound, expected):
    assert colab.older(version, bound) is expected


# --- the set and the cell -----------------------------------------------------------------------


def test_the_set_for_colab_meets_the_requirements():
    wanted = colab.requirements(ROOT / "requirements.txt")
    bounded = {name: wanted[name] for name in wanted if name in TRIED}
    assert {"trl", "datasets", "torch", "transformers", "peft", "ipywidgets"} <= set(bounded)
    assert not [name for name in bounded if not colab._meets(TRIED[name], bounded[name])]


def test_the_two_sets_for_colab_agree_on_what_stays():
    moved = {name for name in TRIED.keys() & SHIPPED.keys() if SHIPPED[name].split("+")[0] != TRIED[name]}
    assert moved == {"datasets", "huggingface-hub", "pyarrow"} <= colab.MAY_MOVE
    assert TRIED.keys() - SHIPPED.keys() == BROUGHT
    assert SHIPPED["torchao"] == "0.10.0"


def test_the_module_needs_nothing_but_the_standard_library():
    code = "import sys; sys.path.insert(0, '.'); from sawyer_utils.plumbing import colab; "
    code += "print('torch' in sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "False\n", done.stderr


def setup_cell() -> str:
    source = (ROOT / "notebooks" / "source" / "01_sft.py").read_text(encoding="utf-8")
    return next(cell for cell in source.split("# %%\n") if cell.startswith("# Setup")).partition("\n# %%")[0]


@pytest.fixture
def cell(monkeypatch):
    """Run the setup cell with what it would start only noted down."""
    from sawyer_utils import runtime

    done = []
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("os.path.isdir", lambda path: False)  # a rehearsal may have cloned just now
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done.append((command, options)))
    monkeypatch.setattr(colab, "prepare", lambda: done.append("prepare"))
    monkeypatch.setattr(runtime, "setup", lambda: done.append("setup") or "the profile")

    def run():
        names = {}
        exec(setup_cell(), names)
        assert names["profile"] == "the profile"
        return done

    return run


def test_outside_colab_the_cell_only_imports(cell, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    assert cell() == ["setup"]


def test_in_colab_the_cell_clones_at_its_ref_then_prepares(cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    (command, options), *rest = cell()
    assert command[:2] == ["git", "clone"]
    repo, ref = re.search(r'REPO, REF = "(.*)", "(.*)"', setup_cell()).groups()
    assert command[command.index("--branch") + 1] == ref
    assert command[-2:] == [f"https://github.com/{repo}", f"/content/sawyer-{ref}"]
    assert options == {"check": True}
    assert rest == ["prepare", "setup"]
    assert sys.path[0] == f"/content/sawyer-{ref}"


def test_a_clone_that_is_there_is_used(cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr("os.path.isdir", lambda path: True)
    assert cell() == ["prepare", "setup"]


def test_the_cell_is_short_and_narrow():
    lines = setup_cell().strip().splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 88


# --- Google Drive -------------------------------------------------------------------------------


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """Colab's ``drive`` module, played: ``drive.mount`` makes the folder, or raises ``drive.refusal``."""
    colab, drive = types.ModuleType("google.colab"), types.ModuleType("google.colab.drive")
    drive.mounted, drive.refusal, there = [], None, set()

    def mount(path):
        drive.mounted.append(path)
        if drive.refusal:
            raise drive.refusal
        (Path(path) / "MyDrive").mkdir(parents=True, exist_ok=True)
        there.add(path)

    drive.mount, colab.drive = mount, drive
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    drive.disconnect = there.clear
    monkeypatch.setattr(files, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) in there)
    return drive


def test_drive_is_left_alone_unless_asked_for(drive, monkeypatch, tmp_path):
    for home in (None, str(tmp_path / "elsewhere")):
        monkeypatch.setenv("SAWYER_HOME", home) if home else monkeypatch.delenv("SAWYER_HOME", raising=False)
        colab.keep_on_drive()
    assert not drive.mounted


@pytest.mark.parametrize("wanted", ["drive", "Drive", "{drive}/MyDrive/class"])
def test_drive_is_mounted_once(drive, monkeypatch, tmp_path, wanted):
    monkeypatch.setenv("SAWYER_HOME", wanted.format(drive=tmp_path / "drive"))
    colab.keep_on_drive()
    colab.keep_on_drive()
    assert drive.mounted == [str(tmp_path / "drive")]
    assert runtime.run_dir(PROFILES["local"], "sft").is_relative_to(tmp_path / "drive" / "MyDrive")


@pytest.mark.parametrize("wanted", ["drive", "{drive}/MyDrive/class", "{drive}/Shareddrives/x/../class"])
def test_a_drive_that_is_gone_does_not_become_a_folder_here(drive, monkeypatch, tmp_path, wanted):
    """The folder of an earlier mount may be there still: it says nothing."""
    monkeypatch.setenv("SAWYER_HOME", wanted.format(drive=tmp_path / "drive"))
    colab.keep_on_drive()
    drive.disconnect()
    for use in (runtime.home, lambda: runtime.run_dir(PROFILES["local"], "sft")):
        with pytest.raises(files.DriveNotMounted, match="Google Drive, which is not mounted"):
            use()
    assert not list((tmp_path / "drive" / "MyDrive").rglob("sft"))
    colab.keep_on_drive()
    assert len(drive.mounted) == 2
    assert runtime.run_dir(PROFILES["local"], "sft").is_dir()


def test_a_refused_drive_says_the_two_ways_on(drive, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", "drive")
    drive.refusal = ValueError("mount failed: access was not granted")
    with pytest.raises(
        colab.SetupStopped, match="Run this cell again and allow it, or take the line"
    ) as stop:
        colab.keep_on_drive()
    assert "access was not granted" in str(stop.value)
    assert stop.value.__cause__ is None
