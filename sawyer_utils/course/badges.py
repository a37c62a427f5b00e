"""Where the repository lives, said once (``[tool.sawyer]`` in pyproject.toml) and copied from there to what
must be readable without the package: the Colab badges, the notebooks' links, and the setup cells, which
clone the course."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sawyer_utils.course.notebooks import address, cell_hash
from sawyer_utils.plumbing.files import project_root

FILES = ("pyproject.toml", "README.md", "notebooks/source/*.py", "notebooks/*.ipynb")
PLACES = (  # how the address is written
    'repository = "{}"\nref = "{}"',
    "colab.research.google.com/github/{}/blob/{}/notebooks/",
    "https://github.com/{}/blob/{}/",
    'REPO, REF = "{}", "{}"',
    r"REPO, REF = \"{}\", \"{}\"",  # in a notebook's JSON
)


def rewrite(repo: str | None = None, ref: str | None = None, root: Path | None = None) -> list[Path]:
    """Set repository and ref, and copy them to every badge and setup cell; returns what changed.

    Raises:
        ValueError: if ``repo`` is not OWNER/NAME, or ``ref`` is no name of a branch or tag.
    """
    root = root or project_root()
    old = address(root)
    new = (repo or old[0], ref or old[1])
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", new[0]):
        raise ValueError(f"{new[0]!r} is not OWNER/NAME.")
    if not re.fullmatch(r"\w[\w./-]*", new[1]):
        raise ValueError(f"{new[1]!r} is not the name of a branch or tag.")

    def moved(text: str) -> str:
        for place in PLACES:
            text = text.replace(place.format(*old), place.format(*new))
        return text

    changed = []
    for path in (path for pattern in FILES for path in sorted(root.glob(pattern))):
        before = path.read_text(encoding="utf-8")
        after = moved(before)
        for cell in json.loads(before)["cells"] if path.suffix == ".ipynb" else ():
            # Another address leaves a cell's output what it was: the hash that ties the two moves along.
            source = "".join(cell["source"])
            after = after.replace(cell_hash(source), cell_hash(moved(source)))
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed
