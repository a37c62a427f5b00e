"""The rooms of the package: what may import what."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from sawyer_utils import data
from sawyer_utils.chapters import domain
from sawyer_utils.course.notebooks import FOLDERS
from sawyer_utils.plumbing.files import project_root

ROOMS = ["plumbing", "core", "chapters", "classroom", "course"]  # each may import those before it
PACKAGE = project_root() / "sawyer_utils"


def modules() -> dict[str, str]:
    """ "sawyer_utils.plumbing.files" -> its source."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def room(name: str) -> str:
    """The room of a module; ``__main__`` only hands over and is above all."""
    if name == "sawyer_utils.__main__":
        return "course"
    part = name.split(".")[1] if "." in name else ""
    return part if part in ROOMS else "core"


def imports(source: str, known) -> set[str]:
    """The package's modules that a source imports, inside functions too; not for type checkers alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in known and name != "sawyer_utils"}


GRAPH = {name: imports(source, modules()) for name, source in modules().items()}


def wrong(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room above."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]


def test_no_room_imports_one_above_it():
    assert wrong(GRAPH) == []
    assert wrong({"sawyer_utils.plumbing.files": {"sawyer_utils.chat"}}) != []
    assert wrong({"sawyer_utils.chat": {"sawyer_utils.chapters.export"}}) != []


def test_there_are_no_circles():
    TopologicalSorter(GRAPH).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    assert imports("def f():\n    from sawyer_utils import chat", GRAPH) == {"sawyer_utils.chat"}


def test_notebooks_import_nothing_of_the_room_that_runs_them():
    sources = sorted((project_root() / "notebooks" / "source").glob("*.py"))
    assert len(sources) == len(FOLDERS)
    for path in sources:
        found = imports(path.read_text(encoding="utf-8"), GRAPH)
        assert found
        assert not [name for name in found if room(name) == "course"], path.name


def test_pip_installs_all_of_it(tmp_path):
    """Copied elsewhere, installed into an empty folder, used from a third."""
    root = project_root()
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(PACKAGE, tmp_path / "sawyer_utils", ignore=shutil.ignore_patterns("__pycache__"))
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(tmp_path)], check=True)
    installed, here = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        for folder in (target / "sawyer_utils", PACKAGE)
    )
    assert {n for n in installed if ".pyc" not in n} == {n for n in here if ".pyc" not in n}
    code = (
        "import sawyer_utils; from sawyer_utils import data; from sawyer_utils.chapters import domain\n"
        "print(sawyer_utils.__file__, len(data.load_prompts('test')), len(domain.load()[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, prompts, lessons = done.stdout.split()
    assert where == str(target / "sawyer_utils" / "__init__.py")
    assert int(prompts) == len(data.load_prompts("test")) > 10
    assert int(lessons) == len(domain.load()[0])
