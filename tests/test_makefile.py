"""The Makefile, with a Python that notes down what it would do."""

import os
import shutil
import subprocess
import sys

import pytest

from sawyer_utils.plumbing.files import project_root

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make")
FAKE = """#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp /bin/true .venv/bin/pip ;;
"-m sawyer_utils") echo "$3" >> done ;;
*) exec {real} -c "import sys; sys.version_info = (3, {minor}, 1); exec(sys.argv[1])" "$2" ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """``make(minor, words)`` in a folder with the Makefile alone, with a Python 3.minor; what it says."""
    for name in ("Makefile", "requirements.txt", "constraints/tested.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(project_root() / name, tmp_path / name)

    def run(minor, *words):
        python = tmp_path / f"python3.{minor}"
        python.write_text(FAKE.format(real=sys.executable, minor=minor))
        python.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", *words, f"PYTHON={python}"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_an_old_python_is_refused_in_a_sentence_and_leaves_nothing(make, tmp_path):
    done = make(9, "course")
    assert done.returncode
    assert "needs Python 3.11 or newer" in done.stderr
    assert "is 3.9. Name a newer one: make PYTHON=" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("before", "kept"), [(9, False), (12, True)])
def test_an_environment_of_another_python_is_made_anew(make, tmp_path, before, kept):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/earlier").touch()
    make(before, "nothing")  # which only writes that Python
    shutil.copy(tmp_path / f"python3.{before}", tmp_path / ".venv/bin/python")
    done = make(12, "course")
    assert not done.returncode, done.stdout + done.stderr
    assert (tmp_path / ".venv/earlier").exists() is kept
    assert (tmp_path / "done").read_text().split() == ["fetch", "course"], "the weights come at installation"


@pytest.mark.parametrize(("word", "option"), [("FRESH", "--fresh"), ("EXTRA", "--extra")])
@pytest.mark.parametrize(("value", "given"), [("", False), ("0", False), ("1", True)])
def test_zero_means_no(make, word, option, value, given):
    assert (option in make(12, "--dry-run", "course", f"{word}={value}").stdout) is given


def test_clean_leaves_the_runs(make, tmp_path):
    for name in ("runs", "build"):
        (tmp_path / name).mkdir()
    make(12, "clean")
    assert (tmp_path / "runs").exists()
    assert not (tmp_path / "build").exists()
