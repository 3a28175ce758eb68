"""One intervention of every family for a tiny model, at a strength that is seen, and the same at strength zero."""

from collections.abc import Callable
from typing import Any

import torch

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder
from tests.steering.saes import make_sae

BOTH = ["llama-gqa", "t5"]
HEADS = [(0, 1), (1, 0), (1, 2)]

Make = Callable[[Any, float], ms.Intervention]
"""A model and a strength between 0 (nothing) and 1 (strong) -> an intervention."""


def direction(model: Any, kind: str = "resid_post", *, layer: int = 1, stack: str | None = None) -> ms.Direction:
    """A random direction; at head outputs, one entry for each dimension of each head."""
    stack = stack if is_encoder_decoder(model) else None
    site = ms.site(model, kind, layer=layer, stack=stack)
    made = random_direction(model, seed=layer, site=site)
    if kind not in ("z", "cross_z"):
        return ms.Direction(made.vector, site, "random", mean_projection=2.0, meta=made.meta)
    entries = torch.randn(model.cfg.n_heads * model.cfg.d_head, generator=torch.Generator().manual_seed(layer))
    return ms.Direction(entries, site, "random", meta=made.meta)


def project(model: Any, target: float, **options: Any) -> ms.Intervention:
    return ms.project(direction(model), target=target, **options)


def affine_map(model: Any) -> ms.AffineMap:
    """A random one of rank 2."""
    shift = direction(model)
    drawn = torch.randn(5, shift.width, generator=torch.Generator().manual_seed(5)) / shift.width**0.5
    return ms.AffineMap(shift, drawn[0], drawn[1:3], 3 * drawn[3:])


def features(model: Any, strength: float, **options: Any) -> ms.Intervention:
    edits = {0: ("add", 3.0), 5: ("scale", 4.0), 9: ("set", 2.0), 12: "ablate", 30: ("set", -1.0)}
    return ms.steering.features(make_sae(model, "topk"), edits, strength=strength, **options)


GENERAL: dict[str, Make] = {
    "add": lambda m, s: ms.add(direction(m), 12 * s),
    "add, generated": lambda m, s: ms.add(direction(m), 12 * s, scope="generated"),
    "affine": lambda m, s: ms.affine(affine_map(m), 4 * s),
    "heads": lambda m, s: ms.heads(direction(m, "z"), 2 * s),
    "heads, generated": lambda m, s: ms.heads(direction(m, "z", layer=0), 2 * s, scope="generated"),
    "attention_bias": lambda m, s: ms.attention_bias(delta=3 * s),
    "attention_bias, prompt": lambda m, s: ms.attention_bias(delta=3 * s, scope="prompt"),
    "attention_bias, generated": lambda m, s: ms.attention_bias(delta=3 * s, scope="generated"),
    "attention_bias, task": lambda m, s: ms.attention_bias("task", 2 * s, layers=[1]),
    "pasta": lambda m, s: ms.pasta(alpha=0.01**s),
    "pasta, heads": lambda m, s: ms.pasta(alpha=0.01**s, heads=HEADS),
    "pasta, released": lambda m, s: ms.pasta(alpha=0.01**s, compat="released"),
    "spotlight": lambda m, s: ms.spotlight(target=0.9 * s),
    "spotlight, task": lambda m, s: ms.spotlight(("task", "instruction"), target=0.9 * s),
    "scale_keys": lambda m, s: ms.scale_keys(alpha=1 + 3 * s),
    "features": lambda m, s: features(m, s),
    "features, generated": lambda m, s: features(m, s, scope="generated"),
}
"""Those that make sense in both model types, by name."""

TWO_STACKS: dict[str, Make] = {
    "add, encoder": lambda m, s: ms.add(direction(m, stack="encoder"), 12 * s, scope="span:instruction"),
    "heads, encoder": lambda m, s: ms.heads(direction(m, "z", stack="encoder"), 2 * s),
    "heads, cross": lambda m, s: ms.heads(direction(m, "cross_z"), 2 * s, scope="all"),
    "attention_bias, encoder": lambda m, s: ms.attention_bias(delta=3 * s, at="encoder"),
    "attention_bias, cross": lambda m, s: ms.attention_bias(delta=3 * s, at="cross"),
    "pasta, cross": lambda m, s: ms.pasta(alpha=0.01**s, at="cross"),
    "spotlight, encoder": lambda m, s: ms.spotlight(target=0.9 * s, at="encoder"),
    "scale_keys, cross": lambda m, s: ms.scale_keys(alpha=1 + 3 * s, at="cross"),
}
"""Those that only an encoder-decoder has."""

NO_ZERO: dict[str, Make] = {
    "project": lambda m, s: project(m, 4 * s),
    "project, last_prompt": lambda m, s: project(m, 4 * s, scope="last_prompt"),
}
"""Projections: no target leaves everything as it is."""

PASS_BY_PASS: dict[str, Make] = {
    "scale_keys, prompt": lambda m, s: ms.scale_keys(alpha=1 + 3 * s, scope="prompt"),
    "scale_keys, generated": lambda m, s: ms.scale_keys(alpha=1 + 3 * s, scope="generated"),
    "spotlight, released": lambda m, s: ms.spotlight(target=0.9 * s, compat="released"),
}
"""What depends on how a sequence is cut into passes, as documented; a whole sequence in one pass is another thing."""

MAKERS = {**GENERAL, **TWO_STACKS, **NO_ZERO, **PASS_BY_PASS}


def cases(*groups: dict[str, Make]) -> list[tuple[str, str]]:
    """(model family, name) for both model types."""
    names = [name for group in groups for name in group]
    return [(family, name) for family in BOTH for name in names if family == "t5" or name not in TWO_STACKS]
