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

    rows = min(model.cfg.n_ctx, FIRST_ROWS)
    whole, sums = xxhash.xxh3_128(), dict[Any, str]()
    for name, tensor in sorted(_named(model), key=lambda item: item[0]):
        order, lasting = _in_memory_order(tensor[:rows] if name.endswith(_GROWING) else tensor)
        place = lasting.device, lasting.data_ptr(), lasting.dtype, lasting.shape, lasting.stride()
        if place not in sums:  # tied weights, read in the same way, are read once
            sums[place] = tensor_digest(lasting)
        whole.update(repr((name, order, sums[place])).encode())
    return whole.hexdigest()


def _named(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by each of its names, in one walk: most modules are hook points and have neither."""
    waiting = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        for name, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                yield prefix + name, tensor.detach()
        waiting += [(f"{prefix}{name}.", part) for name, part in module._modules.items() if part is not None]


def tensor_digest(tensor: Tensor) -> str:
    """A digest over a tensor's dtype, shape and all of its bytes."""
    import xxhash

    made, whole = xxhash.xxh3_128(repr((str(tensor.dtype), list(tensor.shape))).encode()), tensor.detach()
    small = whole.nbytes <= _CHUNK  # pieces are small enough to be copied
    for part in (whole,) if small else whole.split(max(1, _CHUNK * len(whole) // whole.nbytes)):
        made.update(part.reshape(-1).cpu().view(torch.uint8).numpy().data)
    return made.hexdigest()


def file_digest(path: Path) -> str:
    """A digest over all bytes of a file."""
    import xxhash

    made = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            made.update(part)
    return made.hexdigest()


def _in_memory_order(tensor: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The tensor with its dimensions as they lie in memory, so that reading copies nothing; and their order."""
    strides = tensor.stride()
    order = tuple(sorted(range(len(strides)), key=strides.__getitem__, reverse=True))
    return order, tensor.permute(order)
