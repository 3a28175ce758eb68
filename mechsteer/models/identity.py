"""What of a model decides results besides the prompts: weights, configuration, tokenizer, chat template, generation."""

import hashlib
from datetime import datetime
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.files import digest
from mechsteer.models.digest import taken_once, weights_digest
from mechsteer.models.info import check_model, model_info

_NOT_DECIDING = frozenset(
    {
        *("device", "n_devices", "model_name", "tokenizer_name", "seed", "init_mode", "init_weights"),
        *("initializer_range", "from_checkpoint", "checkpoint_index", "checkpoint_label_type", "checkpoint_value"),
        *("n_params", "default_prepend_bos", "tokenizer_prepends_bos", "trust_remote_code"),
        *("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in", "use_hook_tokens"),
    }
)
"""Settings of the library that say where a model came from or which hook points are live."""


def model_identity(model: Any) -> dict[str, Any]:
    """What decides the results of a model, by name, as JSON values.

    The device and the folder of the checkpoint are not in it, and neither are hooks that were put on the model by
    hand: see :func:`check_unhooked`.
    """
    with taken_once():
        info, weights = model_info(model), weights_digest(model)
    tokenizer, settings = model.tokenizer, settings_digest(model)
    changed = {} if settings == getattr(model, _AS_LOADED, None) else {"settings": settings}
    return changed | {
        "fingerprint": info.fingerprint,
        "weights": weights,
        "configuration": digest({k: str(v) for k, v in model.cfg.to_dict().items() if k not in _NOT_DECIDING}),
        "tokenizer": tokenizer_digest(tokenizer),
        "chat template": digest(_with_date(getattr(tokenizer, "chat_template", None))),
        "generation configuration": digest([info.eos_ids, info.generation_config]),
    }


def _with_date(template: Any) -> Any:
    """A chat template, and today's date if it writes that into every prompt (as Llama 3.2's does)."""
    return [template, today()] if "strftime_now" in str(template) else template


def today() -> str:
    """The date, as templates see it."""
    return datetime.now().date().isoformat()


_AS_LOADED = "mechsteer_settings"


def remember_settings(model: Any) -> None:
    """Keep the :func:`settings_digest` of a model that has just been made, so that a change is seen."""
    setattr(model, _AS_LOADED, settings_digest(model))


def settings_digest(model: Any) -> str:
    """A hash over the modules' classes and what each has of its own that is no tensor: scales, epsilons, functions."""
    found = []
    for name, module in model.named_modules():
        if name and type(module).__name__ != "HookPoint":
            own = {key: _shown(value) for key, value in vars(module).items() if not key.startswith("_")}
            own = {key: value for key, value in own.items() if value and key != "training"}
            found.append([name, f"{type(module).__module__}:{type(module).__qualname__}", own])
    return digest(found)


def _shown(value: Any) -> str:
    """A number, a text or a function; empty for anything else."""
    if isinstance(value, bool | int | float | str):
        return repr(value)
    value = getattr(value, "func", value)
    name = getattr(value, "__qualname__", "")
    return f"{value.__module__}:{name}" if name and callable(value) else ""


def check_unhooked(model: Any) -> None:
    """Refuse a model with hooks on it that were put there by hand, the library's or PyTorch's own, or other functions.

    Raises:
        MechsteerError: naming where one is, with the fix; and for what is no model.
    """
    check_model(model)
    for name, module in model.named_modules():
        forward = vars(module).get("forward")
        if forward is not None and not _is_ours(forward):
            raise MechsteerError(
                f"The model's forward at {name!r} was replaced, so its results cannot be kept under a key: nothing "
                "says what it does. Give what it does as an intervention, steer=."
            )
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if not all(_is_ours(hook) for hook in hooks):
            raise MechsteerError(
                f"The model has a hook on it, at {name!r}, so its results cannot be kept under a key: nothing says "
                "what it does. Take it off, model.reset_hooks(including_permanent=True), and give what it does as an "
                "intervention, steer=."
            )


def _is_ours(hook: Any) -> bool:
    """Whether it is one of those that half precision needs; the package's version says what they do."""
    return getattr(hook, "func", hook).__module__.startswith("mechsteer.models.")


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash over a tokenizer: all of its serialised form, its special tokens, and how it treats them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the head of the text, padding and truncation, is what the last call happened to use
        content = backend.to_str().partition('"added_tokens":')[2].encode()
    else:
        content = digest(getattr(tokenizer, "get_vocab", dict)()).encode() + _sentencepiece(tokenizer)
    flags = ("add_bos_token", "add_eos_token", "split_special_tokens", "clean_up_tokenization_spaces")
    about = {
        "class": type(tokenizer).__name__,
        "content": hashlib.sha256(content).hexdigest(),
        "special": {name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()},
        "flags": {flag: getattr(tokenizer, flag, None) for flag in flags},
    }
    return digest(about)


def _sentencepiece(tokenizer: Any) -> bytes:
    model = getattr(tokenizer, "sp_model", None)
    return b"" if model is None else model.serialized_model_proto()
