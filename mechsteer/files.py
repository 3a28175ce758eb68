"""Files: where bundled data lies, and writing so that nothing partial ever looks whole."""

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.checksums import BLANK, NAME, check, has_checksum, sealed
from mechsteer.errors import MechsteerError, nearest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PACKAGE = Path(__file__).resolve().parent


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


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file name beside ``path`` to write to; rename it to ``path`` when all went well.

    On any error the temporary file is removed and ``path`` is left as it was.

    Raises:
        MechsteerError: if the folder cannot be written to or the disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=f".tmp{target.suffix}", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise MechsteerError(f"Cannot write {target}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def writable_dir(path: str | os.PathLike[str]) -> Path:
    """Make the folder if needed and prove, by writing, that files can be put in it.

    Raises:
        MechsteerError: if not, with the reason; before any long work has started.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".mechsteer-", dir=folder):
            pass
    except OSError as error:
        raise MechsteerError(f"Output folder {folder} is not writable: {error.strerror or error}.") from error
    return folder


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


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        MechsteerError: if it is missing, cannot be read or is not JSON.
    """
    return from_json(path, read_bytes(path))


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
    stated = found.pop(NAME, None) if isinstance(found, dict) else None
    if stated is not None or has_checksum(content):  # one flipped bit cannot hide both
        check(content, path, what)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def from_json(path: str | os.PathLike[str], content: bytes) -> Any:
    """What JSON text says; ``path`` is where it came from.

    Raises:
        MechsteerError: if it is not JSON.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))  # with or without a byte order mark
    except ValueError as error:
        raise MechsteerError(f"{path} is not a JSON file: {error}.") from None


def read_bytes(path: str | os.PathLike[str], what: str = "file") -> bytes:
    """All bytes of a file.

    Raises:
        MechsteerError: if it is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise MechsteerError(f"No such {what}: {path}.") from None
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
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MechsteerError(f"No such file: {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MechsteerError(f"{path} is not a readable {what} file: {error}.") from None


def write_table(table: "pd.DataFrame", stem: str | os.PathLike[str], *, csv: bool = True) -> list[Path]:
    """Write a table as ``stem.parquet`` (the record) and, unless told not to, ``stem.csv`` (for people), atomically.

    The parquet file holds a checksum over all of its bytes.
    """
    paths = [Path(f"{stem}.parquet")]
    noted = table.copy(deep=False)
    noted.attrs = {**table.attrs, NAME: BLANK}  # pandas writes these into the file's metadata
    with atomic_path(paths[0]) as temporary:
        noted.to_parquet(temporary, index=False)
        temporary.write_bytes(sealed(temporary.read_bytes()))
    if csv:
        paths.append(Path(f"{stem}.csv"))
        with atomic_path(paths[1]) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    return paths


def parquet_bytes(table: "pa.Table") -> bytes:
    """The table as a parquet file with a checksum, which lies in the metadata of its schema: for :func:`read_table`."""
    import pyarrow.parquet as pq

    noted = table.replace_schema_metadata({**(table.schema.metadata or {}), NAME.encode(): BLANK.encode()})
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
    return table


def digest(value: Any) -> str:
    """A short, stable hash of anything JSON can express: used for data sets and grid cells."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """The versions of the packages that decide numbers."""
    names = ("mechsteer", "torch", "transformers", "transformer-lens")
    found: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    from mechsteer import __version__

    return found | {"mechsteer": __version__}
