"""Interventions as files: every edit of a composition, with direction and provenance, in one safetensors file.

An edit of features carries its whole SAE (the features that are read depend on all of its encoder), so such a file is
as large as the SAE; edits of one SAE share it.
"""

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError, finite, foreign, shown
from mechsteer.files import json_value, versions
from mechsteer.models import tensor_digest
from mechsteer.steering.intervention import Edit, Intervention
from mechsteer.steering.registry import METHODS, find, is_own, made_of
from mechsteer.steering.saes import FeatureEdit, as_sae, build_sae, sae_digest
from mechsteer.steering.scope import make_scope
from mechsteer.steering.sites import Sites, checked_layers
from mechsteer.tensors import TensorFile, read_tensors, save_tensors

FORMAT = "mechsteer.intervention/1"


def save(intervention: Intervention, path: str | os.PathLike[str]) -> Path:
    """Write all edits, in order, to one safetensors file with a checksum.

    Raises:
        MechsteerError: for an edit of a method that files do not know (one's own function), or if the file cannot be
            written; then nothing is left behind.
    """
    tensors: dict[str, Tensor] = {}
    described = []
    known = dict.fromkeys([*made_of("direction"), *METHODS])
    owners: dict[int, int] = {}
    for place, edit in enumerate(intervention.edits):
        if is_own(edit):
            raise MechsteerError(
                f"The method {edit.method!r} is a function of your own; only {', '.join(known)} can be saved. "
                "mechsteer.steering.method registers another."
            )
        described.append(_describe(edit))
        if edit.direction is not None:
            tensors[f"direction.{place}"] = edit.direction.vector
        tensors |= {f"tensor.{place}.{name}": tensor for name, tensor in edit.tensors.items()}
        if edit.features is not None:
            sae = edit.features.sae
            owner = described[-1]["features"]["sae"] = owners.setdefault(id(sae), place)
            if owner == place:
                tensors |= {f"sae.{place}.{name}": tensor for name, tensor in sae.state_dict().items()}
    try:
        text = json.dumps(described)
    except (TypeError, ValueError) as error:
        raise MechsteerError(f"An edit's options are JSON values, for files hold no others: {error}.") from None
    return save_tensors(path, tensors, {"format": FORMAT, "edits": text, "versions": json.dumps(versions())})


def load(path: str | os.PathLike[str]) -> Intervention:
    """Read what :func:`save` wrote.

    Raises:
        MechsteerError: if the file is missing, no intervention, not bit for bit what was written, or names an unknown
            method.

    Warns:
        UserWarning: for a file that was written before files had checksums.
    """
    file = read_tensors(path)
    if file.header.get("format") != FORMAT:
        raise MechsteerError(f"{path} is not a mechsteer intervention (format {shown(file.header.get('format'))}).")
    with foreign(f"{path} has a damaged header"):  # which may make anything that is built from it raise
        found = _intervention(file)
    file.verify("intervention")
    return found


def _intervention(file: TensorFile) -> Intervention:
    described = json_value(file.header["edits"])
    if not isinstance(described, list):
        raise TypeError(f"edits are a {type(described).__name__}")
    saes = _saes(described, file.tensors)
    edits = []
    for place, one in enumerate(described):
        tensors = {name: file.tensors[f"tensor.{place}.{name}"] for name in one.get("tensors", ())}
        edits.append(_edit(one, file.tensors.get(f"direction.{place}"), saes, tensors))
    return Intervention(tuple(edits))


def describe_edits(intervention: Intervention) -> list[dict[str, Any]]:
    """All that decides what an intervention does, as JSON values; vectors are represented by their hashes.

    Of a function or a method of one's own it tells no more than its name; see :func:`mechsteer.cell_key`.
    """
    described = []
    for edit in intervention.edits:
        one = _describe(edit)
        if edit.direction is not None:
            one["direction"] = tensor_digest(edit.direction.vector)
        if edit.tensors:
            one["tensors"] = {name: tensor_digest(tensor) for name, tensor in edit.tensors.items()}
        if edit.features is not None:
            one["features"]["sae"] = sae_digest(edit.features.sae)
        described.append(one)
    return described


def _describe(edit: Edit) -> dict[str, Any]:
    described: dict[str, Any] = {
        "method": edit.method,
        "site": edit.site if isinstance(edit.site, str) else {"kinds": edit.site.kinds, "layers": edit.site.layers},
        "scope": edit.scope.where,
        "rows": edit.scope.rows,
        "strength": edit.strength,
        "spans": edit.spans,
        "options": dict(edit.options),
    }
    if edit.direction is not None:
        d = edit.direction
        described["direction"] = {
            "site": d.site,
            "method": d.method,
            "mean_projection": d.mean_projection,
            "activation_norm": d.activation_norm,
            "meta": d.meta,
        }
    if edit.tensors:
        described["tensors"] = list(edit.tensors)
    if edit.features is not None:
        f = edit.features
        described["features"] = {
            "config": json.loads(json.dumps(f.sae.cfg.to_dict() | {"device": "cpu"}, default=str)),
            "index": f.index,
            "operations": f.operations,
            "values": [value.item() if isinstance(value, Tensor) else float(value) for value in f.values],
        }
    return described


def _saes(described: list[dict[str, Any]], tensors: dict[str, Tensor]) -> dict[int, Any]:
    """The SAEs in a file, by the place of the first edit that uses each."""
    found = {}
    for place, one in enumerate(described):
        if "features" in one and one["features"]["sae"] == place:
            mine = f"sae.{place}."
            state = {name.removeprefix(mine): t for name, t in tensors.items() if name.startswith(mine)}
            found[place] = as_sae(build_sae(one["features"]["config"], state))
    return found


def _features(described: dict[str, Any], saes: dict[int, Any]) -> FeatureEdit:
    sae = saes[described["sae"]]
    index, operations = tuple(described["index"]), tuple(described["operations"])
    values = tuple(finite("value", value) for value in described["values"])
    if not len(index) == len(operations) == len(values) or any(not 0 <= i < sae.cfg.d_sae for i in index):
        raise ValueError(f"features {index}, operations {operations}, values {values}")
    return FeatureEdit(sae, index, operations, values)


def _check_types(described: dict[str, Any], *, spans: bool) -> None:
    """Raise a TypeError for values that no edit has; ``spans`` says whether it needs some."""
    texts = [*described["spans"]]
    if not isinstance(described["spans"], list) or not isinstance(described["options"], dict):
        raise TypeError("spans or options are none")
    if (spans and not texts) or "" in texts:
        raise TypeError("a span has no name")
    if not isinstance(described["site"], str):
        texts += [name for kind in described["site"]["kinds"] for name in kind]
    if "direction" in described:
        about = described["direction"]
        texts += [about["site"], about["method"], *about["meta"], *about["meta"].values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is no text")


def _edit(described: dict[str, Any], vector: Tensor | None, saes: dict[int, Any], tensors: dict[str, Tensor]) -> Edit:
    method = find(described["method"])
    _check_types(described, spans=method.takes == "span")
    site = described["site"]
    if not isinstance(site, str):
        site = Sites(tuple((s, k) for s, k in site["kinds"]), checked_layers(site["layers"]))
    direction = None
    if "direction" in described:
        if vector is None:
            raise KeyError("a direction's vector")
        direction = Direction(vector, **described["direction"])
    elif vector is not None:
        raise KeyError("direction")
    return Edit(
        method.name,
        site,
        make_scope(described["scope"], described["rows"]),
        finite("strength", described["strength"]),
        method.apply,
        tuple(described["spans"]),
        described["options"],
        direction,
        method.check,
        _features(described["features"], saes) if "features" in described else None,
        tensors,
    )
