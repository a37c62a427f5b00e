"""Fills the tables of the teacher's guide from the committed results; ``make notebooks`` does so, too."""

from __future__ import annotations

import re
from pathlib import Path

from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import project_root, read_json

PAGE = project_root() / "docs" / "teaching.md"
MARKS = "<!-- {name}: made by `make notebooks` -->", "<!-- end of {name} -->"
# Estimates, not measurements: 150 words a minute, and 20 seconds, or 50 words, for a code cell.
WORDS_A_MINUTE, CODE_CELL = 150, "word " * 50
UNKNOWN = "not measured"
# The section of each notebook that trains, and where its seconds are recorded.
TRAINS = {
    "01_sft": ("4. How is it trained?", "sft/seconds_train"),
    "02_reward": ("4. What if the model can already read?", "reward/seconds_train"),
    "03_ppo": ("7. Train", "ppo/seconds_train"),
    "04_eval": ("2. Is it better, by two judges?", "eval/seconds/gold"),
    "05_ppo_vs_dpo": ("5. Train", "versus/seconds_train"),
    "06_reward_hacking": ("6. What helps?", "hacking/seconds_train"),
    "07_neutral_summaries": ("6. Train", "neutral/seconds_train"),
    "08_domain_adaptation": ("3. How is it taught?", "domain/seconds_train"),
}


def number(results: dict, path: str):
    """The value at a path of keys; ``last`` is a list's last row, other keys find a row that holds them.

    Raises:
        KeyError: if the results have no such value.
    """
    value = results
    for key in path.split("/"):
        if isinstance(value, list):  # reversed, so that the first row that holds the key is found
            rows = {str(cell): row for row in reversed(value) for cell in row.values()}
            value = rows | {"last": value[-1]}
        value = value[key]
    return value


def shown(value) -> str:
    """A number in two digits, with its interval where it has one; counts and words stay as they are."""
    if isinstance(value, dict):
        middle = "difference" if "difference" in value else "right"
        value = [value[key] for key in (middle, "low", "high")]
    if isinstance(value, list):
        return "{:.2f} [{:.2f}, {:.2f}]".format(*value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def reading_minutes(name: str) -> dict[str, float]:
    """Estimated minutes by section (``##`` heading) of a notebook, up to the exercises.

    Raises:
        ValueError: if the notebook has no exercises.
    """
    cells = course.build(name).cells
    text = "\n\n".join(CODE_CELL if cell.cell_type == "code" else cell.source for cell in cells)
    parts = re.split(r"^## (.+)$", text[: text.index("\n## Exercises")], flags=re.MULTILINE)[1:]
    sections = zip(parts[::2], parts[1::2], strict=True)
    return {heading: len(said.split()) / WORDS_A_MINUTE for heading, said in sections}


def minutes_table(name: str, results: dict) -> str:
    """A notebook's minutes by section; "already trained" is without the recorded seconds of its training."""
    took, reading = results.get("section_minutes", {}).get(name, {}), reading_minutes(name)
    section, path = TRAINS[name]
    try:
        seconds = number(results, path)
        training = (sum(seconds.values()) if isinstance(seconds, dict) else seconds) / 60
    except KeyError:  # loaded from an earlier run, or an extra that did not run
        training = None
    rows = [(heading, minutes, took.get(heading), heading == section) for heading, minutes in reading.items()]
    rows.append(("all, without exercises", sum(reading.values()), results["minutes"].get(name), True))
    lines = ["| section | reading (estimate) | `local` | already trained |", "|---|---:|---:|---:|"]
    for what, minutes, local, trains in rows:
        spared = training if trains else 0
        trained = None if local is None or spared is None else max(0, local - spared)
        said = [UNKNOWN if value is None else f"{value:.1f}" for value in (local, trained)]
        lines.append(f"| {what} | {max(1, round(minutes))} | {said[0]} | {said[1]} |")
    return "\n".join(lines)


def update(path: Path = PAGE, results: dict | None = None) -> None:
    """Fill the tables of minutes, and the third column of the table of numbers by the path in its fourth.

    Raises:
        ValueError: if a mark is missing.
        KeyError: if a notebook that ran has not recorded a number.
    """
    results = results or read_json(project_root() / "results" / "local.json")

    def filled(row: re.Match) -> str:
        stage = row["path"].split("/")[0]
        value = shown(number(results, row["path"])) if results.get(stage) else UNKNOWN
        return f"{row['start']} {value} | `{row['path']}` |"

    text = path.read_text(encoding="utf-8")
    for name in (*TRAINS, "numbers"):
        start, end = (mark.format(name=name) for mark in MARKS)
        if start not in text or end not in text:
            raise ValueError(f"{path.name} has lost its marks: {start} … {end}")
        before, rest = text.split(start, 1)
        table, after = rest.split(end, 1)
        if name in TRAINS:
            table = f"\n{minutes_table(name, results)}\n"
        else:
            table = re.sub(r"^(?P<start>\|.*\|.*\|)[^|]*\| `(?P<path>[^`|]+)` \|$", filled, table, flags=re.M)
        text = before + start + table + end + after
    path.write_text(text, encoding="utf-8")
