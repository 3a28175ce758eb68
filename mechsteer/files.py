"""Files: where bundled data lies, and writing so that nothing partial ever looks whole."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, nearest

if TYPE_CHECKING:
    import pandas as pd

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
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(path)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        MechsteerError: if it is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except FileNotFoundError:
        raise MechsteerError(f"No such file: {path}.") from None
    except OSError as error:
        raise MechsteerError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MechsteerError(f"{path} is not a JSON file: {error}.") from None


def write_table(table: "pd.DataFrame", stem: str | os.PathLike[str], *, csv: bool = True) -> list[Path]:
    """Write a table as ``stem.parquet`` (the record) and, unless told not to, ``stem.csv`` (for people), atomically."""
    paths = [Path(f"{stem}.parquet")]
    with atomic_path(paths[0]) as temporary:
        table.to_parquet(temporary, index=False)
    if csv:
        paths.append(Path(f"{stem}.csv"))
        with atomic_path(paths[1]) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    return paths


def read_table(path: str | os.PathLike[str]) -> "pd.DataFrame":
    """Read a parquet table.

    Raises:
        MechsteerError: if it is missing, damaged or not parquet.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise MechsteerError(f"No such table: {path}.") from None
    # Damaged pages raise pyarrow's errors, which are subclasses of these; damaged metadata raises these themselves.
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise MechsteerError(f"{path} is not a readable parquet table (truncated or foreign?): {error}.") from None


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
