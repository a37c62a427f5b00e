"""The list of planted mistakes fits the code as it is, and the script tells a caught one from a survivor."""

from __future__ import annotations

import subprocess
from collections import Counter

import planted
import pytest

from sawyer_utils.plumbing.files import project_root

LISTED = planted.mistakes()
ROOMS = ("plumbing", "chapters", "classroom", "course")


@pytest.mark.parametrize("mistake", LISTED, ids=lambda one: f"{one.file}-{one.harm}")
def test_a_mistake_fits_its_file_and_has_tests(mistake):
    text = (project_root() / mistake.file).read_text(encoding="utf-8")
    changed = mistake.planted(text)  # where the old text has moved on: put it right, or take the entry out
    assert changed != text
    compile(changed, mistake.file, "exec")
    assert mistake.tests
    assert all((project_root() / name).is_file() for name in mistake.tests)
    assert mistake.harm


def test_every_room_has_mistakes_and_none_stands_twice():
    count = Counter(next((room for room in ROOMS if f"/{room}/" in one.file), "core") for one in LISTED)
    assert all(count[room] >= 15 for room in (*ROOMS, "core"))
    assert len({(one.file, one.old) for one in LISTED}) == len(LISTED) >= 110


CODE = 'def half(n):\n    return n // 2\n\n\ndef name():\n    return "half"\n'
TESTS = "from code_of import half\n\n\ndef test_half():\n    assert half(5) == 2\n"
FAILS = "from code_of import half\n\n\ndef test_half():\n    assert half(5) == 3\n"
SLEEPS = "import time\n\n\ndef test_half():\n    time.sleep(600)\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the script says of some mistakes in a made-up project, by what they do."""
    planted.CONTEXT.set_forkserver_preload(["pytest"])
    root = tmp_path_factory.mktemp("project")
    files = {"code_of.py": CODE, "test_it.py": TESTS, "test_wrong.py": FAILS, "test_slow.py": SLEEPS}
    files["test_half_wrong.py"] = f"{FAILS}\n\ndef test_it():\n    assert half(4) == 2\n"
    for name, text in {**files, ".gitignore": "test_ignored.py\n", "test_ignored.py": TESTS}.items():
        (root / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)

    def mistake(old, new, test="test_it.py"):
        return planted.Mistake("code_of.py", old, new, [test], "")

    tried = {
        "harmful": mistake("n // 2", "n // 3"),
        "unseen": mistake('return "half"', 'return "whole"'),  # and the one before is out again
        "import": mistake("def half", "def whole"),
        "exit": mistake("return n // 2", "import os; os._exit(0)"),
        "gone": mistake("n / 2", "n / 3"),
        "twice": mistake("return", "pass"),
        "ignored": mistake("n // 2", "n // 3", "test_ignored.py"),
        "wrong test": mistake("n // 2", "n // 3", "test_wrong.py"),  # which fails without the mistake, too
        "one wrong test": mistake("n // 2", "n // 3", "test_half_wrong.py"),
        "only a wrong test": mistake('return "half"', 'return "whole"', "test_half_wrong.py"),
    }
    found = dict(zip(tried, planted.try_all(list(tried.values()), root, jobs=2), strict=True))
    [slow] = planted.try_all([mistake("n // 2", "n // 3", "test_slow.py")], root, limit=1)
    return {**found, "slow": slow}


@pytest.mark.parametrize(
    ("what", "verdict"),
    {
        "harmful": "caught",
        "unseen": "survived",
        "import": "caught",
        "exit": "caught",
        "gone": "broken",
        "twice": "broken",
        "ignored": "broken",
        "wrong test": "broken",
        "one wrong test": "caught",
        "only a wrong test": "survived",
        "slow": "slow",
    }.items(),
)
def test_a_caught_mistake_is_told_from_a_survivor(found, what, verdict):
    assert found[what].verdict == verdict


def test_the_summary_counts_and_names_who_was_not_caught(found):
    told = planted.summary([found[what] for what in ("harmful", "import", "unseen", "gone", "slow")])
    assert told["run"] == 5
    assert (told["caught"], told["survived"], told["broken"], told["slow"]) == (2, 1, 1, 1)
    assert told["share_caught"] == 0.667
    assert [(one["verdict"], one["old"]) for one in told["not_caught"]] == [
        ("survived", 'return "half"'),
        ("broken", "n / 2"),
        ("slow", "n // 2"),
    ]


def test_none_is_begun_after_its_time(tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert planted.try_all(LISTED, tmp_path, minutes=-1) == []
