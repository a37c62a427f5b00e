"""Where the repository lives, said once (``[tool.sawyer]`` in pyproject.toml) and copied from there.

The copies are what must be readable without the package: the Colab badges, and the setup cells,
which clone the course.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from sawyer_utils.course.notebooks import cell_hash
from sawyer_utils.plumbing.files import project_root

# The slash in "/notebooks/" ends the ref, which may hold slashes of its own.
BADGE = re.compile(r"colab\.research\.google\.com/github/([^/\s]+/[^/\s]+)/blob/(\S+?)/notebooks/([\w.-]+)")
SETUP = re.compile(r'^REPO, REF = "([^"]*)", "([^"]*)"$', re.MULTILINE)


def address(root: Path | None = None) -> tuple[str, str]:
    """(owner/name, ref) as pyproject.toml has them."""
    text = ((root or project_root()) / "pyproject.toml").read_text(encoding="utf-8")
    place = tomllib.loads(text)["tool"]["sawyer"]
    return place["repository"], place["ref"]


def rewrite(repo: str | None = None, ref: str | None = None, root: Path | None = None) -> list[Path]:
    """Set repository and ref, and copy them to every badge and setup cell; returns what changed.

    Raises:
        ValueError: if ``repo`` is not OWNER/NAME, or ``ref`` is no name of a branch or tag.
    """
    root = root or project_root()
    old_repo, old_ref = address(root)
    repo, ref = repo or old_repo, ref or old_ref
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", repo):
        raise ValueError(f"{repo!r} is not OWNER/NAME.")
    if not re.fullmatch(r"\w[\w./-]*", ref):
        raise ValueError(f"{ref!r} is not the name of a branch or tag.")
    pyproject = root / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    text = re.sub(r'^repository = ".*"', f'repository = "{repo}"', text, count=1, flags=re.MULTILINE)
    text = re.sub(r'^ref = ".*"', f'ref = "{ref}"', text, count=1, flags=re.MULTILINE)
    changed = [pyproject] if _replace(pyproject, text) else []
    for path in files(root):
        before = path.read_text(encoding="utf-8")
        after = _notebook(before, repo, ref) if path.suffix == ".ipynb" else _text(before, repo, ref)
        if _replace(path, after):
            changed.append(path)
    return changed


def files(root: Path) -> Iterator[Path]:
    """Every file that may hold a badge or a setup cell."""
    yield from (path for path in [root / "README.md", root / "notebooks" / "README.md"] if path.exists())
    yield from sorted((root / "notebooks" / "source").glob("*.py"))
    yield from sorted((root / "notebooks").glob("*.ipynb"))


def _text(text: str, repo: str, ref: str) -> str:
    text = BADGE.sub(rf"colab.research.google.com/github/{repo}/blob/{ref}/notebooks/\g<3>", text)
    return SETUP.sub(f'REPO, REF = "{repo}", "{ref}"', text)


def _notebook(text: str, repo: str, ref: str) -> str:
    """The same in the cells of a notebook. Another address leaves the output of the setup cell what
    it was, so the hash that ties the two together moves along."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        moved = _text(source, repo, ref)
        if moved == source:
            continue
        cell["source"] = moved.splitlines(keepends=True)
        if cell["metadata"].get("sawyer_hash") == cell_hash(source):
            cell["metadata"]["sawyer_hash"] = cell_hash(moved)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _replace(path: Path, text: str) -> bool:
    if path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True
