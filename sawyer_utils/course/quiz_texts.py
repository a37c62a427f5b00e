"""Writes each quiz's text into its notebook's source: ``python -m sawyer_utils.course.quiz_texts``."""

from __future__ import annotations

import re
from pathlib import Path

from sawyer_utils.classroom.quiz import HEADING, known, quiz_text
from sawyer_utils.course.notebooks import FOLDERS, source_path


def rewrite() -> list[Path]:
    """Write each quiz's text under its heading in the notebook's source; returns what changed."""
    cell = re.compile(rf"(?<=\n# %% \[markdown\]\n)# {HEADING}\n.*?(?=\n\n# %%)", re.DOTALL)
    changed = []
    for name in FOLDERS:
        if name[:2] not in known():
            continue
        path = source_path(name)
        before = path.read_text(encoding="utf-8")
        lines = [HEADING, "", *quiz_text(name[:2]).splitlines()]
        text = "\n".join(f"# {line}".rstrip() for line in lines)
        after = cell.sub(lambda _, text=text: text, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    for path in rewrite():
        print("rewritten", path.name)
