"""Tasks by name, for the command line: bundled ones, IFEval's file, and files of one's own."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, unknown
from mechsteer.files import file_at, json_value
from mechsteer.tasks.answers import copying, recall
from mechsteer.tasks.ifeval import MAX_NEW_TOKENS as LONGEST
from mechsteer.tasks.ifeval.file import ifeval
from mechsteer.tasks.instructions import instructions
from mechsteer.tasks.memotrap import memotrap
from mechsteer.tasks.own_task import MAX_NEW_TOKENS, task

BUNDLED: Mapping[str, Callable[[], Any]] = {
    "memotrap": memotrap,
    "instructions": instructions,
    "recall": recall,
    "copying": copying,
}


def named_task(name: str, *, check: str | None = None, max_new_tokens: int | None = None) -> Any:
    """The task of a name or file.

    Args:
        name: A bundled task, IFEval's JSONL file (known by its ``instruction_id_list``), a CSV file of traps (known by
            its column ``answer_index``), or a JSONL or CSV file of one's own.
        check: The check of one's own file, where its lines name none.
        max_new_tokens: The most new tokens, of IFEval's and one's own file.

    Raises:
        MechsteerError: for an unknown name or a file that cannot be read.
    """
    path = Path(name)
    known = _kind(path) if path.suffix else ""
    if path.suffix and not known:
        return task(path, check=check, max_new_tokens=MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens)
    if not path.suffix and name not in BUNDLED:
        raise MechsteerError(f"{unknown('task', name, [*BUNDLED, 'FILE.jsonl', 'FILE.csv'])}{_instead(name, path)}")
    if check is not None or (max_new_tokens is not None and known != "ifeval"):
        raise MechsteerError(f"The task {name!r} has a check and a length of its own.")
    if known == "ifeval":
        return ifeval(path, max_new_tokens=LONGEST if max_new_tokens is None else max_new_tokens)
    return memotrap(path) if known else BUNDLED[name]()


def _instead(name: str, path: Path) -> str:
    """What a name is that stands in the place of a task."""
    if name.startswith("organism:") or (path / "config.json").is_file():
        return " That is a model: are the arguments swapped?"
    return " A folder is none." if path.is_dir() else ""


def _kind(path: Path) -> str:
    """``ifeval`` or ``memotrap`` for a file of theirs, else empty; a broken file is its reader's matter."""
    with suppress(OSError, UnicodeDecodeError, ValueError), file_at(path).open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
        if path.suffix == ".csv":
            return "memotrap" if "answer_index" in first and "classes" in first else ""
        row = json_value(first)
        return "ifeval" if isinstance(row, dict) and "instruction_id_list" in row else ""
    return ""
