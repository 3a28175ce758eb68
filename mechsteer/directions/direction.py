"""``Direction``: a vector at a site, with where it came from; the artefact that is saved and shared."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.display import folded, rows_of, titled
from mechsteer.errors import MechsteerError, finite, shown
from mechsteer.files import json_value
from mechsteer.tensors import read_tensors, save_tensors

FORMAT = "mechsteer.direction/1"

if TYPE_CHECKING:
    Vector = Tensor
else:  # what the constructor takes; all but tensors become one
    Vector = Float[Tensor, "width"] | Float[np.ndarray, "width"] | Sequence[float]


@dataclass(frozen=True, eq=False)
class Direction:
    """A steering vector.

    Attributes:
        vector: ``[width]``, as estimated, float32 on the CPU. Its length is :attr:`norm`; steering uses :attr:`unit`.
            It is copied from the tensor, the NumPy array or the list of numbers that is given.
        site: The full name of the hook point it belongs to.
        method: How it was made: ``"gradient"``, ``"random"``, ...
        mean_projection: NaN where it was not measured. Mean of ``<x, unit>`` over the states it was estimated from (the
            paper's zbar).
        activation_norm: NaN where it was not measured. Mean L2 norm of the states at the site, the unit of relative
            strengths.
        meta: Provenance as text: model, fingerprint, versions, seed, number and hash of the examples.

    Example:
        >>> direction.save("upper.safetensors")
        >>> ms.Direction.load("upper.safetensors").norm
    """

    vector: Vector
    site: str
    method: str
    mean_projection: float = float("nan")
    activation_norm: float = float("nan")
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", own_numbers("The vector of a direction", self.vector))
        if self.vector.ndim != 1 or not self.vector.numel():
            raise MechsteerError(f"A direction is one vector [width], got the shape {list(self.vector.shape)}.")
        if not torch.isfinite(self.vector).all() or not math.isfinite(self.norm):
            raise MechsteerError(f"The {self.method} direction at {self.site} has NaN or infinite entries.")
        if not self.norm > 0:
            raise MechsteerError(f"The {self.method} direction at {self.site} is zero: its examples do not differ.")
        for name in ("mean_projection", "activation_norm"):
            object.__setattr__(self, name, _known(name, getattr(self, name)))
        if not isinstance(self.site, str) or not isinstance(self.method, str):
            raise MechsteerError(
                f"The site and the method of a direction are texts, got {shown(self.site)} and {shown(self.method)}."
            )
        object.__setattr__(self, "meta", _texts(self.meta))

    @property
    def norm(self) -> float:
        """The L2 norm of :attr:`vector`."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Float[Tensor, "width"]:
        """The vector divided by its norm."""
        return self.vector / self.vector.norm()

    @property
    def width(self) -> int:
        """The number of entries."""
        return int(self.vector.shape[0])

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model it was made on; ``"unknown"`` where that was not recorded."""
        return self.meta.get("model_fingerprint", "unknown")

    def _refuse(self, *_: Any) -> "Direction":
        """Arithmetic: of a direction only where it points is used, so its length would be lost without a word.

        Raises:
            MechsteerError: always.
        """
        raise MechsteerError(
            "A direction is no number: its strength is given where it is used, ms.add(direction, -2 * scale). Those of "
            "several add up: ms.add(one, scale) + ms.add(other, scale). A vector of your own: ms.Direction(2 * "
            "direction.vector, direction.site, 'by hand')."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __matmul__ = __neg__ = _refuse

    def __repr__(self) -> str:
        return f"Direction({self.method} at {self.site}, width {self.width}, norm {self.norm:.4g})"

    def _repr_html_(self) -> str:
        facts: list[tuple[str, object]] = [("site", self.site), ("width", self.width), ("norm", self.norm)]
        known = {"mean projection": self.mean_projection, "mean norm of the states there": self.activation_norm}
        facts += [(name, value) for name, value in known.items() if not math.isnan(value)]
        if not math.isnan(self.activation_norm):
            facts.append(("norm / norm of the states", self.norm / self.activation_norm))
        where = folded("where it came from", rows_of(sorted(self.meta.items()), ("", "")))
        return titled(f"Direction: {self.method}", rows_of(facts, ("", "")), where)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the direction to a safetensors file with a checksum; metadata travels in its header.

        Raises:
            MechsteerError: if the file cannot be written; then nothing is left behind.
        """
        return save_tensors(path, {"vector": self.vector}, to_header(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Direction":
        """Read a direction that :meth:`save` wrote.

        Raises:
            MechsteerError: if the file is missing, not a direction, or not bit for bit what was written.

        Warns:
            UserWarning: for a file that was written before files had checksums.
        """
        file = read_tensors(path)
        if file.header.get("format") != FORMAT or "vector" not in file.tensors:
            raise MechsteerError(f"{path} is not a mechsteer direction (format {shown(file.header.get('format'))}).")
        found = from_header(file.tensors["vector"], file.header, str(path))
        file.verify("direction")
        return found

    # The methods below stand in modules of their own, which need this one: they are imported when they are called.

    def to_gguf(self, path: str | os.PathLike[str], *, scale: float = 1.0) -> Path:
        """Write ``scale`` times the unit vector as a control vector of llama.cpp and repeng.

        See :func:`mechsteer.directions.to_gguf`, which also takes several directions.
        """
        from mechsteer.directions.control_vectors import to_gguf

        return to_gguf(self, path, scale=scale)

    @staticmethod
    def from_gguf(path: str | os.PathLike[str], model: Any = None) -> "dict[int, Direction]":
        """Read a control vector file; see :func:`mechsteer.directions.from_gguf`."""
        from mechsteer.directions.control_vectors import from_gguf

        return from_gguf(path, model)

    @staticmethod
    def from_peer(vectors: Any, model: Any) -> "dict[int, Direction]":
        """Take over vectors of steering-vectors or repeng; see :func:`mechsteer.directions.from_peer`."""
        from mechsteer.directions.peers import from_peer

        return from_peer(vectors, model)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        message: str = "Add a direction",
    ) -> str:
        """Upload the direction with a generated model card; see :func:`mechsteer.directions.hub.push`."""
        from mechsteer.directions.hub import push

        return push(self, repo_id, private=private, token=token, message=message)

    @staticmethod
    def from_hub(repo_id: str, *, revision: str | None = None, token: str | None = None) -> "Direction":
        """Download a direction that :meth:`push_to_hub` uploaded; see :func:`mechsteer.directions.hub.pull`."""
        from mechsteer.directions.hub import pull

        return pull(repo_id, revision=revision, token=token)


def to_header(direction: Direction) -> dict[str, str]:
    """All of a direction but its vector, as text."""
    return {
        "format": FORMAT,
        "site": direction.site,
        "method": direction.method,
        "mean_projection": repr(direction.mean_projection),
        "activation_norm": repr(direction.activation_norm),
        "meta": json.dumps(direction.meta, sort_keys=True),
    }


def from_header(vector: Float[Tensor, "width"], header: Mapping[str, Any], path: str) -> Direction:
    """The direction of a vector and what :func:`to_header` made.

    Raises:
        MechsteerError: if the header is damaged, naming ``path``.
    """
    try:
        meta = json_value(header["meta"])
        if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
            raise TypeError("meta is no texts by name")
        fields = {
            "site": header["site"],
            "method": header["method"],
            "mean_projection": float(header["mean_projection"]),
            "activation_norm": float(header["activation_norm"]),
            "meta": meta,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise MechsteerError(f"{path} has a damaged direction header: {shown(error)}.") from error
    return Direction(vector=vector, **fields)


def _known(name: str, value: Any) -> float:
    """A measured number as Python's own, which files hold, whatever kind it is given as; NaN: not known."""
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # what is no number is named below
        if math.isnan(value):
            return math.nan
    return finite(name, value)


def _texts(meta: Any) -> dict[str, str]:
    """Provenance, in a dictionary of its own: one that is filled on for the next direction changes no earlier one.

    Raises:
        MechsteerError: for what is no text by name, which files do not hold.
    """
    if not isinstance(meta, Mapping):
        raise MechsteerError(f"meta is a dictionary of texts, got {shown(meta)}.")
    for name, value in meta.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise MechsteerError(f"meta holds texts by name, e.g. {{'layer': '3'}}, got {shown(name)}: {shown(value)}.")
    return dict(meta)


def own_numbers(what: str, values: Any) -> Tensor:
    """Real numbers of any kind as float32 on the CPU, in memory of their own; ``what`` is for the message.

    Raises:
        MechsteerError: for what is not real numbers.
    """
    try:
        given = values.detach() if isinstance(values, Tensor) else torch.tensor(values)
        if given.is_complex():
            raise TypeError("complex numbers have no direction in the stream")
        return given.to("cpu", torch.float32, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MechsteerError(
            f"{what} must be a tensor, an array or a list of numbers, got {type(values).__name__}: "
            f"{str(error).splitlines()[0]}"
        ) from None
