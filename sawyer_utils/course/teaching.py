"""Fills the tables of the teacher's guide from the committed results; ``make notebooks`` does so, too."""

from __future__ import annotations

import math
import re
from pathlib import Path

from sawyer_utils.course import notebooks as course
from sawyer_utils.course.page import fill
from sawyer_utils.plumbing.files import project_root, read_json

PAGE = project_root() / "docs" / "teaching.md"
# Estimates, not measurements: 150 words a minute, and 20 seconds, or 50 words, for a code cell.
WORDS_A_MINUTE, CODE_CELL = 150, "word " * 50
UNKNOWN = "not measured"
# A class predicts, votes and argues: twice the time of somebody who reads alone.
CLASS = 2
PLANS = ("90 minutes", "half a day", "two sessions", "extras")
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
    "09_checkable_rewards": ("5. Train", "checkable/seconds_train"),
    "10_ai_feedback": ("6. What does PPO make of it?", "ai_feedback/seconds_train"),
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


def minutes(name: str, results: dict) -> dict[str, tuple[float, float | None, float | None]]:
    """By section of a notebook, and for "all": minutes of reading, of the cells, and of the cells of a run
    that is already trained, which spares the recorded seconds of the training. None is not measured."""
    took, reading = results.get("section_minutes", {}).get(name, {}), reading_minutes(name)
    section, path = TRAINS[name]
    try:
        seconds = number(results, path)
        training = (sum(seconds.values()) if isinstance(seconds, dict) else seconds) / 60
    except KeyError:  # loaded from an earlier run, or an extra that did not run
        training = None
    found = {}
    reading["all"] = sum(reading.values())
    for heading, read in reading.items():
        local = results["minutes"].get(name) if heading == "all" else took.get(heading)
        spared = training if heading in (section, "all") else 0
        trained = None if local is None or spared is None else max(0, local - spared)
        found[heading] = read, local, trained
    return found


def minutes_table(name: str, results: dict) -> str:
    """A notebook's minutes by section, in Markdown."""
    lines = ["| section | reading (estimate) | `local` | already trained |", "|---|---:|---:|---:|"]
    for heading, (read, *measured) in minutes(name, results).items():
        what = "all, without exercises" if heading == "all" else heading
        said = [UNKNOWN if value is None else f"{value:.1f}" for value in measured]
        lines.append(f"| {what} | {max(1, round(read))} | {said[0]} | {said[1]} |")
    return "\n".join(lines)


def class_minutes(where: str, results: dict) -> int:
    """Minutes of a class for ``"10"``, or for sections by number or first words: ``"01: 1, 4, The doubt"``,
    ``"02: all"``, ``"03: all but 5, 6"``; ``"02: 2 live"`` trains. Sections take twice their reading and what
    their cells take, already trained where nothing else is said.

    Raises:
        ValueError: naming a section that the notebook does not have.
    """
    if where.isdecimal():
        return int(where)
    book, _, asked = where.partition(": ")
    name = next(name for name in TRAINS if name.startswith(book))
    live, asked = asked.endswith(" live"), asked.removesuffix(" live")
    table = minutes(name, results)
    table.pop("all")

    def found(words: str) -> str:
        start = f"{words}. " if words.isdecimal() else words
        heading = next((heading for heading in table if heading.startswith(start)), None)
        if heading is None:
            raise ValueError(f"{where}: {name} has no section {words!r}.")
        return heading

    whole = asked.startswith("all")
    named = {found(words) for words in asked.removeprefix("all").removeprefix(" but ").split(", ") if words}
    chosen = [row for heading, row in table.items() if (heading in named) != whole]
    cells = [(local if live else trained) or 0 for _, local, trained in chosen]
    return math.ceil(CLASS * sum(read for read, *_ in chosen) + sum(cells))


def plan(text: str, results: dict) -> str:
    """A timetable with the last column filled by the one before, see :func:`class_minutes`, and in each row
    ``| **…** | | |`` the sum of what stands above it."""
    lines, total = text.splitlines()[:2], 0
    for line in text.splitlines()[2:]:
        what, where = (cell.strip(" `") for cell in line.strip("|").split("|")[:2])
        if where:
            taken = class_minutes(where, results)
            lines.append(f"| {what} | `{where}` | {taken} |")
            total += taken
        else:
            lines.append(f"| {what} | | **{total}** |")
            total = 0
    return "\n".join(lines)


def update(path: Path = PAGE, results: dict | None = None) -> None:
    """Fill the tables of minutes and the timetables, and the third column of the table of numbers by the path
    in its fourth.

    Raises:
        ValueError: if a mark is missing, or a section that a timetable names.
        KeyError: if a notebook that ran has not recorded a number.
    """
    results = results or read_json(project_root() / "results" / "local.json")

    def number_of(row: re.Match) -> str:
        stage = row["path"].split("/")[0]
        value = shown(number(results, row["path"])) if results.get(stage) else UNKNOWN
        return f"{row['start']} {value} | `{row['path']}` |"

    def numbers(table: str) -> str:
        return re.sub(r"^(?P<start>\|.*\|.*\|)[^|]*\| `(?P<path>[^`|]+)` \|$", number_of, table, flags=re.M)

    makers = {"numbers": numbers}
    makers |= {name: lambda _, name=name: minutes_table(name, results) for name in TRAINS}
    makers |= dict.fromkeys(PLANS, lambda table: plan(table, results))
    fill(path, makers)
