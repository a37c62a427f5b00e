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

# Of a CSV: columns whose cells may hold JSON, and those that hold a number or true and false.
NESTED = {"messages", "conversations", "prompt", "completion", "chosen", "rejected", "responses", "choices"}
NESTED |= {"completions", "keys", "lessons"}
NUMBERS = {"label", "score_chosen", "score_rejected"}
NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # of ``datasets``

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
    """The whole path of the file or folder that ``source`` names; None for what reads as a Hub id.

    "~" is the home folder. A relative path is looked for in the working directory, then in the repository.

    Args:
        what: the setting that said so, for the message.

    Raises:
        DataError: if it can only be a path, and there is none, with the places that were looked at.
    """
    at_root = project_root() / os.path.expanduser(source)
    try:
        found = paths.existing(source, what)
    except paths.NoSuchPath as error:
        if not (source.strip() and at_root.exists()):
            raise DataError(
                f"{error} Nor is there {at_root}." if source.strip() else "no file is named"
            ) from None
        found = at_root
    return (found or (at_root if at_root.exists() else None)) and (found or at_root).resolve()


def named_files(folder: str, names: Iterable[str]) -> dict[str, Path]:
    """The files (or folders) in a folder that are called by one of the names, whatever their ending.

    Raises:
        DataError: if there is no such folder, none of them, or two of one name.
    """
    path = locate(folder)
    if path is None or not path.is_dir():
        raise DataError(f"{folder}: no such folder")
    held = sorted(file for file in path.iterdir() if file.is_dir() or kind_of(file) in READERS)
    found = {name: [file for file in held if file.name.split(".")[0].lower() == name] for name in names}
    if twice := [files for files in found.values() if len(files) > 1]:
        raise DataError(f"{path}: which one? {', '.join(file.name for file in twice[0])}")
    if not any(found.values()):
        raise DataError(f"{path}: holds none of {', '.join(found)} (with {', '.join(READERS)})")
    return {name: files[0] for name, files in found.items() if files}


def kind_of(path: Path) -> str:
    """The ending that says how a file is read; ".gz" after it does not count."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def raw_rows(path: Path) -> Rows:
    """(where it stands, row) of a file, or of all files in a folder.

    Raises:
        DataError: naming file, line and field.
    """
    if path.is_dir():
        seen = [f for f in sorted(path.rglob("*")) if f.is_file() and not f.name.startswith(".")]
        files = [f for f in seen if kind_of(f) in READERS and f.name not in NO_ROWS]
        if not files:
            held = ", ".join(f.name for f in seen[:5]) or "nothing"
            raise DataError(f"{path}: no file with {', '.join(READERS)} in this folder; it holds {held}")
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
    wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, at = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start) - 1
        advice = " (this is UTF-16: save the file as UTF-8)" if wide else " (the course reads UTF-8)"
        raise DataError(f"{path.name}, line {line}: bad UTF-8 at byte {at}{advice}") from None


def _json(path: Path) -> Rows:
    """One object a line, or one list of them; blank lines do not count."""
    text = _text(path)
    if kind_of(path) == ".json" or text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except RecursionError:
            raise DataError(f"{path.name}: nested too deep") from None
        except ValueError as error:
            if not (text.lstrip().startswith("{") and "Extra data" in str(error)):
                line = getattr(error, "lineno", 1)
                raise DataError(f"{path.name}, line {line}: not JSON ({error})") from None
        else:
            if isinstance(whole, dict):
                inner = (whole[key] for key in ("data", "rows", "train") if isinstance(whole.get(key), list))
                whole = next(inner, [whole])
            for number, row in enumerate(whole if isinstance(whole, list) else [whole], 1):
                yield _checked(f"{path.name}, row {number}", row)
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            with within(f"{path.name}, line {number}"):
                try:
                    row = json.loads(line.removeprefix("\ufeff"))  # of files that were put together
                except (ValueError, RecursionError) as error:
                    raise DataError(f"not JSON ({error})") from None
            yield _checked(f"{path.name}, line {number}", row)


def _checked(place: str, row: Any) -> tuple[str, dict]:
    with within(place):
        if not isinstance(row, dict):
            raise DataError("not a JSON object")
        _refuse_half_characters(row, "")
    return place, row


def _refuse_half_characters(value: Any, field: str) -> None:
    """JSON can spell half of an emoji, which no tokenizer takes."""
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise DataError(f"field {field!r} holds half a character, a lone surrogate such as \\ud83d")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        place = f"{field}[{key}]" if isinstance(key, int) else f"{field}.{key}".lstrip(".")
        if isinstance(key, str):
            _refuse_half_characters(key, ascii(key))
        _refuse_half_characters(inner, place)


def _csv(path: Path) -> Rows:
    """Named columns in the first line; separated by commas, semicolons or tabs, whichever that line has."""
    text = _text(path)
    first = text.split("\n", 1)[0]
    csv.field_size_limit(2**31 - 1)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    names, line = None, 1
    try:
        for cells in table:
            if cells and names is None:
                names = [cell.strip() for cell in cells]
                names = [name if len(name) == 1 else name.lower() for name in names]
                if len(set(names)) < len(names) or "" in names:
                    raise DataError(f"{path.name}, line {line}: a column without a name, or twice: {names}")
            elif cells:
                if len(cells) != len(names):
                    raise DataError(f"{path.name}, line {line}: {len(cells)} cells for {len(names)} columns")
                yield f"{path.name}, line {line}", {n: _cell(n, c) for n, c in zip(names, cells, strict=True)}
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name}, line {line}: not CSV ({error})") from None


def _cell(name: str, text: str) -> Any:
    if (name in NESTED and text.strip()[:1] in ("[", "{")) or (name in NUMBERS and text.strip()):
        try:
            return json.loads(text.lower() if name in NUMBERS else text)
        except ValueError:
            return text  # it begins with a bracket, or is no number: the row's check says so
    return text


def _parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name}: damaged, or not Parquet ({error})") from None
    for number, row in enumerate(rows, 1):
        yield f"{path.name}, row {number}", row


def _lines(path: Path) -> Rows:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name}, line {number}", {"text": line.strip()}


READERS = {".jsonl": _json, ".json": _json, ".ndjson": _json, ".csv": _csv, ".tsv": _csv}
READERS |= {".parquet": _parquet, ".txt": _lines}
