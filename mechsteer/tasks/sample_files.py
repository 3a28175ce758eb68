"""Files with samples of one's own, JSONL and CSV; what is wrong in one is named by its line."""

import csv
import io
import os
import warnings
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, shown
from mechsteer.files import as_path, digest, json_value, read_text, repeated
from mechsteer.tasks.checks import TEXT_ARGUMENTS
from mechsteer.tasks.own_samples import KNOWN, OwnSample, is_conversation, read_sample


def read_samples(path: str | os.PathLike[str]) -> list[OwnSample]:
    """The samples of a JSONL file (one object or text a line) or a CSV file (its first line names the columns).

    In a CSV file, an empty cell is an absent value, and a cell that is a JSON value (a number, a list, ``true``) is
    that value where it is an argument of the check, but not where a check by name takes a text there (``contains``).
    Messages are written as JSON.

    Raises:
        MechsteerError: if the file is missing or cannot be read, with the line that is broken.

    Warns:
        UserWarning: if a line repeats another one.
    """
    source = as_path(path)
    if source.suffix.lower() not in (".jsonl", ".csv", ".ndjson"):
        raise MechsteerError(
            f"{shown(str(source))} must be a .jsonl or .csv file; prompts themselves are given as a list, "
            "ms.task([...])."
        )
    text = read_text(source, "text")
    rows = _csv(source, text) if source.suffix.lower() == ".csv" else _jsonl(source, text)
    made = [read_sample(value, f"{source}, line {number}") for number, value in rows]
    if not made:
        raise MechsteerError(f"{source} has no prompts.")
    first: dict[str, int] = {}
    again = [number for number, value in rows if first.setdefault(digest(value), number) != number]
    if again:
        count = f"{len(again)} {'line repeats' if len(again) == 1 else 'lines repeat'} an earlier one"
        warnings.warn(
            f"{source}: {count} (line {again[0]}, for one), so that intervals and tests count what they ask twice.",
            stacklevel=4,
        )
    return made


def _jsonl(source: Path, text: str) -> list[tuple[int, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((number, json_value(line, once=True)))
            except ValueError as error:
                raise MechsteerError(f"{source}, line {number}: not JSON ({error}).") from None
    return rows


def _csv(source: Path, text: str) -> list[tuple[int, Any]]:
    _refuse_other_separators(source, text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # which breaks lines where an editor does
    header: list[str] = []
    rows, line = [], 1
    try:
        for fields in reader:
            if fields and not header:
                header = [name.strip() for name in fields]
                if twice := next((name for name in header if header.count(name) > 1), None):
                    raise MechsteerError(f"{source} has the column {twice!r} twice.")
            elif fields:
                if len(fields) != len(header):
                    raise MechsteerError(
                        f"{source}, line {line}: {len(fields)} fields, but the header has {len(header)}."
                    )
                cells = zip(header, fields, strict=True)
                rows.append((line, {name: _cell(name, cell) for name, cell in cells if cell.strip()}))
            line = reader.line_num + 1
    except csv.Error as error:
        raise MechsteerError(f"{source}, line {line}: not readable as CSV ({error}).") from None
    if again := repeated(header):
        raise MechsteerError(f"{source} has the column {shown(again)} twice.")
    if "prompt" not in header:
        raise MechsteerError(f"{source} lacks the column 'prompt'; it has {', '.join(header) or 'nothing'}.")
    return rows


def _refuse_other_separators(source: Path, text: str) -> None:
    """Refuse a file whose first line separates the names of columns by something else, as some spreadsheets do."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    other = next((sign for sign in (";", "\t", "|") if sign in first), None)
    if other is not None and "prompt" in (name.strip().strip('"').strip() for name in first.split(other)):
        raise MechsteerError(f"{source}, line 1: its fields must be separated by commas, not by {other!r}.")


def _cell(name: str, cell: str) -> Any:
    try:
        value = json_value(cell)
    except ValueError:
        return cell
    if name in KNOWN or name == "check":
        return value if name in ("prompt", "base") and is_conversation(value) else cell
    return cell if name in TEXT_ARGUMENTS and not isinstance(value, str) else value
