"""The model card of a direction: what it is, how it was made, and code that loads it."""

import json
import math

from mechsteer.directions.direction import Direction
from mechsteer.models import parse

_TAGS = ["mechsteer", "steering-vector", "activation-steering"]


_WHAT = {
    True: "`ms.heads` adds it, head after head, to the outputs of that layer's heads",
    False: "`ms.add` adds a multiple of its unit vector to the activations there",
}


def _of_heads(direction: Direction) -> bool:
    """Whether it holds a part for every head of a layer, as :func:`mechsteer.heads` takes it; random ones hold one."""
    parsed = parse(direction.site)
    return parsed is not None and parsed[2] in ("z", "cross_z") and direction.method != "random"


def is_hub_model(direction: Direction) -> bool:
    """Whether it was made on a model of the hub: only those have a revision."""
    return bool(direction.meta.get("model_revision"))


def model_card(direction: Direction, repo_id: str) -> str:
    """The text of README.md, with the hub's YAML in front.

    Args:
        direction: The direction. Its ``meta`` is shown as it is.
        repo_id: Where it will be, ``"user/name"``.
    """
    from huggingface_hub import ModelCardData

    model = direction.meta.get("model_name", "")
    base = model if is_hub_model(direction) else None
    front = ModelCardData(library_name="mechsteer", tags=_TAGS, base_model=base).to_yaml()
    return "\n".join(
        [
            "---",
            front,
            "---",
            "",
            f"# {repo_id.split('/')[-1]}",
            "",
            f"A direction for steering {_code(model) if model else 'a language model'} at {_code(direction.site)}, "
            f"made with mechsteer. {_WHAT[_of_heads(direction)]} while the model runs; no weights are changed.",
            "",
            "## Use",
            "",
            "```python",
            *_usage(direction, repo_id),
            "```",
            "",
            "## How it was made",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {_code(value)} |" for name, value in _facts(direction).items()),
            "",
        ]
    )


def _usage(direction: Direction, repo_id: str) -> list[str]:
    known = not math.isnan(direction.activation_norm)
    scale = "0.1 * direction.activation_norm" if known else "1.0"
    comment = "a tenth of the activations' mean norm" if known else "in units of the residual stream"
    model = direction.meta.get("model_name", "")
    named = is_hub_model(direction) or model.startswith("organism:")
    made = "ms.heads(direction)" if _of_heads(direction) else f"ms.add(direction, {scale})  # {comment}"
    source = json.dumps(model if named else f"path/to/{model or 'the-model'}")
    return [
        "import mechsteer as ms",
        "",
        f"model = ms.load({source})",
        f"direction = ms.Direction.from_hub({json.dumps(repo_id)})",
        f"steer = {made}",
        'print(ms.generate(model, "Write a sentence.", steer=steer).texts)',
    ]


def _facts(direction: Direction) -> dict[str, str]:
    """What is known, by name."""
    numbers = {
        "width": direction.width,
        "norm": direction.norm,
        "mean projection on the unit vector": direction.mean_projection,
        "mean norm of the activations": direction.activation_norm,
    }
    measured = {name: f"{number:.6g}" for name, number in numbers.items() if not math.isnan(number)}
    provenance = {name.replace("_", " "): text for name, text in sorted(direction.meta.items()) if text}
    return {"method": direction.method, "site": direction.site} | measured | provenance


def _code(text: str) -> str:
    """As code, in one line and without what would end the code or the table's cell."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39)).replace('|', '/')}`"
