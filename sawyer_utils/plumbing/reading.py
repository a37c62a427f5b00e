"""The files that people bring, as raw rows: JSON lines, JSON, CSV, Parquet, or a folder of them.

One way to find a file and one way to decode it: UTF-8 with or without BOM, and only "\\n" and "\\r\\n" end a
line (a text may hold U+2028 or U+0085). Every problem names the file and the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sawyer_utils.plumbing import paths
from sawyer_utils.plumbing.files import project_root

# Of a CSV: columns whose cells are JSON (all others may hold messages), and of whole numbers, true and false.
NESTED = {"messages", "conversations", "conversation", "responses", "completions", "choices"}
NESTED |= {"mc1_targets", "mc2_targets", "keys", "lessons"}
NUMBERS = {"label", "unknown"}
NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # of ``datasets``
NO_ROWS |= {"readme.txt", "license.txt", "licence.txt", "notice.txt", "copying.txt"}

Rows = Iterator[tuple[str, dict]]


class DataError(ValueError):
    """Data that cannot be used; the message names file, line and field."""


class Unusable(DataError):
    """A row that is well formed and teaches nothing (an empty answer, two equal ones): left out, counted."""


@contextmanager
def within(place: str) -> Iterator[None]:
    """Let a DataError from inside say where."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{place}: {error}") from None


def locate(source: str, what: str = "") -> Path | None:
    """The whole path of the file or folder that ``source`` names; None for what reads as a Hub id. A relative
    path is looked for in the working directory, then in the repository.

    Args:
        what: the setting that said so, for the message.

    Raises:
        DataError: if it can only be a path, and there is none, with the places that were looked at.
    """
    if not source.strip():
        raise DataError("no file is named")
    at_root = project_root() / os.path.expanduser(source)
    if re.match(r"\w+://|[\w.-]+/[\w.-]+@", source) and not (paths.is_there(source) or at_root.exists()):
        raise DataError(f"{source}: no address and no revision can be read: download it, and name the file")
    try:
        found = paths.existing(source, what)
    except paths.NoSuchPath as error:
        if not at_root.exists():
            raise DataError(f"{error} Nor is there {at_root}.") from None
        found = at_root
    found = at_root if found is None and at_root.exists() else found
    return found and Path(os.path.abspath(found))  # a link keeps its own name, whose ending says the kind


def named_files(folder: str, names: Iterable[str]) -> dict[str, Path]:
    """The files (or folders) in a folder that are called by one of the names, whatever their ending.

    Raises:
        DataError: if there is no such folder, none of them, two of one name, or one that cannot be read.
    """
    path = locate(folder)
    if path is None or not path.is_dir():
        raise DataError(f"{folder}: no such folder")
    every = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    held = [file for file in every if file.is_dir() or kind_of(file) in READERS]
    found = {name: [file for file in held if _stem(file) == name] for name in names}
    if unread := [file.name for file in every if found.get(_stem(file)) == []]:
        raise DataError(f"{path}: {unread[0]} is no file that is read (those are {', '.join(READERS)})")
    if twice := [files for files in found.values() if len(files) > 1]:
        raise DataError(f"{path}: which one? {', '.join(file.name for file in twice[0])}")
    if not any(found.values()):
        raise DataError(f"{path}: holds none of {', '.join(found)} (with {', '.join(READERS)})")
    if unused := [file.name for file in every if [file] not in found.values()]:
        print("not used:", ", ".join(unused))
    return {name: files[0] for name, files in found.items() if files}


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def kind_of(path: Path) -> str:
    """The ending that says how a file is read; ".gz" after it does not count, nor Notepad's ".txt"."""
    name = Path(path.name.lower().removesuffix(".gz"))
    inner = Path(name.stem).suffix
    return inner if name.suffix == ".txt" and inner in READERS else name.suffix


def raw_rows(path: Path) -> Rows:
    """(where it stands, row) of a file, or of all files in a folder.

    Raises:
        DataError: naming file, line and field.
    """
    if path.is_dir():
        every = (f for f in sorted(path.rglob("*")) if f.is_file())  # with Jupyter's .ipynb_checkpoints
        seen = [f for f in every if "/." not in f"/{f.relative_to(path).as_posix()}"]
        files = [f for f in seen if kind_of(f) in READERS and f.name.lower() not in NO_ROWS]
        if not files:
            raise DataError(f"{path}: no file with {', '.join(READERS)} in this folder")
        for file in files:
            yield from raw_rows(file)
    else:
        yield from READERS.get(kind_of(path), _json)(path)


def _text(path: Path) -> str:
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path.name}: damaged ({error})") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data and not wide:
        what = "no text (an Excel file, an archive?)"
        raise DataError(f"{path.name}: {what}: save it as CSV (UTF-8), JSON lines or Parquet")
    try:
        return data.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path.name}, line {line}: not in {error.encoding}: save it as UTF-8") from None


def _lines(path: Path, text: str | None = None) -> Rows:
    """A text a line; blank lines do not count."""
    text = _text(path) if text is None else text
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path.name}, line {number}", {"text": line.strip()}


def _json(path: Path) -> Rows:
    """One object a line, or one value with all: a list, or in an object "data", "rows" or its splits."""
    text, whole = _text(path), None
    first = text.lstrip()[:1]
    if kind_of(path) == ".json" or first == "[":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            if first != "{" or "Extra data" not in str(error):  # lines, in a file called .json
                raise DataError(f"{path.name}: not JSON ({error})") from None
    if isinstance(whole, dict):
        whole = _of_splits(whole) or _of_columns(whole)
    rows = enumerate(whole if isinstance(whole, list) else [whole], 1)
    places = _parsed(path, text) if whole is None else ((f"{path.name}, row {i}", row) for i, row in rows)
    for place, row in places:
        with within(place):
            if not isinstance(row, dict):
                raise DataError("not a JSON object")
            _refuse_half_characters(row)
        yield place, row


def _of_splits(whole: dict) -> list:
    """The rows in "data" or "rows"; or those of the splits, if there are several, each with its name."""
    names = ("data", "rows", "train", "test", "validation", "valid", "val", "dev")
    found = {name: whole[name] for name in names if isinstance(whole.get(name), list)}
    if len(found) < 2 or found.keys() & {"data", "rows"}:
        return next(iter(found.values()), [])
    rows = [(name, row) for name, some in found.items() for row in some]
    return [{"split": name, **row} if isinstance(row, dict) else row for name, row in rows]


def _of_columns(whole: dict) -> list[dict]:
    """One row; or those of a table by its columns, {"prompt": {"0": …, "1": …}, …}, as pandas writes it,
    or {"prompt": […], …} of texts and numbers."""
    lists = [column for column in whole.values() if isinstance(column, list)]
    plain = not any(isinstance(cell, (dict, list)) for column in lists for cell in column)
    if lists and plain and len(lists) == len(whole) and len({*map(len, lists)}) == 1:
        return [dict(zip(whole, row)) for row in zip(*lists)]
    columns = [list(column) if isinstance(column, dict) else [] for column in whole.values()]
    if not columns or any(c != columns[0] for c in columns) or not "".join(columns[0]).isdecimal():
        return [whole]
    return [{name: column[number] for name, column in whole.items()} for number in columns[0]]


def _parsed(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for place, line in _lines(path, text):
        try:
            yield place, json.loads(line["text"].removeprefix("\ufeff"))  # of files that were put together
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON ({error})") from None


def _refuse_half_characters(row: dict) -> None:
    """JSON can spell half of an emoji, which no tokenizer takes."""
    for name, value in row.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(f"field {name!a} holds half a character, such as \\ud83d alone") from None


def _csv(path: Path) -> Rows:
    """Named columns in the first line; separated by commas, semicolons or tabs, whichever that line has. A
    column without a name (pandas' index), and rows without a word, do not count."""
    text = _text(path)
    sign = max(",;\t", key=text.split("\n", 1)[0].count)
    csv.field_size_limit(2**31 - 1)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
    line = 1
    try:
        head = next(table, ())
        head = next(table, ()) if head[:1] == ["sep="] else head  # a line that Excel reads
        names = [name.strip() for name in head]
        names = [name if len(name) == 1 else name.lower() for name in names]
        if len(set(names) - {""}) < len(names) - names.count(""):
            raise DataError(f"{path.name}, line 1: a column twice: {names}")
        line = table.line_num + 1
        for cells in table:
            if any(map(str.strip, cells)):
                with within(f"{path.name}, line {line}"):
                    if len(cells) != len(names):
                        raise DataError(f"not a cell for each of {len(names)} columns")
                    row = {name: _cell(name, cell) for name, cell in zip(names, cells) if name}
                yield f"{path.name}, line {line}", row
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name}, line {line}: not CSV ({error})") from None


def _cell(name: str, text: str) -> Any:
    bare = text.strip()
    if not bare or (name not in NUMBERS and bare[0] not in "[{"):
        return text
    try:
        value = json.loads(bare.lower() if name in NUMBERS else bare)
    except (ValueError, RecursionError):
        if re.match(r"[\[{]\s*[{'\"]" if name in NESTED else r"\[\s*{\s*'(role|content|from|value)'", bare):
            raise DataError(
                f"field {name!r} is a list as Python prints it, and no JSON: save the data as JSON or Parquet"
            ) from None
        return text  # it begins with a bracket, or is no number: the row's check says so
    if name not in NESTED | NUMBERS and not _has_messages(value):
        return text  # an answer may be JSON
    _refuse_half_characters({name: value})
    return value


def _has_messages(value: Any) -> bool:
    keys = (one.keys() for one in value if isinstance(one, dict)) if isinstance(value, list) else ()
    return any(named >= {"role", "content"} or named >= {"from", "value"} for named in keys)


def _parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name}: damaged, or not Parquet ({error})") from None
    return ((f"{path.name}, row {number}", row) for number, row in enumerate(rows, 1))


READERS = dict.fromkeys((".jsonl", ".json", ".ndjson"), _json) | dict.fromkeys((".csv", ".tsv"), _csv)
READERS |= {".parquet": _parquet, ".txt": _lines}
