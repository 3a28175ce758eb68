"""A checkpoint's ``generation_config.json``: what of it changes the scores of tokens, or ends a row.

Hugging Face's ``generate`` makes of it a list of logits processors, which act on the model's logits before the next
token is taken, and criteria that end a row. Both are built here by transformers itself, for one prompt at a time, so
that no prompt's padding is taken for text. Which search or sampling is used (``num_beams``, ``do_sample``,
``temperature``, ``top_k`` and so on) is not read: that is what a strategy says.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from mechsteer.errors import MechsteerError, foreign, shown
from mechsteer.models.info import is_encoder_decoder, loaded_info

NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "watermarking_config": None,
    "stop_strings": None,
}
"""The settings that act, each with the value that changes nothing; None changes nothing either."""

_REFUSED = {
    "guidance_scale": (None, 1, "a second, unconditional pass for every token"),
    "token_healing": (None, False, "a prompt whose last token is rewritten"),
}


def read_settings(generation_config: Any) -> dict[str, Any]:
    """What of a transformers GenerationConfig acts: JSON values by their names there, neutral ones left out."""
    if generation_config is None:
        return {}
    given = generation_config.to_dict()
    if hasattr(given.get("watermarking_config"), "to_dict"):
        given["watermarking_config"] = given["watermarking_config"].to_dict()
    found = {name: given[name] for name, neutral in NEUTRAL.items() if given.get(name) not in (None, neutral)}
    found |= {name: given[name] for name, (*neutral, _) in _REFUSED.items() if given.get(name) not in neutral}
    return found


def check_tokens(generation_config: Any, d_vocab: int, directory: Any) -> None:
    """Refuse start and end tokens that are none.

    Raises:
        MechsteerError: with the name and the value.
    """
    for name in ("eos_token_id", "bos_token_id", "decoder_start_token_id"):
        value = getattr(generation_config, name, None)
        several = value if isinstance(value, list) and name == "eos_token_id" else [value]
        for one in several if value is not None else ():
            end = d_vocab if name == "decoder_start_token_id" else 2**31  # others may be no row of the embeddings
            if isinstance(one, bool) or not isinstance(one, int) or not -1 <= one < end:
                raise MechsteerError(
                    f"The generation configuration in {str(directory)!r} has {name}={shown(value)}; a token id, from 0 "
                    f"to {d_vocab - 1}, was expected."
                )


def say_unread(generation_config: Any, directory: Any) -> None:
    """Log a search that Hugging Face's ``generate`` would make by default, and ours does not."""
    beams = getattr(generation_config, "num_beams", None)
    if isinstance(beams, int) and beams > 1:
        logging.getLogger("mechsteer").warning(
            "The generation configuration in %r asks for num_beams=%d, a beam search, which generate() does not have: "
            "it is greedy unless it is given another strategy.",
            str(directory),
            beams,
        )


def check_settings(model: Any, settings: dict[str, Any]) -> None:
    """Raise for a setting that is known but cannot be applied here.

    Raises:
        MechsteerError: with its name and value.
    """
    refused = {name: why for name, (*_, why) in _REFUSED.items() if name in settings}
    for name, why in refused.items():
        raise MechsteerError(
            f"The generation_config.json of {loaded_info(model).name!r} has {name}={settings[name]!r}, which means "
            f"{why}: not supported. Pass generation_config=False to leave the file out."
        )


def logits_processors(model: Any, prompt: Sequence[int], settings: dict[str, Any], max_new_tokens: int) -> list[Any]:
    """The processors transformers makes for one prompt, in order: ``processor(ids [1, pos], scores [1, d_vocab])``.

    Args:
        model: A loaded model.
        prompt: The prompt's tokens, without padding.
        settings: From :func:`read_settings`.
        max_new_tokens: At which length a forced end comes.

    Raises:
        MechsteerError: for values that transformers refuses.
    """
    from transformers import GenerationConfig

    first = 1 if is_encoder_decoder(model) else len(prompt)
    eos = list(loaded_info(model).eos_ids)
    device = next(model.parameters()).device
    chosen = {name: value for name, value in settings.items() if name != "stop_strings"}
    with applying(model):
        config = GenerationConfig(**chosen, max_length=first + max_new_tokens)
        config._eos_token_tensor = torch.tensor(eos, device=device) if eos else None
        return _mixin()(model)._get_logits_processor(
            config,
            input_ids_seq_length=first,
            encoder_input_ids=torch.tensor([list(prompt)], device=device),
            device=device,
        )


def stopping_criterion(model: Any, settings: dict[str, Any]) -> Any:
    """The criterion for ``stop_strings``: ``criterion(ids [1, pos], None)``; None where there are none.

    Raises:
        MechsteerError: for values that transformers refuses.
    """
    if "stop_strings" not in settings:
        return None
    from transformers import StopStringCriteria

    with applying(model):
        return StopStringCriteria(model.tokenizer, settings["stop_strings"])


def applying(model: Any) -> AbstractContextManager[None]:
    """Turns what transformers raises on settings that it cannot apply into one error."""
    return foreign(
        f"The generation_config.json of {loaded_info(model).name!r} cannot be applied",
        "Correct it, or pass generation_config=False to leave it out.",
    )


@cache
def _mixin() -> type:
    """A class with transformers' building methods and without a network."""
    from transformers import GenerationMixin

    class Builder(GenerationMixin):
        def __init__(self, model: Any) -> None:
            vocabulary = SimpleNamespace(vocab_size=model.cfg.d_vocab)
            self.config = SimpleNamespace(
                is_encoder_decoder=is_encoder_decoder(model), get_text_config=lambda: vocabulary
            )

    return Builder
