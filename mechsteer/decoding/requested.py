"""Generation options by the names that lm-eval's tasks give them: what they ask for, or that it cannot be done here."""

from collections.abc import Mapping
from typing import Any

from mechsteer.decoding.strategies import Greedy, Sample, Strategy
from mechsteer.errors import MechsteerError, finite, nearest, positive_int

MAX_NEW_TOKENS = 256
"""For tasks that do not say; lm-eval's own default."""

LENGTH = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the number of new tokens; where there are several, the first of these counts, as in lm-eval."""

SAMPLING = ("do_sample", "temperature", "top_k", "top_p")
NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "min_p": 0,
    "typical_p": 1,
    "use_cache": True,
}
"""Options that are accepted with the one value that changes nothing."""


def check_options(options: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise for an option that :func:`mechsteer.generate` does not have, or a value that it cannot have.

    Args:
        options: What a task asks for.
        settings: What of the checkpoint's ``generation_config.json`` acts; it would act in spite of a neutral option.

    Raises:
        MechsteerError: with its name and value.
    """
    stop_texts(options)
    new_tokens(options)
    requested_strategy(options, 0)
    known = ("until", *LENGTH, *SAMPLING)
    for name, value in options.items():
        if value is None or name in known:
            continue
        if name in settings and value != settings[name]:
            raise MechsteerError(
                f"The task asks for {name}={value!r}, and the model's generation_config.json has {settings[name]!r}, "
                "which generation here cannot leave out for one task."
            )
        if name in settings or (name in NEUTRAL and value == NEUTRAL[name]):
            continue
        if name in NEUTRAL:
            raise MechsteerError(
                f"The task asks for {name}={value!r}, which generation here does not have; only {NEUTRAL[name]!r}."
            )
        raise MechsteerError(
            f"The task asks for {name}={value!r}, which generation here does not have.{nearest(name, known)}"
        )


def stop_texts(options: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer.

    Raises:
        MechsteerError: if ``until`` is neither a text nor a list of texts.
    """
    until = options.get("until") or []
    stop = [until] if isinstance(until, str) else until
    if not isinstance(stop, list | tuple) or not all(isinstance(text, str) for text in stop):
        raise MechsteerError(f"until must be a text or a list of texts, got {until!r}.")
    return [text for text in stop if text]


def new_tokens(options: Mapping[str, Any]) -> int:
    """The most new tokens.

    Raises:
        MechsteerError: if it is no integer of at least 1.
    """
    given = next((name for name in LENGTH if options.get(name) is not None), None)
    return MAX_NEW_TOKENS if given is None else positive_int(given, options[given])


def requested_strategy(options: Mapping[str, Any], seed: int) -> Strategy:
    """Greedy decoding, or sampling where the options ask for it: by ``do_sample``, or by a temperature alone.

    Raises:
        MechsteerError: for values that sampling does not have.
    """
    sampling = {name: options[name] for name in SAMPLING if options.get(name) is not None}
    temperature = finite("temperature", sampling.get("temperature", 0.0))
    if not sampling.pop("do_sample", temperature > 0):
        return Greedy()
    sampling.setdefault("temperature", 1.0)
    return Sample(**sampling, seed=seed)
