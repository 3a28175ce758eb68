"""mechsteer: find out why a language model ignores an instruction, and fix it without training.

Names are resolved when first used, so that ``import mechsteer`` does not load PyTorch or TransformerLens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "errors": ("MechsteerError", "ParityError"),
    "prompts": ("Batch", "Prompt", "batch", "prompt"),
    "models": ("ModelInfo", "load", "model_info", "site", "sites", "verify"),
    "directions": ("Direction", "difference_in_means", "gradient_direction", "random_direction"),
    "steering": (
        "Intervention",
        "add",
        "attention_bias",
        "heads",
        "pasta",
        "project",
        "scale_keys",
        "spotlight",
    ),
    "decoding": ("Generation", "Greedy", "Sample", "generate", "score"),
    "evaluation": ("evaluate",),
}
_MODULES = ("directions", "models", "organisms", "plots", "steering", "studies", "tasks")
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Direction",
    "Generation",
    "Greedy",
    "Intervention",
    "MechsteerError",
    "ModelInfo",
    "ParityError",
    "Prompt",
    "Sample",
    "add",
    "attention_bias",
    "batch",
    "difference_in_means",
    "directions",
    "evaluate",
    "generate",
    "gradient_direction",
    "heads",
    "load",
    "model_info",
    "models",
    "organisms",
    "pasta",
    "plots",
    "project",
    "prompt",
    "random_direction",
    "scale_keys",
    "score",
    "site",
    "sites",
    "spotlight",
    "steering",
    "studies",
    "tasks",
    "verify",
]

if TYPE_CHECKING:
    from mechsteer import directions, models, organisms, plots, steering, studies, tasks
    from mechsteer.decoding import Generation, Greedy, Sample, generate, score
    from mechsteer.directions import Direction, difference_in_means, gradient_direction, random_direction
    from mechsteer.errors import MechsteerError, ParityError
    from mechsteer.evaluation import evaluate
    from mechsteer.models import ModelInfo, load, model_info, site, sites, verify
    from mechsteer.prompts import Batch, Prompt, batch, prompt
    from mechsteer.steering import Intervention, add, attention_bias, heads, pasta, project, scale_keys, spotlight


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(f"mechsteer.{_HOME_OF[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"mechsteer.{name}")
    else:
        raise AttributeError(f"module 'mechsteer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
