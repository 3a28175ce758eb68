"""Influence and rollout from their captured columns, and from the library's cache, equal those of the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.activations import from_cache
from mechsteer.models import is_encoder_decoder, pad
from tests.sources.test_sources import BOTH, groups_of

SITES = ["influence:instruction", "rollout:instruction", "influence:task", "resid_post"]
FORMS: dict[str, tuple[Callable[..., pd.DataFrame], dict[str, Any]]] = {
    "influence": (ms.influence, {}),
    "rollout": (ms.rollout, {}),
    "other norm and source": (ms.influence, {"norm": 2, "source": "ln_input_lagged"}),
    "values": (ms.influence, {"values": True}),
    "heads": (ms.influence, {"heads": "weighted"}),
    "residual": (ms.rollout, {"residual": 0.2}),
    "without the first": (ms.rollout, {"skip_first": True}),
}


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["store", "memory"])
@pytest.mark.parametrize("family", [*BOTH, "gemma2"])
def test_columns(family: str, kind: str, tiny: Callable, tmp_path: Path) -> None:
    model = tiny(family)
    prompts = groups_of(model)["with"]
    options: dict[str, Any] = {"store": tmp_path / "s"} if kind == "store" else {}
    source = ms.capture(model, {"with": prompts}, sites=SITES, positions="all", batch_size=4, **options)
    same(ms.influence(source), ms.influence(model, prompts))
    same(ms.rollout(model, source), ms.rollout(model, prompts))
    same(ms.influence(source, span=["task", "instruction"]), ms.influence(model, prompts, ["task", "instruction"]))
    same(ms.logit_lens(model, source), ms.logit_lens(model, prompts))  # the other sites are what they are
    for run, message in (
        (lambda: ms.rollout(source, span="task"), r"lacks the rollout of the span 'task'.*sites='rollout:task'"),
        (lambda: ms.influence(source, norm=2), "has influence in its default form alone"),
        (lambda: ms.influence(source, delta=1.0), "delta= and continuation= are for prompts that are run"),
        (lambda: ms.influence(source, steer=ms.attention_bias("task", 1.0)), "was captured under the intervention"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            run()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("family", [*BOTH, "gemma2"])
def test_the_librarys_cache_has_every_form(family: str, name: str, tiny: Callable) -> None:
    model = tiny(family)
    run, form = FORMS[name]
    if family == "gemma2" and "source" in form:
        form = {"norm": 2, "source": "ln_input"}
    prompts = groups_of(model)["with"]
    batch = pad(model, prompts)
    if is_encoder_decoder(model):
        starts = torch.full((len(prompts), 1), model.cfg.decoder_start_token_id)
        _, cache = model.run_with_cache(batch.tokens, starts, one_zero_attention_mask=batch.mask.int())
    else:
        _, cache = model.run_with_cache(batch.tokens, attention_mask=batch.mask.int(), prepend_bos=False)
    found = run(from_cache(cache, batch), span=["instruction", "task"], **form)
    same(found, run(model, prompts, ["instruction", "task"], **form))


def test_columns_are_of_whole_prompts(tiny: Callable) -> None:
    model = tiny("gpt2")
    with pytest.raises(ms.MechsteerError, match=r"are of all positions of a prompt: .* got 'last' and generate=0"):
        ms.capture(model, "the cat", sites="influence:task")
    with pytest.raises(ms.MechsteerError, match=r"The span 'task' has no tokens in Prompt"):
        empty = ms.Prompt("the cat", torch.tensor([3, 4, 5]), {"task": []})
        ms.capture(model, empty, sites="influence:task", positions="all")
    with pytest.raises(ms.MechsteerError, match="Unknown site 'influense:task'"):
        ms.capture(model, "the cat", sites="influense:task", positions="all")
    bare = {"blocks.0.hook_resid_post": torch.zeros(1, 4, 32)}
    with pytest.raises(ms.MechsteerError, match=r"does not know its (model|prompts)"):
        ms.influence(bare, span="task")
