"""Named tensors and texts in a safetensors file that knows whether it is whole."""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mechsteer.checksums import BLANK, NAME, check, has_checksum, sealed
from mechsteer.errors import foreign
from mechsteer.files import atomic_path, file_at


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Path:
    """Write tensors and texts, atomically, with a checksum over the whole file. Equal content gives equal files.

    Raises:
        MechsteerError: if the file cannot be written; then nothing is left behind.
    """
    from safetensors.torch import save

    with atomic_path(path) as temporary:
        copies = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        content = save(copies)  # one tensor under two names is two here; the library refuses shared memory
        described, start = _header(content)
        texts = {"__metadata__": {**header, NAME: BLANK}}
        text = json.dumps(texts | described, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # tensors lie on 8 bytes
        temporary.write_bytes(sealed(len(text).to_bytes(8, "little") + text + content[start:]))
    return Path(path)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file in memory of its own: nothing follows the file.

    Attributes:
        path: The file.
        content: All of its bytes.
        header: Its texts.
        tensors: Its tensors.
    """

    path: str | os.PathLike[str]
    content: bytes
    header: dict[str, str]
    tensors: dict[str, Tensor]

    def verify(self, what: str) -> None:
        """Raise unless the file is, bit for bit, what :func:`save_tensors` wrote.

        Args:
            what: What it holds, for the message.

        Raises:
            MechsteerError: if it was changed.

        Warns:
            UserWarning: for a file of the first versions, which has no checksum.
        """
        if NAME in self.header or has_checksum(self.content):  # one flipped bit cannot hide both
            check(self.content, self.path, what)
            return
        warnings.warn(
            f"{self.path} was written before files had checksums, so nothing can tell whether it is whole. Loading and "
            "saving it gives it one.",
            stacklevel=4,
        )


def read_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Read a safetensors file; :meth:`TensorFile.verify` says whether it is whole.

    Raises:
        MechsteerError: if it is missing or cannot be read.
    """
    from safetensors.torch import load

    file = file_at(path, "safetensors file")
    with foreign(f"{path} is not a readable safetensors file (truncated or foreign?)"):
        content = file.read_bytes()
        tensors = load(content)
        header = _header(content)[0].get("__metadata__") or {}
    return TensorFile(path, content, header, tensors)


def _header(content: bytes) -> tuple[dict, int]:
    """The JSON text before the tensors, and where they start."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), start
