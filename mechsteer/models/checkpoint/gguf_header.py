"""The header of a GGUF file, before anything is made of the sizes that it claims.

The reader of the package ``gguf`` believes them: an array of 10^12 numbers in a file of a hundred bytes is read element
by element, past its end, until the memory is full. Here every count must fit into what is left of the file.
"""

import math
import mmap
import struct
from pathlib import Path

from mechsteer.errors import MechsteerError, shown

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_DEPTH = 8  # of arrays in arrays, and of tensors
_WEIGHTS_A_BYTE = 8  # more than the smallest quantised type packs


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that the header names.

    Args:
        path: The file.

    Returns:
        Shapes by name; nothing of a file that is none of version 2 or 3, which its reader refuses.

    Raises:
        MechsteerError: for a header that claims more than the file holds, or cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(data, path).shapes() if data[:4] == b"GGUF" else {}
    except MechsteerError:
        raise
    except (OSError, ValueError, struct.error) as error:  # ValueError: an empty file cannot be mapped
        raise MechsteerError(f"{path} is not a readable GGUF file (truncated or foreign?): {error}.") from None


class _Header:
    """A place in a header, which goes forward."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 4
        self.order = "<" if data[4:6] != b"\0\0" else ">"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Go through the header."""
        if self.number("I") not in (2, 3):
            return {}
        tensors, values = self.number("Q"), self.number("Q")
        self.fits(tensors, 24, "tensors")  # of the smallest: lengths, type and place
        self.fits(values, 13, "values")
        for _ in range(values):
            self.text()
            self.value(self.number("I"))
        return dict(self.tensor() for _ in range(tensors))

    def number(self, kind: str) -> int:
        """The next number, of a letter of :mod:`struct`."""
        (found,) = struct.unpack_from(self.order + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return found

    def fits(self, count: int, size: int, what: str) -> None:
        """Refuse more than there can be in the rest of the file."""
        if count * size > len(self.data) - self.at:
            raise MechsteerError(
                f"{self.path} is not a readable GGUF file: its header claims {shown(count)} {what}, more than its "
                f"{len(self.data):,} bytes hold (truncated or foreign?)."
            )

    def skip(self, count: int, size: int, what: str) -> None:
        """Go over so many."""
        self.fits(count, size, what)
        self.at += count * size

    def text(self) -> str:
        """The next text."""
        length = self.number("Q")
        self.skip(length, 1, "characters of a text")
        return self.data[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> None:
        """Go over a value."""
        if kind == _STRING:
            self.skip(self.number("Q"), 1, "characters of a text")
        elif kind == _ARRAY and depth < _DEPTH:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SIZES:
                self.skip(count, _SIZES[inner], "numbers of an array")
                return
            self.fits(count, 8, "elements of an array")
            for _ in range(count):
                self.value(inner, depth + 1)
        elif kind in _SIZES:
            self.skip(1, _SIZES[kind], "numbers")
        else:
            raise MechsteerError(f"{self.path} is not a readable GGUF file: it has a value of the unknown type {kind}.")

    def tensor(self) -> tuple[str, tuple[int, ...]]:
        """The next tensor's name and shape."""
        name, dimensions = self.text(), self.number("I")
        self.fits(dimensions, 8, "dimensions of a tensor")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        if math.prod(shape[:_DEPTH]) > _WEIGHTS_A_BYTE * len(self.data) or dimensions > _DEPTH:
            sizes = " x ".join(map(shown, shape[:_DEPTH]))
            raise MechsteerError(
                f"{self.path} is not a readable GGUF file: its header claims a tensor {shown(name)} of {sizes}, more "
                f"than its {len(self.data):,} bytes hold (truncated or foreign?)."
            )
        self.skip(1, 12, "places of a tensor")
        return name, shape
