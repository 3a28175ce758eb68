"""Files: where bundled data lies, and writing so that nothing partial ever looks whole."""

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mechsteer.checksums import BLANK, NAME, check, has_checksum, sealed
from mechsteer.errors import MechsteerError, nearest, shown

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PACKAGE = Path(__file__).resolve().parent
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # half a character, escaped or not


def data_path(*parts: str) -> Path:
    """The path of a bundled file or folder, e.g. ``data_path("organisms", "trap-t5")``.

    An installed wheel keeps the data inside the package; a checkout keeps it beside the package.

    Raises:
        MechsteerError: if there is no such file, naming what is there instead.
    """
    roots = [root for root in (_PACKAGE / "data", _PACKAGE.parent / "data") if root.is_dir()]
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    if not roots:
        raise MechsteerError(f"mechsteer's data folder is missing; looked beside and inside {_PACKAGE}.")
    parent = roots[0].joinpath(*parts[:-1])
    names = [child.name for child in parent.iterdir()] if parent.is_dir() else []
    raise MechsteerError(f"No bundled data {'/'.join(parts)!r}.{nearest(parts[-1] if parts else '', names)}")


def as_path(path: Any) -> Path:
    """The path that was given, where a file can have it.

    Raises:
        MechsteerError: for what is no path, or a text with a NUL or half a character in it.
    """
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise MechsteerError(f"A path is a text or a pathlib.Path, got {shown(path)}.")
    try:
        whole = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise MechsteerError(f"No file can have the path {shown(name)}: a NUL or half a character is in it.")
    return Path(path)


def printable(path: str) -> str:
    """A path as a text that files can hold: bytes of it that are not UTF-8 as escapes."""
    return path.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file name beside ``path`` to write to; rename it to ``path`` when all went well.

    On any error the temporary file is removed and ``path`` is left as it was. What a killed process left is removed by
    the next one that writes into the folder.

    Raises:
        MechsteerError: if the folder cannot be written to or the disk is full, for what is no path, or if the block
            cannot encode a text.
    """
    target = as_path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(target.parent.absolute(), os.getpid())
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=f"{LEFT}{target.suffix}", dir=target.parent)
        temporary = Path(name)
        with open(handle, "rb") as held:  # noqa: PTH123
            _locked(held)
            temporary.chmod(0o666 & ~_umask())
            yield temporary
        temporary.replace(target)
    except OSError as error:
        raise MechsteerError(f"Cannot write {target}: {error.strerror or error}.") from error
    except UnicodeEncodeError as error:
        part = shown(error.object[max(0, error.start - 20) : error.end])
        raise MechsteerError(f"Cannot write {target}: in {part} is half a character (a lone surrogate).") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


LEFT = ".mechsteer.tmp"
"""In the names of temporary files."""


@functools.cache
def _clean(folder: Path, process: int) -> None:
    """Remove the temporary files of writers that are dead; once in a folder and process."""
    for path in folder.glob(f".*{LEFT}*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            time.sleep(min(max(0.0, path.stat().st_mtime + _FRESH - time.time()), _FRESH))
            if _locked(file):
                path.unlink()


def _locked(file: IO[bytes]) -> bool:
    """Lock a file for as long as it is open; False where another process has it, or there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which the system releases when this process dies.

    Yields:
        Whether it is held: not where another process has it, where the folder is gone, or without file locks (Windows).
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(handle)


_FRESH = 0.1  # seconds in which a writer that has just made its file has locked it


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def writable_dir(path: str | os.PathLike[str]) -> Path:
    """Make the folder if needed and prove, by writing, that files can be put in it.

    Raises:
        MechsteerError: if not, with the reason; before any long work has started.
    """
    folder = as_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".mechsteer-", suffix=LEFT, dir=folder):
            pass
    except OSError as error:
        raise MechsteerError(f"Output folder {folder} is not writable: {error.strerror or error}.") from error
    return folder


def plain_name(name: str, what: str) -> str:
    """Return ``name`` if a file of that name lies in the folder that it is put in.

    Raises:
        MechsteerError: for a name with a way to another folder.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise MechsteerError(f"The name of a {what} is that of a file, without a folder, got {shown(name)}.")
    return name


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(_json_bytes(value))
    return Path(path)


def write_record(path: str | os.PathLike[str], record: dict[str, Any]) -> Path:
    """Write a dict as indented JSON, atomically, with a checksum over the whole file under the name ``checksum``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(record_bytes(record))
    return Path(path)


def record_bytes(record: dict[str, Any]) -> bytes:
    """The content of the file that :func:`write_record` writes."""
    return sealed(_json_bytes({**record, NAME: BLANK}))


def read_json(path: str | os.PathLike[str], *, once: bool = False) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        once: See :func:`json_value`.

    Raises:
        MechsteerError: if it is missing, cannot be read or is not JSON.
    """
    return from_json(path, read_bytes(path), once=once)


def read_record(path: str | os.PathLike[str], what: str) -> Any:
    """Read what :func:`write_record` wrote, or a record of the first versions, which have no checksum.

    Args:
        path: The file.
        what: What it is, for the message.

    Raises:
        MechsteerError: if it is missing, not JSON, or not bit for bit what was written.
    """
    content = read_bytes(path)
    found = from_json(path, content)
    check_record(path, content, found, what)
    return found


def check_record(path: str | os.PathLike[str], content: bytes, found: Any, what: str) -> None:
    """Verify the content of a record; the checksum is taken out of what was found in it.

    Raises:
        MechsteerError: if it is not bit for bit what was written.
    """
    named = isinstance(found, dict) and NAME in found
    if named:
        del found[NAME]
    if named or has_checksum(content):  # one flipped bit cannot hide both
        check(content, path, what)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def from_json(path: str | os.PathLike[str], content: bytes, *, once: bool = False) -> Any:
    """What JSON text says; ``path`` is where it came from.

    Raises:
        MechsteerError: if it is not JSON, or has half a character (a lone surrogate) in a text.
    """
    try:
        return json_value(content.decode("utf-8-sig"), once=once)  # with or without a byte order mark
    except ValueError as error:  # also a number of thousands of digits
        raise MechsteerError(f"{path} is not a JSON file: {error}.") from None


def json_value(text: str, *, once: bool = False) -> Any:
    """What JSON text says.

    Args:
        text: The text.
        once: Refuse an object with a name that is there twice, of which JSON would keep the last value: for what people
            write.

    Raises:
        ValueError: if it is not JSON, is too deep, or has a text that no file and no tokenizer takes.
    """
    try:
        found = json.loads(text, object_pairs_hook=_each_once if once else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _HALF.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # which a pair of them, one whole character, survives
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if again := repeated(name for name, _ in pairs):
        raise ValueError(f"{shown(again)} is there twice")
    return dict(pairs)


def repeated(names: Iterable[str]) -> str:
    """The first name that is there twice; empty where none is."""
    seen: set[str] = set()
    return next((name for name in names if name and (name in seen or seen.add(name))), "")


def file_at(path: str | os.PathLike[str], what: str = "file") -> Path:
    """The path, if a file may be there that has an end.

    Args:
        path: The path.
        what: What is expected, for errors.

    Raises:
        MechsteerError: for a folder, a pipe or a device, where nothing is, and for a path that no file can have.
    """
    file = as_path(path)
    try:
        kind = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise MechsteerError(f"No such {'file' if what.endswith('file') else what}: {path}.") from None
    except OSError as error:
        raise MechsteerError(f"Cannot read {shown(str(file))}: {error.strerror}.") from None
    if stat.S_ISDIR(kind):
        raise MechsteerError(f"Cannot read {path}: a folder is not a readable {what}.")
    if not stat.S_ISREG(kind):  # where reading may never end
        raise MechsteerError(f"{path} is a pipe or a device; expected a {what}, into which what it gives is written.")
    return file


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether something is at a path; not where no file can be (a name that is too long, or has a NUL in it)."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        MechsteerError: if it cannot be removed: it is a folder, say, or in one that may not be written to.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MechsteerError(f"Cannot remove {path}: {error.strerror or error}.") from None


def home(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` as the user's folder; as it is for a user that this machine does not have."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def read_bytes(path: str | os.PathLike[str], what: str = "file") -> bytes:
    """All bytes of a file.

    Raises:
        MechsteerError: if it is missing or cannot be read.
    """
    try:
        return file_at(path, what).read_bytes()
    except OSError as error:
        raise MechsteerError(f"Cannot read {path}: {error.strerror or error}.") from None


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """The text of a user's file, in UTF-8, without a mark at its start.

    Args:
        path: The file.
        what: What it should be, for errors: ``"JSONL"``.

    Raises:
        MechsteerError: if it is missing or cannot be read.
    """
    try:
        return file_at(path, f"{what} file").read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MechsteerError(f"{path} is not a readable {what} file: save it as UTF-8 ({error}).") from None
    except OSError as error:
        raise MechsteerError(f"{path} is not a readable {what} file: {error}.") from None


EMPTY_COLUMNS = {
    **dict.fromkeys(("layer", "max_new_tokens", "n", "notes", "sample", "seed"), "integer"),
    **dict.fromkeys(("strength", "temperature"), "number"),
    "with_instruction": "truth value",
}
"""What a column of that name holds where it holds anything."""

_EMPTY = "columns without a value"
_PANDAS = {"integer": "Int64", "number": "Float64", "truth value": "boolean"}


def write_table(table: "pd.DataFrame", stem: str | os.PathLike[str], *, csv: bool = True) -> list[Path]:
    """Write a table as ``stem.parquet`` (the record) and, unless told not to, ``stem.csv`` (for people), atomically.

    The parquet file holds a checksum over all of its bytes. A column without a value has a type as well, so that tables
    of one kind have one schema: that of :data:`EMPTY_COLUMNS`, else text.

    Raises:
        MechsteerError: for values that parquet does not hold together in a column, or a file that cannot be written.
    """
    import pandas as pd

    paths = [Path(f"{stem}.parquet")]
    empty = [str(name) for name in table if table[name].dtype == object and table[name].isna().all()]
    types = _PANDAS | {
        "text": "string" if pd.Series([""]).dtype == object else "str"
    }  # before pandas 3, and from it on
    noted = table.astype({name: types[EMPTY_COLUMNS.get(name, "text")] for name in empty})
    noted.attrs = {**table.attrs, NAME: BLANK, _EMPTY: empty}  # pandas writes these into the file's metadata
    with atomic_path(paths[0]) as temporary:
        try:
            content = noted.to_parquet(None, index=False)  # not to a path, which Arrow takes in UTF-8 alone
        except (ValueError, TypeError, NotImplementedError, ArithmeticError) as error:  # pyarrow's are among these
            raise MechsteerError(f"The table {paths[0]} cannot be written as parquet: {error}") from error
        temporary.write_bytes(sealed(content))
    if csv:
        paths.append(Path(f"{stem}.csv"))
        with atomic_path(paths[1]) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    return paths


def parquet_bytes(table: "pa.Table", *, part: bool = False) -> bytes:
    """The table as a parquet file with a checksum, which lies in the metadata of its schema: for :func:`read_table`.

    Args:
        table: The table. Columns without a value get the types that :func:`write_table` gives them.
        part: It is one of several that are put together: columns without a value have no type, and fit any.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.array(pd.Series([""])).type  # large_string from pandas 3 on, string before
    types = {"integer": pa.int64(), "number": pa.float64(), "truth value": pa.bool_(), "text": text}
    empty = [] if part else [field.name for field in table.schema if pa.types.is_null(field.type)]
    for name in empty:
        place = table.schema.get_field_index(name)
        column = table.column(place).cast(types[EMPTY_COLUMNS.get(name, "text")])
        table = table.set_column(place, name, column)
    attrs = json.dumps({_EMPTY: empty}).encode()
    more = {NAME.encode(): BLANK.encode(), b"PANDAS_ATTRS": attrs}  # pandas' name for a table's attrs
    noted = table.replace_schema_metadata({**(table.schema.metadata or {}), **more})
    buffer = io.BytesIO()
    pq.write_table(noted, buffer)
    return sealed(buffer.getvalue())


def read_table(path: str | os.PathLike[str]) -> "pd.DataFrame":
    """Read a parquet table that :func:`write_table` wrote.

    Raises:
        MechsteerError: if it is missing, or not bit for bit what was written.
    """
    import pandas as pd

    content = read_bytes(path, "table")
    check(content, path, "parquet table")
    table = pd.read_parquet(io.BytesIO(content))
    table.attrs.pop(NAME, None)
    for name in table.attrs.pop(_EMPTY, []):
        table[name] = pd.Series([None] * len(table), dtype=object)
    return table


def tables_of(record: Any, path: Path) -> list[str]:
    """The names of the tables that a record names; ``path`` is where the record lies.

    Raises:
        MechsteerError: for what are no names of tables.
    """
    names = record.get("tables", []) if isinstance(record, dict) else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MechsteerError(f"{path} names no tables, got {shown(names)}.")
    return [plain_name(name, "table") for name in names]


@contextlib.contextmanager
def written_together(
    record: Path, tables: "Mapping[str, pd.DataFrame]", others: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """Write tables and the record of what they are, which is there only while all that lies beside it is its own.

    An earlier record goes first, with the tables that it names and that are not written now. Then the tables come, what
    the block writes, and last the new record.

    Args:
        record: The path of the record; the tables lie beside it.
        tables: The tables, by name.
        others: Files that an earlier run may have left, and the block may not write.

    Yields:
        What the record says, to be filled; the names of the tables are added.

    Raises:
        MechsteerError: if something cannot be removed or written.
    """
    earlier, about = [], {}
    with contextlib.suppress(MechsteerError):  # of a damaged record nobody knows which tables were its own
        earlier = tables_of(read_record(record, "record"), record)
    remove(record)
    left = [f"{name}.{suffix}" for name in {*earlier} - {*tables} for suffix in ("parquet", "csv")]
    for name in (*left, *others):
        remove(record.parent / name)
    for name, table in tables.items():
        write_table(table, record.parent / name)
    yield about
    write_record(record, {**about, "tables": list(tables)})


def digest(value: Any) -> str:
    """A short, stable hash of anything JSON can express: used for data sets and grid cells."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    except TypeError:  # for names in it that are no texts, or not all of one type
        text = json.dumps(_with_text_names(value), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _with_text_names(value: Any) -> Any:
    """A value whose names, at any depth, are texts."""
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else repr(name): _with_text_names(one) for name, one in value.items()}
    return [_with_text_names(one) for one in value] if isinstance(value, list | tuple) else value


def versions() -> dict[str, str]:
    """The versions of the packages that decide numbers."""
    from mechsteer import __version__

    return {"mechsteer": __version__} | _installed()


@functools.cache
def _installed() -> dict[str, str]:
    """What stays the same while a process lives, and takes reading files: every key of a cell asks for it."""
    found: dict[str, str] = {}
    for name in ("torch", "transformers", "transformer-lens"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
