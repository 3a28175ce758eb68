"""Scores and weights are made where a hook looks at them, and what is computed does not depend on that."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mechsteer as ms
from mechsteer.models import advance, hooked, is_encoder_decoder, stacks, start
from mechsteer.steering import Intervention, Step, begin, run_batches

TEXTS = ["the cat sat on the mat in the house , a dog sat", "a dog", "red blue cat dog one two the a"]
FAMILIES = ["gpt2", "llama-gqa", "mistral", "qwen3", "t5"]
Hooks = list[tuple[str, Callable[..., Any]]]


def looking(model: Any, kinds: Sequence[str] = ("attn_scores", "pattern"), layers: Sequence[int] = (0, 1)) -> Hooks:
    """Hooks that change nothing but make scores and weights."""
    if is_encoder_decoder(model):
        kinds = [*kinds, *(f"cross_{kind}" for kind in kinds)]
    found = []
    for stack in stacks(model):
        names = [k for k in kinds if stack == "decoder" or not k.startswith("cross")]
        found += [(ms.site(model, kind, layer, stack), lambda x, hook: None) for kind in names for layer in layers]
    return found


def everywhere(model: Any) -> Hooks:
    return looking(model, layers=range(min(stacks(model).values())))


def prompts_of(model: Any) -> list[ms.Prompt]:
    return [ms.prompt(model, text, instruction="answer in capitals .") for text in TEXTS]


@torch.no_grad()
def logits_of(model: Any, steer: Intervention | None = None, hooks: Hooks | None = None) -> Tensor:
    """Log-probabilities at the prompts' ends and after two cached tokens each, padded together."""
    found: list[Tensor] = []

    def run(step: Step) -> None:
        state, tokens, mask = begin(model, step)
        found.append(advance(model, state, tokens, mask))
        for token in (7, 9):
            fed = torch.full((len(tokens), 1), token)
            found.append(advance(model, state, fed, fed > 0))

    run_batches(model, prompts_of(model), run, steer=steer or Intervention(), batch_size=8, hooks=hooks or [])
    return torch.cat(found, dim=1).log_softmax(-1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The queries of every call of torch's kernel."""
    monkeypatch.setattr("mechsteer.models.attention.SHORT", 0)
    calls: list[Tensor] = []
    real = F.scaled_dot_product_attention

    def counted(q: Tensor, *args: Any, **options: Any) -> Tensor:
        calls.append(q)
        return real(q, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_changes_nothing(family: str, tiny: Callable, kernel: list[Tensor]) -> None:
    model = tiny(family)
    alone = logits_of(model)
    assert kernel
    kernel.clear()
    torch.testing.assert_close(logits_of(model, hooks=everywhere(model)), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits_of(model, hooks=looking(model, ["pattern"], [1])), alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attn_scores", "pattern"])
def test_only_the_layer_that_is_looked_at_makes_scores(kind: str, tiny: Callable, kernel: list[Tensor]) -> None:
    model, tokens = tiny("llama-gqa"), torch.tensor([[5, 6, 7, 8]])
    with hooked(model, looking(model, [kind], [1])):
        advance(model, start(model, tokens, tokens > 0), tokens, tokens > 0)
    assert len(kernel) == len(model.blocks) - 1


@pytest.mark.parametrize("put", ["forward", "backward", "pre"])
def test_hooks_of_torch_itself_see_scores_too(put: str, tiny: Callable) -> None:
    model, tokens, seen = tiny("llama-gqa"), torch.tensor([[5, 6, 7, 8]]), []
    point = model.blocks[1].attn.hook_pattern

    def look(*tensors: Any) -> None:
        seen.append(put)

    handle = {
        "forward": point.register_forward_hook,
        "backward": point.register_full_backward_hook,
        "pre": point.register_forward_pre_hook,
    }[put](look)
    leaf = torch.zeros((), requires_grad=True)
    try:
        with hooked(model, [("blocks.0.hook_resid_pre", lambda x, hook: x + leaf)]):
            advance(model, start(model, tokens, tokens > 0), tokens, tokens > 0).sum().backward()
    finally:
        handle.remove()
    assert seen == [put]


STEERS = {
    "bias": lambda: ms.attention_bias(delta=2.0),
    "bias of the prompt": lambda: ms.attention_bias(delta=-1.5, scope="prompt"),
    "two biases": lambda: ms.attention_bias(delta=2.0) + ms.attention_bias("task", delta=0.5, scope=[0, 1, -1]),
    "keys": lambda: ms.scale_keys(alpha=3.0),
    "keys, then bias": lambda: ms.scale_keys(alpha=3.0) + ms.attention_bias(delta=2.0),
    "bias, then keys": lambda: ms.attention_bias(delta=2.0) + ms.scale_keys(alpha=3.0),
    "bias, then weights": lambda: ms.attention_bias(delta=2.0) + ms.spotlight(target=0.6),
}


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "mistral", "t5"])
@pytest.mark.parametrize("name", STEERS)
def test_edits_are_the_same_with_and_without_scores(family: str, name: str, tiny: Callable) -> None:
    if family == "t5" and "two" in name:
        pytest.skip("cross-attention has no queries of its own in a span")
    model, steer = tiny(family), STEERS[name]()
    fused = logits_of(model, steer)
    torch.testing.assert_close(fused, logits_of(model, steer, everywhere(model)), atol=2e-4, rtol=2e-4)
    assert (fused - logits_of(model)).abs().max() > 1e-2


def test_biases_need_no_scores(tiny: Callable, kernel: list[Tensor]) -> None:
    model = tiny("llama-gqa")
    logits_of(model)
    plain = len(kernel)
    logits_of(model, ms.attention_bias(delta=2.0))
    assert len(kernel) == 2 * plain
    logits_of(model, ms.pasta(alpha=0.1))
    assert len(kernel) == 2 * plain


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple) else (made,):
            if isinstance(x, Tensor):
                self.size = max(self.size, x.numel())
        return made


@torch.no_grad()
@pytest.mark.parametrize("steer", [None, "bias"])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_a_long_prompt_makes_nothing_that_grows_with_its_square(family: str, steer: str | None, tiny: Callable) -> None:
    model, largest = tiny(family), []
    for words in (40, 80):
        prompt = ms.prompt(model, " ".join(["cat dog"] * (words // 2)), instruction="answer in capitals .")

        def run(step: Step) -> None:
            state, tokens, mask = begin(model, step)
            with _Largest() as mode:
                advance(model, state, tokens, mask)
            largest.append(mode.size)

        chosen = ms.attention_bias(delta=1.0) if steer else Intervention()
        run_batches(model, [prompt], run, steer=chosen, batch_size=1)
    assert largest[1] < 2.2 * largest[0]


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "mistral"])
def test_padding_reads_nothing(family: str, hooks: bool, tiny: Callable) -> None:
    model, kept = tiny(family), []
    read = [("blocks.0.attn.hook_z", lambda x, hook: kept.append(x))]
    logits = logits_of(model, hooks=[*read, *(looking(model) if hooks else [])])
    assert logits.isfinite().all()
    longest = max(map(len, prompts_of(model)))
    for row, prompt in enumerate(sorted(prompts_of(model), key=len)):
        padding = longest - len(prompt)
        assert not kept[0][row, :padding].any() and kept[0][row, padding:].any(-1).any(-1).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "t5"])
@pytest.mark.parametrize("inside", ["hook_scale", "hook_normalized"])
def test_looking_into_norms_changes_nothing(family: str, inside: str, tiny: Callable) -> None:
    model, seen = tiny(family), set()
    names = [name for name in model.hook_dict if name.endswith(inside) and ".attn." not in name and "final" not in name]
    looked_at = logits_of(model, hooks=[(name, lambda x, hook: seen.add(hook.name)) for name in names])
    assert seen == set(names)
    atol = 1e-3 if family == "t5" else 1e-4  # scores that are not scaled make more of rounding
    torch.testing.assert_close(logits_of(model), looked_at, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("delta", [1e6, -1e6])
@pytest.mark.parametrize("scope", ["all", "last_prompt"])
def test_a_bias_beyond_what_half_precision_holds_is_as_good_as_infinite(
    delta: float, scope: str, checkpoint: Callable[..., Path]
) -> None:
    model = ms.load(checkpoint("llama-gqa"), dtype="float16")
    found = logits_of(model, ms.attention_bias(delta=delta, scope=scope))
    assert torch.allclose(found, logits_of(model, ms.attention_bias(delta=delta / 200, scope=scope)), atol=0.1)
    assert (found - logits_of(model)).abs().max() > 0.5


def test_keys_that_overflow_are_not_read_as_zero(checkpoint: Callable[..., Path]) -> None:
    model = ms.load(checkpoint("llama-gqa"), dtype="float16")
    steer, prompt = ms.scale_keys(alpha=1e6, layers=[0]), prompts_of(model)[0]
    for use in (
        lambda: ms.generate(model, prompt, steer=steer),
        lambda: ms.capture(model, [prompt], sites="resid_post", steer=steer),
        lambda: steer.explain(model, prompt),
    ):
        with pytest.raises(ms.MechsteerError, match=r"not finite|NaN or infinite"):
            use()
