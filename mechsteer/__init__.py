"""mechsteer: find out why a language model ignores an instruction, and fix it without training.

Names are resolved when first used, so that ``import mechsteer`` does not load PyTorch or TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "errors": ("MechsteerError", "ParityError"),
    "prompts": ("Batch", "Prompt", "batch", "prompt"),
    "models": ("ModelInfo", "load", "model_info", "site", "sites", "verify"),
    "directions": (
        "AffineMap",
        "Direction",
        "affine_map",
        "difference_in_means",
        "gradient_direction",
        "random_direction",
        "sparse_direction",
        "sparse_path",
    ),
    "steering": (
        "SinkWarning",
        "Intervention",
        "add",
        "affine",
        "attention_bias",
        "features",
        "heads",
        "load_sae",
        "pasta",
        "project",
        "scale_keys",
        "spotlight",
    ),
    "analysis": (
        "cross_attention_shift",
        "frozen_cross_attention",
        "influence",
        "instruction_features",
        "layer_sensitivity",
        "logit_lens",
        "match_influence",
        "rollout",
        "separability",
        "similarity",
        "sinks",
        "volatility",
    ),
    "decoding": ("Directer", "DoLa", "Gated", "Generation", "Greedy", "Sample", "generate", "score"),
    "activations": ("ActivationStore", "capture"),
    "evaluation": ("evaluate",),
    "scoring": ("score_outputs",),
    "comparison": ("Comparison", "compare"),
    "diagnosis": ("Diagnosis", "diagnose"),
    "tuning": ("Tuning", "tune"),
    "explorer": ("explore",),
    "tasks": ("task",),
    "identity": ("cell_key",),
}
_MODULES = (
    "activations",
    "analysis",
    "directions",
    "harness",
    "models",
    "organisms",
    "plots",
    "steering",
    "studies",
    "tasks",
)
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "ActivationStore",
    "AffineMap",
    "Batch",
    "Comparison",
    "Diagnosis",
    "Directer",
    "Direction",
    "DoLa",
    "Gated",
    "Generation",
    "Greedy",
    "Intervention",
    "MechsteerError",
    "ModelInfo",
    "ParityError",
    "Prompt",
    "Sample",
    "SinkWarning",
    "Tuning",
    "activations",
    "add",
    "affine",
    "affine_map",
    "analysis",
    "attention_bias",
    "batch",
    "capture",
    "cell_key",
    "compare",
    "cross_attention_shift",
    "diagnose",
    "difference_in_means",
    "directions",
    "evaluate",
    "explore",
    "features",
    "frozen_cross_attention",
    "generate",
    "gradient_direction",
    "harness",
    "heads",
    "influence",
    "instruction_features",
    "layer_sensitivity",
    "load",
    "load_sae",
    "logit_lens",
    "match_influence",
    "model_info",
    "models",
    "organisms",
    "pasta",
    "plots",
    "project",
    "prompt",
    "random_direction",
    "rollout",
    "scale_keys",
    "score",
    "score_outputs",
    "separability",
    "similarity",
    "sinks",
    "site",
    "sites",
    "sparse_direction",
    "sparse_path",
    "spotlight",
    "steering",
    "studies",
    "task",
    "tasks",
    "tune",
    "verify",
    "volatility",
]

if TYPE_CHECKING:
    from mechsteer import activations, analysis, directions, harness, models, organisms, plots, steering, studies, tasks
    from mechsteer.activations import ActivationStore, capture
    from mechsteer.analysis import (
        cross_attention_shift,
        frozen_cross_attention,
        influence,
        instruction_features,
        layer_sensitivity,
        logit_lens,
        match_influence,
        rollout,
        separability,
        similarity,
        sinks,
        volatility,
    )
    from mechsteer.comparison import Comparison, compare
    from mechsteer.decoding import Directer, DoLa, Gated, Generation, Greedy, Sample, generate, score
    from mechsteer.diagnosis import Diagnosis, diagnose
    from mechsteer.directions import (
        AffineMap,
        Direction,
        affine_map,
        difference_in_means,
        gradient_direction,
        random_direction,
        sparse_direction,
        sparse_path,
    )
    from mechsteer.errors import MechsteerError, ParityError
    from mechsteer.evaluation import evaluate
    from mechsteer.explorer import explore
    from mechsteer.identity import cell_key
    from mechsteer.models import ModelInfo, load, model_info, site, sites, verify
    from mechsteer.prompts import Batch, Prompt, batch, prompt
    from mechsteer.scoring import score_outputs
    from mechsteer.steering import (
        Intervention,
        SinkWarning,
        add,
        affine,
        attention_bias,
        features,
        heads,
        load_sae,
        pasta,
        project,
        scale_keys,
        spotlight,
    )
    from mechsteer.tasks import task
    from mechsteer.tuning import Tuning, tune


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(f"mechsteer.{_HOME_OF[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"mechsteer.{name}")
    else:
        raise AttributeError(f"module 'mechsteer' has no attribute {name!r}.{_hint(name)}")
    globals()[name] = value
    return value


def _hint(name: str) -> str:
    """What a person may have meant; nothing for the names that Python and its tools ask every module for."""
    return "" if name.startswith("_") else import_module("mechsteer.errors").like(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
