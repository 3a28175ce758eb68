"""The one exception type that people see, and the checks that raise it."""

import difflib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 1000
"""Characters of the longest message."""


class MechsteerError(ValueError):
    """Bad input or a state that cannot be worked with.

    The message carries the value that was given, what was expected, and the nearest valid choice. It is one line that
    any terminal and any file can hold: what is not printable in it (of a damaged file, say) stands there as an escape,
    and of more than :data:`LONGEST` characters the middle is left out. The command line prints it without a traceback
    and exits with code 2.

    Example:
        >>> try:
        ...     ms.load("organism:trap-t6")
        ... except ms.MechsteerError as error:
        ...     print(error)
    """

    def __init__(self, message: str = "") -> None:
        line = one_line(message)
        half = LONGEST // 2
        super().__init__(line if len(line) <= LONGEST else f"{line[:half]} … {line[3 - half :]}")


class ParityError(MechsteerError):
    """The hooked model does not compute what the Hugging Face model computes.

    Example:
        >>> issubclass(ms.ParityError, ms.MechsteerError)
    """


def shown(value: Any, limit: int = 80) -> str:
    """A value as an error shows it: what ``repr`` says where that is a line, shortened; else its type alone."""
    if hasattr(value, "named_parameters"):  # a model's takes hundreds of lines
        return f"a {type(value).__name__}"
    text = repr(value)
    if "\n" in text:
        return f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str) -> str:
    """A text on one line: line breaks as spaces, and what is not printable as escapes."""
    if text.isprintable():
        return text
    joined = " ".join(line for part in text.splitlines() if (line := part.strip()))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


@contextmanager
def foreign(what: str, fix: str = "") -> Iterator[None]:
    """Turn whatever another package raises on what a file holds into one line.

    For calls of other packages, and for what is built from the values that they read.

    Args:
        what: What cannot be done, with the file: ``"transformers cannot read a/config.json"``.
        fix: A sentence about what to do.

    Raises:
        MechsteerError: for any error but our own. A panic of code in Rust (tokenizers, safetensors), which is no
            ``Exception``, is one too.
    """
    try:
        yield
    except (MechsteerError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = one_line(str(error)) or "no reason given"
        named = reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}"
        named = named if len(named) <= 300 else f"{named[:299]}…"
        raise MechsteerError(f"{what}: {named}{'' if named.endswith('.') else '.'}{fix and f' {fix}'}") from error


def not_a_model(value: Any) -> MechsteerError:
    """The error for anything in the place of a loaded model, with the fix for the likely mistakes."""
    if isinstance(value, str):
        fix = f"the model comes first; ms.load({shown(value)}) loads one by its name"
    elif hasattr(value, "named_parameters") and hasattr(value, "config"):
        name = getattr(value.config, "_name_or_path", "") or "the folder of its checkpoint"
        fix = f"Hugging Face's models have no hook points; use ms.load({name!r})"
    else:
        fix = "the model, which ms.load makes, comes first; are the arguments swapped?"
    return MechsteerError(f"A loaded model was expected, got {shown(value)}: {fix}.".replace("?.", "?"))


def nearest(name: str, choices: Iterable[str], *, said: str = "Valid") -> str:
    """A hint that names the closest valid choices, or all of them when there are few.

    Args:
        name: What was asked for.
        choices: What would have been valid.
        said: What the list of all of them begins with.

    Returns:
        A sentence to append to an error message; empty when there are no choices.
    """
    options = sorted({choice if len(choice) <= 80 else f"{choice[:79]}…" for choice in choices})
    if not options:
        return ""
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(repr(c) for c in close)}?"
    if len(options) <= 12:
        return f" {said}: {', '.join(options)}."
    return f" {said}: {', '.join(options[:6])}, ... ({len(options)} in all)."


def unknown(kind: str, name: object, choices: Iterable[str]) -> MechsteerError:
    """The error for a name that is not one of the known ones."""
    hint = nearest(str(name) if isinstance(name, str | int) else "", choices)
    return MechsteerError(f"Unknown {kind} {shown(name)}.{hint}")


ALSO_CALLED = {
    "activation_addition": "add",
    "attention": "analysis.attention",
    "caa": "difference_in_means",
    "cache": "capture",
    "guide": "attention_bias",
    "gemma_scope": "load_sae",
    "instaboost": "attention_bias",
    "lens": "logit_lens",
    "mean_difference": "difference_in_means",
    "run": "generate",
    "sae": "load_sae",
    "steering_vector": "difference_in_means",
    "store": "ActivationStore",
}
"""Names by which papers and other tools know what has another name here."""


def like(name: str, choices: Iterable[str] | None = None, prefix: str = "ms.") -> str:
    """A hint for a name that nothing has: what it is called here, or what has nearly that name; capitals do not count.

    Args:
        name: What was asked for.
        choices: What would have been valid; default: all that ``ms.`` has.
        prefix: What stands before a name where it is used.
    """
    known = {choice.lower(): choice for choice in choices or sys.modules["mechsteer"].__all__}
    if name.lower() in known:
        return f" Did you mean {prefix}{known[name.lower()]}?"
    asked = name.strip().lower().replace(" ", "_").replace("-", "_")
    other = ALSO_CALLED.get(asked, "")
    if other and other.partition(".")[0].lower() in known:
        return f" {name} is {prefix}{other} here."
    parts = [choice for choice in known if asked and (choice.startswith(asked) or asked.startswith(f"{choice}_"))]
    close = list(dict.fromkeys([*difflib.get_close_matches(asked, known, n=3, cutoff=0.6), *parts]))[:3]
    return f" Did you mean {' or '.join(prefix + known[one] for one in close)}?" if close else ""


def file_as_task(value: Any) -> str:
    """What to do with prompts, or a file of them, in the place of a task; nothing for anything else."""
    if isinstance(value, str | os.PathLike):
        return f" A task is made of a file by ms.task({shown(str(value))})."
    return " A task is made of prompts by ms.task([...], check=...)." if isinstance(value, list | tuple) else ""


def finite(name: str, value: float) -> float:
    """Return ``value`` as a float.

    Raises:
        MechsteerError: if it is not a number, NaN, or infinite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor with several entries
        raise MechsteerError(f"{name} must be a number, got {shown(value)}.") from None
    except OverflowError:
        raise MechsteerError(f"{name} must be finite, got {shown(value)}, which no float can hold.") from None
    if not math.isfinite(number):
        raise MechsteerError(f"{name} must be finite, got {number}.")
    return number


def whole(value: Any) -> int | None:
    """Python's own integer for one of Python's, NumPy's or PyTorch's; None for a truth value or anything else."""
    try:
        return None if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "torch.bool" else index(value)
    except TypeError:
        return None


def wholes(values: Any) -> list[int]:
    """Python's own integers for those of a list or anything like one; none at all if one of them is something else."""
    try:
        found = [whole(value) for value in values]
    except TypeError:  # one number, or an array of no dimensions, which calls itself iterable
        found = []
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(found) else []


def positive_int(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1.

    Raises:
        MechsteerError: otherwise.
    """
    return _integer_from(1, name, value)


def natural_int(name: str, value: Any) -> int:
    """Return ``value`` if it is an integer of at least 0.

    Raises:
        MechsteerError: otherwise.
    """
    return _integer_from(0, name, value)


def _integer_from(least: int, name: str, value: Any) -> int:
    number = whole(value)
    if number is None or number < least:
        raise MechsteerError(f"{name} must be an integer of at least {least}, got {shown(value)}.")
    return number


def whole_text(name: str, value: str) -> str:
    """Return a text, if tokenizers and files can hold it.

    Raises:
        MechsteerError: for one with half a character (a lone surrogate) in it.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MechsteerError(f"{name} has half a character (a lone surrogate) in it, got {shown(value)}.") from None
    return value


def listed(name: str, value: Iterable[T]) -> list[T]:
    """Return the items of ``value`` if it is a list or something like one, but no text, mapping or table.

    Of the last two an iteration gives keys and names of columns, which nobody means.

    Raises:
        MechsteerError: otherwise.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable) or hasattr(value, "columns"):
        is_task = callable(getattr(value, "prompts", None)) and hasattr(value, "run")
        fix = " A task makes its list of prompts with task.prompts(model)." if is_task else ""
        raise MechsteerError(f"{name} must be a list, got {shown(value)}.{fix}")
    return list(value)


def not_finite(site: str, prompt: int) -> MechsteerError:
    """The error for NaN or infinite numbers at a site, for the prompt at that place of the list."""
    return MechsteerError(
        f"NaN or infinite numbers at {site} for prompt {prompt}: the model or an intervention makes them."
    )


def one_of(kind: str, value: str, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        MechsteerError: otherwise, naming the nearest choice.
    """
    options = list(choices)
    if value not in options:
        raise unknown(kind, value, options)
    return value
