"""The examples that a sparse vector is learned from: checked, drawn and split, and turned into tokens."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, finite, listed, positive_int, shown
from mechsteer.models import as_prompts, continuation_ids
from mechsteer.prompts import Prompt, PromptLike

Target = str | Mapping[str, float]
"""A continuation, as it follows the prompt (its leading space included); or the probabilities of first words."""


def checked(model: Any, examples: Sequence[tuple[PromptLike, Target]]) -> tuple[list[Prompt], list[Target]]:
    """The prompts and the targets.

    Raises:
        MechsteerError: for no examples, what is no pair, or targets of two kinds.
    """
    given = listed("examples", examples)
    for example in given:
        is_pair = isinstance(example, Sequence) and not isinstance(example, str) and len(example) == 2
        if not is_pair or isinstance(example[0], Mapping):
            raise MechsteerError(f"An example is (prompt, target), got {shown(example)}.")
    if not given:
        raise MechsteerError("No examples were given to learn from.")
    targets = [example[1] for example in given]
    texts = [isinstance(target, str) for target in targets]
    if not all(isinstance(t, str | Mapping) for t in targets) or (any(texts) and not all(texts)):
        raise MechsteerError("Targets must all be continuations, or all be mappings from first words to probabilities.")
    return as_prompts(model, [example[0] for example in given]), targets


def split(count: int, n: int | None, validation: float, seed: int) -> tuple[list[int], list[int]]:
    """The places of the training and of the validation examples.

    Raises:
        MechsteerError: for fewer examples than asked, or too few to split.
    """
    if n is not None and positive_int("n", n) > count:
        raise MechsteerError(f"{n} examples were asked for, but only {count} were given.")
    if not 0 <= finite("validation", validation) < 1:
        raise MechsteerError(f"validation must be from 0 to below 1, got {validation}.")
    drawn = random.Random(f"sparse {seed}").sample(range(count), count if n is None else n)
    held = round(validation * len(drawn))
    if validation > 0:
        held = max(held, 1)
    if held >= len(drawn):
        raise MechsteerError(
            f"{len(drawn)} examples cannot be split with validation={validation:g}: use more, or validation=0."
        )
    return sorted(drawn[held:]), sorted(drawn[:held])


def continuations(
    model: Any, prompts: Sequence[Prompt], targets: Sequence[str]
) -> tuple[Int[Tensor, "batch longest"], Bool[Tensor, "batch longest"]]:
    """The tokens of the targets behind their prompts, padded on the right, and which of them are real."""
    rows = [continuation_ids(model, target, p) for target, p in zip(targets, prompts, strict=True)]
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, some in enumerate(rows):
        ids[row, : len(some)] = torch.tensor(some)
        real[row, : len(some)] = True
    return ids, real


def distribution(model: Any, prompt: Prompt, target: Mapping[str, float]) -> Float[Tensor, "d_vocab"]:
    """The target's probabilities over the vocabulary, by the first token of each text behind the prompt.

    Raises:
        MechsteerError: for two texts with the same first token, or probabilities that are none.
    """
    made = torch.zeros(model.cfg.d_vocab)
    taken: dict[int, str] = {}
    for text, share in target.items():
        token = continuation_ids(model, text, prompt)[0]
        if token in taken:
            raise MechsteerError(f"The answers {taken[token]!r} and {text!r} begin with the same token.")
        if not 0 <= finite(f"The probability of {text!r}", share) <= 1:
            raise MechsteerError(f"The probability of {text!r} must be from 0 to 1, got {share}.")
        taken[token] = text
        made[token] = share
    if abs(float(made.sum()) - 1) > 1e-4:
        raise MechsteerError(f"The probabilities of {dict(target)!r} add up to {float(made.sum()):.6g}, not 1.")
    return made
