"""Digests of what is in memory: of a model's weights, and of any tensor.

The hash is XXH3 with 128 bits, which is about as fast as memory can be read (11 GB/s on one core of an AMD EPYC, where
SHA-256 reaches 0.9), so that it can be taken whenever it is needed, over every byte. It is for telling models apart,
not for withstanding somebody who makes two that collide.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

_CHUNK = 32 * 2**20
_GROWING = ("rotary_cos", "rotary_sin")
"""Tables that get more rows for longer prompts."""
FIRST_ROWS = 256
"""How many rows such tables have in the beginning, where the context is not shorter."""


_taken: "ContextVar[WeakKeyDictionary[Any, str] | None]" = ContextVar("_taken", default=None)


@contextmanager
def taken_once() -> Iterator[None]:
    """Inside it each model's :func:`weights_digest` is taken once: for stretches of work that write to no weights."""
    token = _taken.set(WeakKeyDictionary()) if _taken.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _taken.reset(token)


def weights_digest(model: Any) -> str:
    """A digest over all bytes of every parameter and buffer of a model, as they are in memory now.

    Names, shapes and dtypes count; the device does not, and neither does whether two names share memory. It is taken
    anew at every call (but see :func:`taken_once`): nothing that writes to a weight, by whatever way, goes unseen.

    Returns:
        32 hexadecimal digits.
    """
    taken = _taken.get()
    if taken is None:
        return _weights_digest(model)
    if model not in taken:
        taken[model] = _weights_digest(model)
    return taken[model]


def _weights_digest(model: Any) -> str:
    import xxhash

    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    rows = min(model.cfg.n_ctx, FIRST_ROWS)
    lasting = {name: tensor[:rows] if name.endswith(_GROWING) else tensor for name, tensor in named}
    ordered = {name: _in_memory_order(tensor) for name, tensor in lasting.items()}
    whole, sums = xxhash.xxh3_128(), dict[Any, str]()
    for name, (order, tensor) in sorted(ordered.items(), key=lambda item: item[0]):
        place = _place(tensor)
        if place not in sums:  # tied weights are read once
            sums[place] = tensor_digest(tensor)
        whole.update(repr((name, order, sums[place])).encode())
    return whole.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """A digest over a tensor's dtype, shape and all of its bytes."""
    import xxhash

    made = xxhash.xxh3_128(repr((str(tensor.dtype), list(tensor.shape))).encode())
    for part in _parts(tensor.detach()):
        made.update(part.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()


def file_digest(path: Path) -> str:
    """A digest over all bytes of a file."""
    import xxhash

    made = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            made.update(part)
    return made.hexdigest()


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Pieces small enough to be copied, in order."""
    if not tensor.numel():
        return iter(())
    rows = tensor.reshape(1) if tensor.ndim == 0 else tensor
    return iter(rows.split(max(1, _CHUNK * len(rows) // (rows.numel() * rows.element_size()))))


def _in_memory_order(tensor: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The tensor with its dimensions as they lie in memory, so that reading copies nothing; and their order."""
    order = tuple(sorted(range(tensor.ndim), key=lambda d: -tensor.stride(d)))
    return order, tensor.detach().permute(order)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Tensors of one place are the same memory, read in the same way."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
