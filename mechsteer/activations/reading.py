"""Reading rows of one site from the shards of a store."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mechsteer.activations.shards import raw_dtype
from mechsteer.errors import MechsteerError, shown

RowChoice = int | slice | Sequence[int] | np.ndarray | Tensor


class SiteRows:
    """The rows at one site. ``rows[5]``, ``rows[10:20]``, ``rows[[3, 1]]`` and masks read only what is asked for.

    Attributes:
        site: Its full name.
        shape: ``(rows, width...)``.
        dtype: Of the values.
    """

    def __init__(
        self,
        site: str,
        width: tuple[int, ...],
        dtype: torch.dtype,
        shards: Sequence[tuple[int, int]],
        mapped: Callable[[int, str], np.ndarray],
    ) -> None:
        self.site, self.dtype = site, dtype
        self._numbers = [number for number, _ in shards]
        self._ends = np.cumsum([0] + [rows for _, rows in shards])
        self._mapped = mapped
        self.shape = (int(self._ends[-1]), *width)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"SiteRows({self.site!r}, shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, rows: RowChoice) -> Tensor:
        """Copies of some rows, on the CPU.

        Raises:
            MechsteerError: for rows that are not there, or a shard that is truncated or foreign.
        """
        found = torch.from_numpy(self._read(rows)).view(self.dtype)
        return found[0] if getattr(rows, "ndim", None) == 0 or isinstance(rows, int) else found

    def numpy(self, rows: RowChoice = slice(None)) -> np.ndarray:
        """The same as a NumPy array; bfloat16 becomes float32."""
        found = self[rows]
        return (found.float() if self.dtype == torch.bfloat16 else found).numpy()

    def _read(self, rows: RowChoice) -> np.ndarray:
        wanted = self._indices(rows)
        out = np.empty((len(wanted), *self.shape[1:]), dtype=raw_dtype(self.dtype))
        shards = np.searchsorted(self._ends, wanted, side="right") - 1
        for place in np.unique(shards):
            here = shards == place
            out[here] = self._mapped(self._numbers[place], self.site)[wanted[here] - self._ends[place]]
        return out

    def _indices(self, rows: RowChoice) -> np.ndarray:
        try:
            if isinstance(rows, slice):
                return np.arange(len(self))[rows]
            asked = np.atleast_1d(np.asarray(rows))
        except (TypeError, ValueError):  # lists of unequal lengths, a slice from a text
            raise self._no_rows(rows) from None
        if asked.dtype == bool and asked.shape == (len(self),):
            return asked.nonzero()[0]
        if asked.size == 0:
            return np.zeros(0, dtype=np.int64)
        if asked.ndim != 1 or not np.issubdtype(asked.dtype, np.integer):
            raise self._no_rows(rows)
        outside = asked[(asked < -len(self)) | (asked >= len(self))]
        if outside.size:
            raise MechsteerError(f"Row {outside[0]} is not there: {self.site!r} has {len(self)} rows.")
        return asked % len(self)

    def _no_rows(self, rows: object) -> MechsteerError:
        return MechsteerError(f"Rows are integers, a slice or a mask of {len(self)}, got {shown(rows)}.")
