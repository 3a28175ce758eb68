"""Cells of a sweep: points of a grid, made of JSON values, with a digest of what they say."""

import itertools
import json
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, shown, unknown
from mechsteer.files import as_path, digest, read_json, read_text

FILE_KEYS = ("run", "modules", "grid")
MOST_CELLS = 100_000
"""The most cells of a grid. A file a cell is what a folder can still hold; at a second each they take a day."""


@dataclass(frozen=True, eq=False)
class Cell(Mapping[str, Any]):
    """A point of a grid: ``cell["layer"]``, ``dict(cell)``. It cannot be changed, and can be a key of a dict.

    Cells that say the same are equal, whatever the order of their names. As in JSON, 1, 1.0 and true differ.

    Attributes:
        text: The names and values as JSON, in the order in which they were given.
    """

    text: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Cell":
        """A cell with these values.

        Raises:
            MechsteerError: for a value that JSON cannot express, NaN and infinity included, with its name.
        """
        return cls(json.dumps({str(name): _json(str(name), value) for name, value in values.items()}))

    @property
    def digest(self) -> str:
        """A hash of the names and values."""
        return digest(dict(self))

    def __getitem__(self, name: str) -> Any:
        return json.loads(self.text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self.text))

    def __len__(self) -> int:
        return len(json.loads(self.text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Cell({', '.join(f'{name}={value!r}' for name, value in self.items())})"


def grid(**axes: Any) -> list[Cell]:
    """All combinations of the values of some axes.

    Args:
        axes: The values of each axis: a list, tuple, range, array or series, or one value alone (a text, a number, a
            truth value, None, a dict).

    Returns:
        The cells. The last axis changes fastest, as the innermost of nested loops written in the order of the axes.

    Raises:
        MechsteerError: for no axes, an axis without values or with one of them twice, values that JSON cannot
            express, or more than :data:`MOST_CELLS` cells.
    """
    if not axes:
        raise MechsteerError("A grid needs at least one axis, e.g. grid(layer=[0, 1, 2]).")
    values = [_values(name, given) for name, given in axes.items()]
    _check_size([len(some) for some in values])
    return [Cell.of(dict(zip(axes, point, strict=True))) for point in itertools.product(*values)]


def _check_size(sizes: Sequence[int]) -> None:
    """Refuse what nobody computes, before it is built; with the size."""
    count = math.prod(sizes)
    if count > MOST_CELLS:
        factors = shown(" x ".join(map(str, sizes)))[1:-1]
        size = f"{count:,}" if count < 10**15 else f"more than 10^{int(math.log10(count))}"
        raise MechsteerError(
            f"A grid of {factors} = {size} cells; at most {MOST_CELLS:,} are computed: leave values out, or split it."
        )


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without repetitions, each at its first place."""
    return list(dict.fromkeys(cells))


def read_grid(path: str | os.PathLike[str]) -> tuple[list[Cell], str | None]:
    """Read a grid from a TOML or JSON file.

    The file has ``grid``, one table of axes or several whose cells follow one another (``[[grid]]`` in TOML); and,
    optionally, ``run``: the ``module:function`` that computes a cell, and ``modules`` (:func:`read_modules`). Nothing
    that it names is imported here.

    Returns:
        The cells, each once, and what ``run`` says (None: a steering sweep).

    Raises:
        MechsteerError: for a file that cannot be read, an unknown key, or no grid.
    """
    content = _read(as_path(path))
    for key in content:
        if key not in FILE_KEYS:
            raise MechsteerError(f"{path}: {unknown('key', key, FILE_KEYS)} Axes belong into [grid] or [[grid]].")
    grids, run = content.get("grid"), content.get("run")
    tables: list[Any] = grids if isinstance(grids, list) else [grids]
    if not tables or not all(isinstance(table, dict) and table for table in tables):
        raise MechsteerError(f"{path} needs [grid], a table of axes such as layer = [0, 1, 2]; or several [[grid]].")
    if run is not None and not isinstance(run, str):
        raise MechsteerError(f'{path}: run must be a text, "module:function", got {shown(run)}.')
    try:
        return distinct(cell for table in tables for cell in grid(**table)), run
    except MechsteerError as error:
        raise MechsteerError(f"{path}: {error}") from None


def read_modules(path: str | os.PathLike[str]) -> list[str]:
    """The ``modules`` of a grid file: names of modules that register methods of one's own, for ``sweep(modules=...)``.

    Raises:
        MechsteerError: for a file that cannot be read, or modules that are no list of texts.
    """
    modules = _read(as_path(path)).get("modules", [])
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise MechsteerError(f'{path}: modules must be a list of names, e.g. ["my_method"], got {shown(modules)}.')
    return modules


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        content = read_json(path, once=True)
    elif path.suffix == ".toml":
        text = read_text(path, "TOML")
        try:
            content = tomllib.loads(text)
        except RecursionError:
            raise MechsteerError(f"{path} is not a TOML file: it is nested too deeply.") from None
        except ValueError as error:  # also a number of thousands of digits
            raise MechsteerError(f"{path} is not a TOML file: {error}.") from None
    else:
        raise MechsteerError(f"A grid file ends in .toml or .json, got {str(path)!r}.")
    if not isinstance(content, dict):
        raise MechsteerError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


def _values(name: str, given: Any) -> list[Any]:
    """The values of an axis."""
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        return [given]
    values = list(itertools.islice(given, MOST_CELLS + 1))
    if not values:
        raise MechsteerError(f"The axis {name!r} has no values.")
    if len(values) > MOST_CELLS:
        raise MechsteerError(f"The axis {name!r} has more than {MOST_CELLS:,} values: leave some out, or split it.")
    seen: set[str] = set()
    for text in (json.dumps(_json(name, value), sort_keys=True) for value in values):
        if text in seen:
            raise MechsteerError(f"The axis {name!r} has the value {shown(text)[1:-1]} twice.")
        seen.add(text)
    return values


def _json(name: str, value: Any) -> Any:
    """The value as plain JSON: tuples as lists, numbers of NumPy as numbers.

    Raises:
        MechsteerError: if that is not possible.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise MechsteerError(f"{name} must be finite, got {value}.")
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise MechsteerError(f"{name} must fit 64 bits, got {shown(value)}.")
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_json(name, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _json(name, item) for key, item in value.items()}
    if getattr(value, "ndim", None) == 0:
        scalar: Any = value
        return _json(name, scalar.item())
    raise MechsteerError(
        f"{name} must be a JSON value (text, number, truth value, None, list or dict), got {shown(value)}."
    )
