"""What a student hands in, ``hand_in("Ada")``, and a class's files as one table, ``collect(FOLDER)``.

A file says of each exercise that was attempted whether it was right once, and of each question of a quiz
whether the first choice was. It holds no answer, and nothing personal but the name that was typed. It is a
text file that anybody could write by hand: good for knowing where a class stands, not for marks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from sawyer_utils.classroom import checks, quiz
from sawyer_utils.plumbing.files import home, write_json
from sawyer_utils.plumbing.reading import DataError


def hand_in(name: str, folder: Path | None = None) -> Path:
    """Write what this session's ``check()`` and ``quiz()`` have seen, on top of what the file has already.

    Args:
        name: as the student types it; it goes into the file and into the file's name.
        folder: default: the runs' own.

    Raises:
        ValueError: for a name without a letter.
        DataError: if the file of that name is no such file.
    """
    slug = re.sub(r"\W+", "-", name.casefold()).strip("-_")
    if not slug:
        raise ValueError("Type the name under which you hand in.")
    path = (folder or home()) / f"hand-in-{slug}.json"
    kept = _read(path) if path.exists() else {"exercises": {}, "quiz": {}}
    exercises, asked = dict(kept["exercises"]), dict(kept["quiz"])
    for id, right in checks.attempted.items():
        exercises[id] = right or exercises.get(id, False)
    for notebook, panel in quiz.shown.items():
        now = panel.first_tries()
        earlier = asked.get(notebook, [None] * len(now))
        # The first choice is the one that was made first, though a kernel was restarted since.
        asked[notebook] = [b if a is None else a for a, b in zip(earlier, now, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"name": name, "exercises": exercises, "quiz": asked})
    questions = [right for one in asked.values() for right in one]
    print(
        f"{path}: {sum(exercises.values())} of {len(exercises)} exercises that you tried are right, "
        f"{questions.count(True)} of {len(questions)} questions at the first try."
    )
    return path


def _read(path: Path) -> dict:
    """A file of :func:`hand_in`.

    Raises:
        DataError: naming the file, if it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        values = [*found["exercises"].values(), *(right for one in found["quiz"].values() for right in one)]
        good = isinstance(found["name"], str) and set(map(type, values)) <= {bool, type(None)}
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise DataError(f"{path} is no file that hand_in() has written: ask for it again.")
    return found


def collect(folder: Path) -> pd.DataFrame:
    """A row for each name in the files below ``folder``, and one for the class.

    Columns: the name; each exercise that anybody tried, 1 if right and 0 if not; each quiz, how many
    questions were right at the first try. What was not tried is empty. The class's row has the sums.
    Several files of one name, such as one a lesson, are one row: what was right in any of them, and of each
    quiz the best. Other JSON files are left out, and named.

    Raises:
        DataError: without any file, or naming one that is none.
    """
    people: dict[str, dict] = {}
    count: Counter[str] = Counter()
    for path in files(folder):
        found = _read(path)
        # A spreadsheet would take "=…" for a formula.
        name = " ".join(found["name"].split()).lstrip("=+-@ ")
        row = people.setdefault(name.casefold(), {"name": name})
        count[row["name"]] += 1
        new = {id: int(bool(right)) for id, right in found["exercises"].items()}
        new |= {f"quiz {notebook}": sum(map(bool, tries)) for notebook, tries in found["quiz"].items()}
        row.update({key: max(value, row.get(key, 0)) for key, value in new.items()})
    others = {path for path in folder.rglob("*") if path.suffix.lower() == ".json"} - {*files(folder)}
    if left_out := sorted(str(path.relative_to(folder)) for path in others if not path.name.startswith(".")):
        print(f"Not read, for want of hand-in- in the name: {', '.join(left_out)}.")
    if not people:
        raise DataError(f"There is no hand-in-….json in {folder} or below it.")
    if several := [f"{name} ({n} files)" for name, n in count.items() if n > 1]:
        print(f"One row each: {', '.join(several)}. If these are two people, let one take another name.")
    table = pd.DataFrame(list(people.values())).sort_values("name", key=lambda names: names.str.casefold())
    table = table.set_index("name").sort_index(axis=1).astype("Int64")
    every = table.sum().to_frame(f"class of {len(table)}").T
    return pd.concat([table, every.astype("Int64")]).rename_axis("name")


def files(folder: Path) -> list[Path]:
    """The files of :func:`hand_in` below a folder, whatever their case. A learning platform may have put
    something before their names, an editor .txt behind; macOS leaves hidden ones beside them."""
    name = re.compile(r"(?!\.).*hand-in-.*\.json(\.txt)?", re.IGNORECASE)
    return sorted(path for path in folder.rglob("*") if name.fullmatch(path.name))
