"""``cell_key``: what a result belongs to, as one key for every cache: studies, sweeps, stores and kept directions."""

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from mechsteer.decoding import Greedy
from mechsteer.errors import MechsteerError
from mechsteer.files import versions
from mechsteer.models import check_unhooked, file_digest, model_identity, tensor_digest
from mechsteer.steering import Edit, Intervention, as_intervention, describe_edits
from mechsteer.steering.registry import registered

_OURS = ("mechsteer", "torch", "builtins")

LEFT_OUT = {"in cell_key": False}
"""The metadata of a dataclass's field that decides no result: ``field(metadata=LEFT_OUT)``."""


def cell_key(
    model: Any, task: Any = None, steer: Intervention | None = None, strategy: Any = None, options: Any = None
) -> str:
    """A key that is the same if, and only if, all that decides a result is the same.

    It covers the model (all bytes of its weights and buffers as they are in memory now, the settings of its modules,
    its configuration, tokenizer, chat template, with the date where that writes it into prompts, and generation
    configuration), the task (everything in its rows, its options, who scores it), every edit, every field of the
    strategy, the options, and the versions of the packages. The device, the folder that the model was loaded from and
    the order of names in dicts do not change it.

    Taking it costs one pass over the weights: 0.05 s for 135 M parameters in float32 on one core, at 13 GB/s; so 1.2 s
    for 8 billion in bfloat16 at that rate. Weights on an accelerator are copied to the host first. It is taken anew at
    every call, so that a change of the weights between two calls is seen.

    Args:
        model: A loaded model; None for results of no model.
        task: The task, or anything that describes the data.
        steer: The intervention; None for none.
        strategy: The decoding strategy; None for greedy.
        options: Whatever else decides the result: numbers, texts, tensors, lists, dicts, dataclasses.

    Returns:
        32 hexadecimal digits.

    Raises:
        MechsteerError: for an edit whose ``apply`` is a function of one's own that does not say which one it is: give
            it two attributes, ``function.name = "my edit"`` and ``function.version = "1"``, and change the version
            whenever the function changes; for a model with hooks on it; and for a value that has no description. Other
            functions of one's own may have these attributes; without them their code and their file count. The check of
            :func:`mechsteer.task` counts by its code, by what plain values it holds, and by these attributes.

    Example:
        >>> ms.cell_key(model, task, ms.attention_bias(delta=1.0), ms.Greedy())
    """
    if model is not None:
        check_unhooked(model)
    parts = {
        "model": None if model is None else model_identity(model),
        "task": described(task),
        "steer": described(as_intervention(steer)),
        "strategy": described(Greedy() if strategy is None else strategy),
        "options": described(options),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def described(value: Any) -> Any:
    """All that a value says, as JSON values.

    Raises:
        MechsteerError: for a function of one's own that does not name itself, or what cannot be described.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor | np.ndarray):
        return tensor_digest(torch.as_tensor(value))
    if isinstance(value, Intervention):
        return _edits(value)
    if isinstance(value, Mapping):
        return ["mapping", _sorted([described(name), described(item)] for name, item in value.items())]
    if isinstance(value, Set):
        return ["set", _sorted(described(item) for item in value)]
    if isinstance(value, list | tuple | range):
        return [described(item) for item in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, PurePath | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, date | time | timedelta | Decimal | Fraction):  # a cell of a table of one's own
        return [type(value).__qualname__, repr(value)]
    if isinstance(value, re.Pattern):
        return ["pattern", described(value.pattern), value.flags]
    if isinstance(value, functools.partial):
        return ["partial", described(value.func), described(value.args), described(value.keywords)]
    if isinstance(value, FunctionType | BuiltinFunctionType | MethodType | type):
        return _code(value)
    return _object(value)


def _own_name(function: Any, what: str) -> list[str]:
    """The name and the version that a function of one's own gives itself in its attributes of these names.

    Args:
        function: The function.
        what: Which one it is, for the message.

    Raises:
        MechsteerError: if it has no such attributes: nothing could tell its results from those of another one.
    """
    name, version = getattr(function, "name", ""), getattr(function, "version", "")
    if not all(isinstance(text, str) and text for text in (name, version)):
        raise MechsteerError(
            f"{what} is your own, so its results cannot be kept under a key: nothing says which function it is. Name "
            'it, f.name = "my edit" and f.version = "1", and change the version whenever you change the function.'
        )
    return [name, version]


def _edits(steer: Intervention) -> list[Any]:
    """What each edit does, and which function of one's own does it."""
    return [[one, _function(edit)] for edit, one in zip(steer.edits, describe_edits(steer), strict=True)]


def _function(edit: Edit) -> Any:
    """The function of an edit, where its method's name and our version do not say which it is.

    Raises:
        MechsteerError: for one that is not registered and does not name itself.
    """
    found = registered(edit)
    if found is None:
        return _own_name(edit.apply, f"The function of the edit {edit.method!r} at {edit.site}")
    return described(found.apply) if found.own else None


def _sorted(items: Any) -> list[Any]:
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _code(value: Any) -> Any:
    """A function or a class: by its name where versions say what it does, else as it names itself or by its code."""
    name = f"{value.__module__}:{value.__qualname__}"
    if value.__module__.partition(".")[0] not in _OURS:
        stated = [getattr(value, attribute, None) for attribute in ("name", "version")]
        if all(isinstance(text, str) and text for text in stated):
            return stated
        name = [name, *_source(value)]
    captured = [described(cell.cell_contents) for cell in getattr(value, "__closure__", None) or ()]
    bound = described(getattr(value, "__self__", None)) if isinstance(value, MethodType) else None
    captured += [described(getattr(value, kind, None)) for kind in ("__defaults__", "__kwdefaults__")]
    return [name, captured, bound]


def _source(value: Any) -> list[str]:
    """The code of a function or class, compiled and as its whole file, on which it may call."""
    found = []
    with suppress(OSError, TypeError):  # made where no source is kept
        found.append(file_digest(Path(inspect.getsourcefile(value) or "")))
    code = getattr(value, "__code__", None)
    if code is not None:
        found.append(hashlib.sha256(repr(compiled(code)).encode()).hexdigest())
    if not found:
        raise MechsteerError(f"A result depends on {value!r}, whose code cannot be read. Give it a name and a version.")
    return found


def compiled(code: CodeType) -> list[Any]:
    """What compiled code does, the same in every process: code in it by what it does, sets in one order."""
    return [code.co_code.hex(), code.co_names, [_constant(constant) for constant in code.co_consts]]


def _constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return compiled(constant)
    if isinstance(constant, tuple):
        return [_constant(one) for one in constant]
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)


def _object(value: Any) -> Any:
    """An object: its class, with its source where it is not ours, and everything that it holds."""
    kind = type(value)
    about: dict[str, Any] = {"class": f"{kind.__module__}:{kind.__qualname__}"}
    if kind.__module__.partition(".")[0] not in _OURS:
        about["source"] = _source(kind)
    if is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in fields(value) if field.metadata != LEFT_OUT}
    elif hasattr(value, "__dict__"):
        held = dict(vars(value))
    else:
        raise MechsteerError(f"A result depends on {value!r}, which has no description that a key could be made of.")
    for name in ("data_hash", "samples", "name"):  # of a task that computes them
        if isinstance(getattr(kind, name, None), property):
            held[name] = getattr(value, name)
    return about | {"holds": described(held)}
