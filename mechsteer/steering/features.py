"""Steering with the features of a sparse autoencoder, its error term untouched.

With f = encode(x), the activation at the SAE's hook point becomes

    x' = x + c (decode(f') - decode(f)),

where f' is f with some features changed: ``add`` f_i + v, ``scale`` v f_i, ``set`` v, ``ablate`` 0. What the SAE does
not reconstruct, x - decode(f), stays as it is, so that an edit which changes no feature changes nothing, bit for bit.
The decoders here are linear (see :mod:`mechsteer.steering.saes`), so the change is computed as
s(x) sum_i (f'_i - f_i) w_i over the edited features alone; ``add`` does not even need the encoder.

At one hook point edits apply from left to right, each to what the one before it has made: in ``add(d) + features(s)``
the SAE reads the steered activation, in ``features(s) + add(d)`` the unsteered one. ``features`` with ``add`` alone and
no normalisation commute with vectors. Nothing is clipped: ``add`` of a negative value may make a feature negative.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, finite, shown, unknown, whole
from mechsteer.steering.intervention import Edit, Intervention, Where
from mechsteer.steering.registry import method
from mechsteer.steering.sae_conventions import as_trained
from mechsteer.steering.saes import (
    FeatureEdit,
    activations_of,
    as_sae,
    check_sae,
    decoder_rows,
    output_scale,
    site_of,
)

OPERATIONS = ("add", "scale", "set", "ablate")

Change = str | tuple[str, float | Tensor | None]


def features(
    sae: Any,
    edits: Mapping[int, Any],
    *,
    strength: float = 1.0,
    site: str | None = None,
    scope: str | Sequence[int] = "all",
    rows: Sequence[int] | None = None,
    transfer: bool = False,
) -> Intervention:
    """Edit features of an SAE: x + c (decode(f') - decode(f)).

    Args:
        sae: A SAELens SAE, loaded (:func:`mechsteer.load_sae`) or just trained. It is used as it is when the model
            runs, not copied.
        edits: For each feature what to do: ``{3: ("add", 2.0), 7: ("scale", 0.0), 9: ("set", 1.5), 11: "ablate"}``.
            Values are in units of the feature's activation. A value may be a tensor with one entry, which gradients
            then flow to. Without any edits the run is bit-equal to one without the SAE.
        strength: c; 0 changes nothing.
        site: The full name of the hook point; default: the SAE's own.
        scope: As in :func:`mechsteer.add`.
        rows: As in :func:`mechsteer.add`.
        transfer: Allow an SAE that was trained at another site, on another model of the same width, or on other texts.

    What the SAE's metadata says of its training is followed or refused: the processing of the model's weights
    (:mod:`mechsteer.steering.sae_conventions`), the start token, and the length of the texts. That generated tokens go
    beyond that length is a warning.

    Raises:
        MechsteerError: for what is no SAE or one whose features cannot be edited, a feature that it does not have, an
            unknown operation, a value that is not finite; when run, for an SAE of another width or, without
            ``transfer``, of another site or model, or prompts unlike those that it was trained on.

    Example:
        >>> sae = ms.load_sae("organism:instruct-llama")
        >>> steer = ms.features(sae, {366: ("add", 6.7), 190: ("scale", 0.3), 354: "ablate"})
        >>> ms.generate(model, prompt, steer=steer)
    """
    made = as_sae(sae)
    if not isinstance(edits, Mapping):
        raise MechsteerError(f"edits map features to changes, e.g. {{3: ('add', 2.0)}}, got {shown(edits)}.")
    checked = [(_index(made, index), *_change(index, change)) for index, change in edits.items()]
    changes = FeatureEdit(
        made, tuple(i for i, _, _ in checked), tuple(o for _, o, _ in checked), tuple(v for _, _, v in checked)
    )
    options = {"transfer": transfer}
    return Intervention.of(
        "features", site_of(made, site), strength, scope=scope, rows=rows, options=options, features=changes
    )


def _index(sae: Any, index: Any) -> int:
    found = whole(index)
    if found is None or not 0 <= found < sae.cfg.d_sae:
        raise MechsteerError(f"There is no feature {index!r}: the SAE has features 0 to {sae.cfg.d_sae - 1}.")
    return found


def _change(index: Any, change: Any) -> tuple[str, float | Tensor]:
    """An operation and its value."""
    parts = (change,) if isinstance(change, str) else change
    if not isinstance(parts, tuple | list) or len(parts) not in (1, 2) or not isinstance(parts[0], str):
        raise MechsteerError(
            f"The change of feature {index} must be like ('add', 2.0) or 'ablate', got {shown(change)}."
        )
    name, value = parts[0], parts[1] if len(parts) == 2 else None
    if name not in OPERATIONS:
        raise unknown("operation on a feature", name, OPERATIONS)
    if name == "ablate":
        if value is not None and _number(index, value) != 0:
            raise MechsteerError(
                f"'ablate' sets feature {index} to 0 and takes no value, got {shown(value)}; use 'set'."
            )
        return name, 0.0
    if value is None:
        raise MechsteerError(f"{name!r} of feature {index} needs a value, e.g. ({name!r}, 2.0).")
    return name, _number(index, value)


def _number(index: Any, value: Any) -> float | Tensor:
    if not isinstance(value, Tensor):
        return finite(f"The value of feature {index}", value)
    if value.numel() != 1 or not value.is_floating_point() or not math.isfinite(value.item()):
        raise MechsteerError(f"The value of feature {index} must be one finite number, got {shown(value)}.")
    return value.reshape(()) if value.requires_grad else float(value)


def check_features(edit: Edit, model: Any) -> None:
    """Raise unless the SAE's width, site and model fit.

    Raises:
        MechsteerError: with both values.
    """
    check_sae(_features_of(edit).sae, model, str(edit.site), transfer=bool(edit.options.get("transfer")))


@method("features", check=check_features)
def apply_features(edit: Edit, x: Float[Tensor, "rows positions *width"], where: Where) -> Tensor:
    """Return x + c s(x) sum_i (f'_i - f_i) w_i."""
    made = _features_of(edit)
    flat = x.flatten(2)
    if made.sae.cfg.d_in != flat.shape[-1]:
        raise MechsteerError(
            f"The SAE has width {made.sae.cfg.d_in}, but the activations at {where.site!r} have {flat.shape[-1]}."
        )
    if not made.index:
        return x
    _say_length(edit, where)
    read = as_trained(made.sae, x, where.site)
    change = feature_change(made, read) @ decoder_rows(made.sae, made.index)
    scale = output_scale(made.sae, read.flatten(2))
    change = edit.strength * (change if scale is None else scale * change)
    if not isinstance(where.queries, bool):
        change = torch.where(where.queries[..., None].to(change.device), change, 0.0)
    return x + change.to(x.device, x.dtype).expand_as(flat).reshape(x.shape)


def _say_length(edit: Edit, where: Where) -> None:
    size = _features_of(edit).sae.cfg.metadata.context_size
    end = where.step.end if where.step is not None else None
    if size and end is not None and not where.two_stacks and end > size and not edit.options.get("transfer"):
        warnings.warn(
            f"The SAE of {where.site} was trained on texts of at most {size} tokens (context_size); what is generated "
            "goes beyond.",
            stacklevel=2,
        )


def feature_change(made: FeatureEdit, x: Float[Tensor, "rows positions *width"]) -> Float[Tensor, "_ _ features"]:
    """f'_i - f_i of the edited features; the same for all positions where they are only added to."""
    sae = made.sae
    values = torch.stack([torch.as_tensor(v, dtype=sae.dtype, device=sae.device) for v in made.values])
    added = torch.tensor([o == "add" for o in made.operations], device=sae.device)
    if bool(added.all()):
        return values.expand(1, 1, -1)
    before = activations_of(sae, x)[..., list(made.index)]
    scaled = torch.tensor([o == "scale" for o in made.operations], device=sae.device)
    return torch.where(added, values, torch.where(scaled, (values - 1) * before, values - before))


def _features_of(edit: Edit) -> FeatureEdit:
    if edit.features is None:
        raise MechsteerError(f"{edit.method} at {edit.site} has no SAE.")
    return edit.features
