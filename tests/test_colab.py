"""The setup cell in a Colab that is played: its package set, its old torchao, its loaded pyarrow.

Nothing here runs on Colab. The versions are those of its published lists (``constraints/colab-shipped.txt``);
pip and git are faked, the packages are folders with nothing but metadata; for real ones: ``tests/rehearsal``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import packaging.specifiers  # loaded before the packages of this machine are hidden
import packaging.version  # noqa: F401
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
        place = command.index("--constraint") + 1
        self.pins.append(Path(command[place]).read_text().split())
        if self.refusals:
            self.refusals -= 1
            said = "WARNING: slow\nERROR: Cannot install trl: conflicting dependencies\n"
            return subprocess.CompletedProcess(command, 1, "", said)
        versions = dict(pin.split("==") for pin in self.pins[-1])
        self.wanted = {re.split("[<>=]", word)[0] for word in command[place + 1 :]}
        for name in self.wanted | {"pyarrow", "huggingface-hub"}:
            self.put(name, versions.get(name, "99.0"))
        said = "ERROR: pip's resolver …\ncudf-cu12 26.4.0 requires pyarrow<19, but you have pyarrow 26.0.1.\n"
        return subprocess.CompletedProcess(command, 0, "", said)


@pytest.fixture
def session(tmp_path, monkeypatch):
    return Session(tmp_path / "site", monkeypatch)


# --- a first and a second run -------------------------------------------------------------------


def test_only_what_is_missing_is_installed_and_the_second_time_nothing(session, capsys):
    colab.prepare()
    removal, call = session.calls
    assert (removal[0], removal[-1], colab.installed("torchao")) == ("uninstall", "torchao", None)
    assert session.wanted == {"datasets", *BROUGHT}
    assert not {"-U", "--upgrade"} & set(call)
    said = capsys.readouterr().out
    for part in ("Removed torchao 0.10.0: peft refuses it", "Installing", "cudf-cu12 wanted other versions"):
        assert part in said
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
    colab.prepare()
    assert len(session.calls) == 2
    assert capsys.readouterr().out == ""


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
    with pytest.raises(colab.SetupStopped, match="could not remove torchao"):
        colab.prepare()


def test_what_pip_has_just_installed_is_looked_for_anew(session, monkeypatch):
    after = []
    monkeypatch.setattr(colab.importlib, "invalidate_caches", lambda: after.append(len(session.calls)))
    colab._pip("uninstall", "--yes", "torchao")
    assert after == [1]


def test_a_torchao_that_peft_takes_is_left(session):
    session.put("torchao", "0.16.0")
    colab.prepare()
    assert [call[0] for call in session.calls] == ["install"]


# --- restart ------------------------------------------------------------------------------------


def test_a_module_in_memory_that_was_replaced_asks_for_a_restart_until_it_has_happened(session):
    session.load("pyarrow", "18.1.0")  # Colab's kernel comes with it
    for _ in range(2):  # a cell run again without a restart is no better
        with pytest.raises(colab.RestartNeeded, match="Restart session") as caught:
            colab.prepare()
        assert "pyarrow 18.1.0 (now 26.0.1)" in str(caught.value)
    assert [call[0] for call in session.calls] == ["uninstall", "install"]
    session.load("pyarrow", "26.0.1")
    session.load("torch", "2.11.0+cu128")
    colab.prepare()


def test_a_removed_torchao_in_memory_asks_for_a_restart(session):
    session.load("torchao", "0.10.0")
    with pytest.raises(colab.RestartNeeded, match=r"torchao 0\.10\.0 \(removed\)"):
        colab.prepare()


def test_the_packages_of_this_machine_agree_with_their_metadata():
    # A __version__ that is never the installed one would ask for a restart for ever.
    for name in ("torch", "datasets", "transformers", "trl", "peft", "ipywidgets"):
        pytest.importorskip(name)
    assert colab.outdated_modules(KNOWN) == []


@pytest.mark.parametrize("error", [colab.RestartNeeded, colab.SetupStopped])
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
    with pytest.raises(colab.SetupStopped, match="Disconnect and delete runtime") as caught:
        colab.prepare()
    assert "ERROR: Cannot install trl: conflicting dependencies" in str(caught.value)


def test_a_torch_that_is_too_new_is_said_and_kept(session, capsys):
    session.put("torch", "3.0.0")
    colab.prepare()
    assert "torch 3.0.0 is outside >=2.11,<3" in capsys.readouterr().out
    assert colab.installed("torch") == "3.0.0"
    assert "torch" not in session.wanted


ORDER = [
    *(
        ("4.0.0", "4.7", True),
        ("4.10", "4.7", False),
        ("2.11.0+cu128", "2.11", False),
        ("unknown", "1", True),
    ),
    *(("1.13", "1.13.0", False), ("0.10.0", "0.16", True), ("3.0.0rc1", "3", False)),
]


@pytest.mark.parametrize(("version", "bound", "expected"), ORDER)
def test_versions_are_compared_as_numbers(version, bound, expected):
    assert colab.older(version, bound) is expected
    assert colab.meets(version, f"<{bound}") is expected
    assert colab.meets(version, f">=0,<9,>={bound}") is not expected


# --- the set and the cell -----------------------------------------------------------------------


def test_the_two_sets_for_colab_meet_the_requirements_and_agree_on_what_stays():
    wanted = colab.requirements(ROOT / "requirements.txt")
    bounded = {name: wanted[name] for name in wanted if name in TRIED}
    assert {"trl", "datasets", "torch", "transformers", "peft", "ipywidgets"} <= set(bounded)
    assert not [name for name in bounded if not colab.meets(TRIED[name], bounded[name])]
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


@pytest.mark.parametrize("cloned", [None, False, True])
def test_the_setup_cell_clones_at_its_ref_in_colab_alone_and_prepares(monkeypatch, cloned):
    """What it would start is only noted down. None: not in Colab."""
    done, names = [], {}
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("os.path.isdir", lambda path: bool(cloned))
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done.append((command, options)))
    monkeypatch.setattr(colab, "prepare", lambda: done.append("prepare"))
    monkeypatch.setattr(runtime, "setup", lambda: done.append("setup") or "the profile")
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    if cloned is not None:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(setup_cell(), names)
    assert names["profile"] == "the profile"
    repo, ref = re.search(r'REPO, REF = "(.*)", "(.*)"', setup_cell()).groups()
    clone, folder = [], f"/content/sawyer-{ref}"
    if cloned is False:
        clone = [done.pop(0)]
        assert clone[0][0][:2] == ["git", "clone"]
        assert clone[0][0][clone[0][0].index("--branch") + 1] == ref
        assert (clone[0][0][-2:], clone[0][1]) == ([f"https://github.com/{repo}", folder], {"check": True})
    assert done == (["setup"] if cloned is None else ["prepare", "setup"])
    assert cloned is None or sys.path[0] == folder


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


@pytest.mark.parametrize("home", ["", "{folder}/elsewhere"])
def test_drive_is_left_alone_unless_asked_for(drive, monkeypatch, tmp_path, home):
    monkeypatch.setenv("SAWYER_HOME", home.format(folder=tmp_path))
    colab.keep_on_drive()
    assert not drive.mounted


@pytest.mark.parametrize("wanted", ["drive", "Drive", "{}/MyDrive/class", "{}/Shareddrives/x/../class"])
def test_drive_is_mounted_once_and_when_gone_it_does_not_become_a_folder_here(
    drive, monkeypatch, tmp_path, wanted
):
    """The folder of an earlier mount may be there still: it says nothing."""
    monkeypatch.setenv("SAWYER_HOME", wanted.format(tmp_path / "drive"))
    colab.keep_on_drive()
    colab.keep_on_drive()
    assert drive.mounted == [str(tmp_path / "drive")]
    drive.disconnect()
    for use in (runtime.home, lambda: runtime.run_dir(PROFILES["local"], "sft")):
        with pytest.raises(files.DriveNotMounted, match="Google Drive, which is not mounted"):
            use()
    assert not list((tmp_path / "drive").rglob("sft"))
    colab.keep_on_drive()
    assert len(drive.mounted) == 2
    folder = runtime.run_dir(PROFILES["local"], "sft")
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path / "drive")


def test_a_refused_drive_says_the_two_ways_on(drive, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", "drive")
    drive.refusal = ValueError("mount failed: access was not granted")
    said = "access was not granted.*\\nRun this cell again and allow it, or take the line"
    with pytest.raises(colab.SetupStopped, match=said) as stop:
        colab.keep_on_drive()
    assert stop.value.__cause__ is None
