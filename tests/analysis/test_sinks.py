"""``ms.sinks`` against a plain loop, on models with a planted sink and without one."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import mechsteer as ms
from tests.steering.naive import prompts_of
from tests.steering.planted import planted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_row_a_layer_with_the_norms_of_a_plain_loop(dtype: str, checkpoint: Callable[..., Path]) -> None:
    model = planted(checkpoint("llama-gqa"), dtype=dtype)
    prompts = prompts_of(model)
    table = ms.sinks(model, prompts)
    assert list(table.columns) == ["layer", "position", "norm", "ratio"]
    assert table["position"].eq(0).all() and table["layer"].tolist() == [0, 1, 2]
    for layer, norm, ratio in zip(table["layer"], table["norm"], table["ratio"], strict=True):
        site = f"blocks.{layer}.hook_resid_post"
        found = []
        for prompt in prompts:
            _, cache = model.run_with_cache(prompt.tokens[None], names_filter=site)
            norms = cache[site][0].float().norm(dim=-1)
            found.append((norms[0].item(), (norms[0] / norms.sort().values[(len(norms) - 1) // 2]).item()))
        medians = pd.DataFrame(found).median()
        assert norm == pytest.approx(medians[0], rel=1e-2) and ratio == pytest.approx(medians[1], rel=3e-2)


def test_padding_and_batches_change_nothing(checkpoint: Callable[..., Path]) -> None:
    model = planted(checkpoint("gpt2"))
    prompts = prompts_of(model)
    pd.testing.assert_frame_equal(ms.sinks(model, prompts), ms.sinks(model, prompts, batch_size=1), rtol=1e-4)
    alone = ms.sinks(model, prompts[1])
    assert len(alone) == 3 and alone["ratio"].gt(10).all()


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_a_model_without_a_sink_has_no_rows(family: str, tiny: Callable) -> None:
    table = ms.sinks(tiny(family), ["the cat sat on mat", "one dog"])
    assert table.empty and {"layer", "position", "norm", "ratio"} <= set(table.columns)


def test_both_stacks_of_an_encoder_decoder(checkpoint: Callable[..., Path]) -> None:
    model = planted(checkpoint("t5"), token=1)  # </s>, an encoder's last token
    prompt = ms.prompt(model, "the cat sat on mat")
    table = ms.sinks(model, prompt)
    assert table["stack"].eq("encoder").all() and table["position"].eq(len(prompt) - 1).all() and len(table) == 2
    start = ms.sinks(planted(checkpoint("t5-gated"), token=0), prompt)  # with a head of its own, it writes other tokens
    assert {"decoder"} == set(start["stack"]) and 0 in start["position"].tolist()


def test_what_counts_is_a_choice_and_nonsense_is_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    assert len(ms.sinks(model, "the cat sat on mat", above=1.01)) > 0
    with pytest.raises(ms.MechsteerError, match="above must be finite"):
        ms.sinks(model, "the cat", above=float("nan"))
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: x * torch.nan)]),
        pytest.raises(ms.MechsteerError, match=r"blocks\.1\.hook_resid_post for prompt 0"),
    ):
        ms.sinks(model, "the cat")


def test_the_study_of_instruction_vectors_puts_content_beside_all_where_there_is_a_sink(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mechsteer.studies.instruction_vectors import tables as kinds
    from mechsteer.studies.instruction_vectors.bench import Bench, Prompts
    from mechsteer.studies.instruction_vectors.vectors import Steering

    monkeypatch.setattr(kinds, "_at_best", lambda bench, prompts, steering, kind, setting: {"layer": 0})
    model = ms.load("organism:instruct-llama", check=False)  # its own: it is changed below
    prompts = Prompts(n=2, n_validation=2, notes=0)
    bench = Bench(model, tmp_path, 4, None)

    def scopes() -> list[str]:
        return kinds.scopes(bench, prompts, Steering(bench, prompts, [1]), ["upper"])["scope"].tolist()

    assert scopes() == ["all", "last_prompt"]
    first = prompts.validated("upper").prompts(model)[0].tokens[0]
    model.embed.W_E[first] *= 300
    assert scopes() == ["all", "content", "last_prompt"]
