"""The settings of rotary embeddings in a configuration, and the length up to which they are constant."""

from typing import Any


def rope_parameters(config: Any) -> dict[str, Any]:
    """The rotary-embedding settings; ``{}`` where the family has none. By kind of layer in Gemma 3 and OLMo 3."""
    return dict(getattr(config, "rope_parameters", None) or {})


def by_kind(config: Any) -> dict[str, dict[str, Any]]:
    """The settings of each kind of layer; one kind, ``""``, where all layers share theirs."""
    found = rope_parameters(config)
    kinds = {name: value for name, value in found.items() if isinstance(value, dict) and name.endswith("_attention")}
    return kinds or {"": found}


def rotary_base(config: Any) -> float | None:
    """Theta; that of the layers with full attention where kinds of layers have their own."""
    kinds = by_kind(config)
    return kinds.get("full_attention", next(iter(kinds.values()))).get("rope_theta")


def context(config: Any) -> tuple[int, str]:
    """The longest context that is computed as Hugging Face does, and why if it is shorter than the configuration says.

    Embeddings of the types longrope and dynamic, and Ministral 3's scale of queries, change with the length of the
    text beyond a limit, also for the positions before it, so that cached keys would be wrong there.
    """
    limit, reason = config.max_position_embeddings, ""
    for settings in by_kind(config).values():
        kind = settings.get("rope_type", "default")
        if kind == "longrope" or settings.get("llama_4_scaling_beta"):
            original = settings.get("original_max_position_embeddings") or limit
            if original < limit:
                limit = original
                reason = "longrope's factors depend" if kind == "longrope" else "the scale of the queries depends"
    note = f"the first {limit} of {config.max_position_embeddings} positions; beyond them {reason} on the text's length"
    return limit, note if reason else ""
