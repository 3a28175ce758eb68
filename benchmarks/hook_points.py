"""Which hook points each model family has, and their shapes: ``docs/hooks.md``.

Run: ``.venv/bin/python -m benchmarks.hook_points`` (under a minute).
"""

import tempfile
from pathlib import Path
from typing import Any

import mechsteer as ms
from mechsteer.models.sites import KINDS, fires, parse
from tests.hub import CONFIGS, write

PAGE = Path(__file__).parents[1] / "docs" / "hooks.md"
FAMILIES = {
    "GPT-2": "gpt2",
    "GPT-Neo": "gpt_neo",
    "GPT-J": "gptj",
    "Pythia": "gpt_neox",
    "OPT": "opt",
    "Phi 2": "phi",
    "Phi 3 mini (window)": "phi3",
    "Llama 3 (grouped queries)": "llama",
    "Mistral 0.1 (window)": "mistral",
    "Mixtral": "mixtral",
    "Qwen 2.5": "qwen2",
    "Qwen 3": "qwen3",
    "Qwen 3 MoE": "qwen3_moe",
    "Gemma": "gemma",
    "Gemma 2": "gemma2",
    "Gemma 3 1B": "gemma3_text",
    "OLMo": "olmo",
    "OLMo 2": "olmo2",
    "SmolLM 3": "smollm3",
    "Granite 3": "granite",
    "StableLM 2": "stablelm",
    "Ministral 3 (YaRN, scaled queries)": "ministral3",
    "OLMo 3": "olmo3",
    "OLMoE": "olmoe",
    "Arcee": "arcee",
    "ERNIE 4.5": "ernie4_5",
    "Helium": "helium",
    "Nemotron, biases": "nemotron",
    "Seed-OSS": "seed_oss",
    "StarCoder 2": "starcoder2",
    "T5 1.1": "t5",
}
"""Configurations of ``tests/hub.py``, one for each set of hook points, and their families."""

MEANS = {
    "resid_pre": "the residual stream before the block",
    "resid_mid": "after attention, before the MLP",
    "resid_mid_cross": "after cross-attention, before the MLP",
    "resid_post": "after the block",
    "attn_out": "what attention adds to the stream",
    "cross_attn_out": "what cross-attention adds",
    "mlp_out": "what the MLP adds",
    "q": "queries, before any rotation",
    "k": "keys, before any rotation",
    "v": "values",
    "rot_q": "queries after the rotation",
    "rot_k": "keys after the rotation, of all positions so far",
    "attn_scores": "scores before the softmax, after a cap",
    "pattern": "attention weights",
    "z": "what each head reads: weights times values",
    "result": "what each head adds to the stream; needs `model.set_use_attn_result(True)`",
    "cross_q": "queries of cross-attention",
    "cross_k": "its keys: the encoder's positions",
    "cross_v": "its values",
    "cross_attn_scores": "its scores",
    "cross_pattern": "its weights",
    "cross_z": "what each of its heads reads",
    "cross_result": "what each of its heads adds, as above",
    "mlp_pre": "the MLP's units before the activation function; of a gated MLP, the gate",
    "mlp_pre_linear": "of a gated MLP, what the gate multiplies",
    "mlp_post": "the MLP's units as they are read out",
}
"""What is at each kind of site."""

HEAD = """# Hook points

A site is the full name of a hook point: stack, layer, hook. Stacks are `blocks`, or `encoder` and `decoder` of a T5.

```python
import mechsteer as ms

model = ms.load("organism:instruct-llama")
assert ms.site(model, "rot_k", 3) == "blocks.3.attn.hook_rot_k"
print(ms.sites(model).query("layer == 3"))  # of your model, sizes filled in; also: mechsteer inspect MODEL --layer 3
```

Read them with `ms.capture(model, prompts, sites=["resid_post", "z"])` or the library's `run_with_cache`; edit them with
an [intervention](concepts.md#intervention) or the library's `run_with_hooks`. Attention scores and weights are computed
where a hook looks at them; otherwise attention runs in the fused kernel. Shapes are those of a batch; with a cache,
`pos` is this pass's positions and `key_pos` all so far.

| kind | hook, after `blocks.3.` | shape | what |
|---|---|---|---|
"""

FAMILIES_HEAD = """
## By family

Written by `python -m benchmarks.hook_points` from one small model of each family. A kind that a family lacks is refused
by name.
"""


def kinds_of(model: Any) -> dict[str, tuple[str, ...]]:
    """For each kind, the stacks of the model that reach it with ``use_attn_result`` on."""
    before = model.cfg.use_attn_result
    model.cfg.use_attn_result = True
    found: dict[str, list[str]] = {}
    for name in model.hook_dict:
        parsed = parse(name)
        if parsed is not None and fires(model, name):
            stacks = found.setdefault(parsed[2], [])
            stacks += [parsed[0]] if parsed[0] not in stacks else []
    model.cfg.use_attn_result = before
    return {kind: tuple(stacks) for kind, stacks in found.items()}


def page(found: dict[str, dict[str, tuple[str, ...]]]) -> str:
    """The page, from what each family has; families with the same are one column."""
    same: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    for family, kinds in found.items():
        same.setdefault(tuple(sorted(kinds.items())), []).append(family)
    columns = [(names, dict(kinds)) for kinds, names in same.items()]
    text = HEAD + "".join(f"| `{k}` | `{hook}` | {shape} | {MEANS[k]} |\n" for k, (hook, shape) in KINDS.items())
    text += f"{FAMILIES_HEAD}\n| kind | {' | '.join(', '.join(names) for names, _ in columns)} |\n"
    text += f"|---|{'---|' * len(columns)}\n"
    for kind in KINDS:
        cells = [_cell(kinds.get(kind, ())) for _, kinds in columns]
        text += f"| `{kind}` | {' | '.join(cells)} |\n"
    return text


def _cell(stacks: tuple[str, ...]) -> str:
    return "–" if not stacks else "✓" if stacks in (("blocks",), ("encoder", "decoder")) else stacks[0]


def main() -> None:
    """Write the page."""
    found = {}
    for configuration, family in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            write(CONFIGS[configuration], Path(folder))
            found[family] = kinds_of(ms.load(folder))
            print(family)
    PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
