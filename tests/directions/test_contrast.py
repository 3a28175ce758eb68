"""Difference in means against its equation and a plain Hugging Face loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.directions import differences_in_means
from mechsteer.models.checkpoint.hf import load_hf

TASKS = ["write a quote that ends red", "the cat", "a dog sat on the mat", "one two"]


def pairs(model: Any) -> list[tuple[ms.Prompt, ms.Prompt]]:
    return [(ms.prompt(model, task, instruction="answer in capitals"), ms.prompt(model, task)) for task in TASKS]


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_the_direction_is_the_mean_difference_of_hugging_faces_last_token_states(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model = tiny(family)
    hf = load_hf(checkpoint(family), dtype=torch.float32, device=torch.device("cpu"))

    def state(p: ms.Prompt, layer: int) -> torch.Tensor:
        return hf(input_ids=p.tokens[None], output_hidden_states=True).hidden_states[layer + 1][0, -1]

    for layer in (0, 1):  # the last entry of hidden_states is normed
        x_with = torch.stack([state(a, layer) for a, _ in pairs(model)])
        x_without = torch.stack([state(b, layer) for _, b in pairs(model)])
        d = ms.difference_in_means(model, pairs(model), layer=layer)
        expected = (x_with - x_without).mean(0)
        torch.testing.assert_close(d.vector, expected, atol=1e-4, rtol=1e-4)
        unit = expected / expected.norm()
        assert d.mean_projection == pytest.approx(float((x_with @ unit).mean()), rel=1e-4)
        assert d.activation_norm == pytest.approx(float(x_with.norm(dim=-1).mean()), rel=1e-4)
        assert d.site == f"blocks.{layer}.hook_resid_post"


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_all_layers_in_one_pass_equal_each_layer_alone_for_any_batch_size(family: str, tiny: Callable) -> None:
    model = tiny(family)
    together = differences_in_means(model, pairs(model), batch_size=4)
    for layer, direction in together.items():
        alone = ms.difference_in_means(model, pairs(model), layer=layer, batch_size=1)
        torch.testing.assert_close(direction.vector, alone.vector, atol=1e-4, rtol=1e-4)
        assert direction.site == alone.site


def test_projecting_sets_the_mean_projection_of_the_instructed_states(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    d = ms.difference_in_means(model, pairs(model), layer=1)
    out = ms.generate(model, [b for _, b in pairs(model)], steer=ms.project(d), max_new_tokens=2, record=[d.site])
    for states in out.activations[d.site]:
        torch.testing.assert_close(states @ d.unit, torch.full((len(states),), d.mean_projection), atol=1e-3, rtol=1e-4)


def test_pairs_that_do_not_differ_and_no_pairs_are_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    same = ms.prompt(model, "the cat")
    with pytest.raises(ms.MechsteerError, match="All 2 pairs have the same prompt"):
        ms.difference_in_means(model, [(same, same)] * 2, layer=0)
    with pytest.raises(ms.MechsteerError, match="No pairs"):
        ms.difference_in_means(model, [], layer=0)
    with pytest.raises(ms.MechsteerError, match="out of range"):
        ms.difference_in_means(model, pairs(model), layer=9)


def test_some_pairs_that_do_not_differ_are_counted_in_a_warning(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    same = ms.prompt(model, "the cat")
    with pytest.warns(UserWarning, match="1 of 5 pairs have the same prompt"):
        diluted = ms.difference_in_means(model, [*pairs(model), (same, same)], layer=0)
    torch.testing.assert_close(diluted.vector, ms.difference_in_means(model, pairs(model), layer=0).vector * 4 / 5)


def test_states_at_an_encoder_site_are_those_of_the_last_token_not_of_padding(tiny: Callable) -> None:
    model, site = tiny("t5"), "encoder.1.hook_resid_post"
    together = ms.difference_in_means(model, pairs(model), layer=1, site=site, batch_size=8)
    alone = ms.difference_in_means(model, pairs(model), layer=1, site=site, batch_size=1)
    torch.testing.assert_close(together.vector, alone.vector, atol=1e-4, rtol=1e-4)


def test_states_that_are_not_finite_are_named_by_site_and_pair(checkpoint: Callable[..., Path]) -> None:
    model = ms.load(str(checkpoint("gpt2")))
    model.embed.W_E.data[model.tokenizer(" sat", add_special_tokens=False)["input_ids"][0]] = torch.nan
    for size in (1, 2, 4):  # only the third pair has the word
        with pytest.raises(ms.MechsteerError, match=r"at blocks\.1\.hook_resid_post for prompt 2: the model"):
            ms.difference_in_means(model, pairs(model), layer=1, batch_size=size)


@pytest.mark.parametrize("given", [3, [3], ["ab"], [("a",)], [("a", 3)]])
def test_what_is_no_pair_of_prompts_is_refused(given: Any, tiny: Callable, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=r"pairs must be a list|A pair is|A prompt is"):
        ms.difference_in_means(tiny("gpt2"), given, layer=0)


def test_a_full_name_and_another_layer_are_no_direction_of_either(tiny: Callable) -> None:
    model, name = tiny("llama-gqa"), "blocks.1.hook_resid_post"
    source = ms.capture(model, {"with": ["the cat"], "without": ["a dog"]}, sites=name)
    for given in ((model, [("the cat", "a dog")]), (source, None)):
        assert ms.difference_in_means(*given, layer=1, site=name).site == name
        with pytest.raises(ms.MechsteerError, match="is in layer 1 of the blocks, but layer=0 is asked for"):
            ms.difference_in_means(*given, layer=0, site=name)
    with pytest.raises(ms.MechsteerError, match="is in layer 1 of the blocks, but layer=0 is asked for"):
        differences_in_means(model, [("the cat", "a dog")], site=name)  # one direction under the number of each layer
