"""The features of an instruction: by a loop that anyone can read, and what they add up to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.features import instruction_features
from mechsteer.steering import features
from tests.steering.saes import D_SAE, make_sae, own_site
from tests.steering.steers import BOTH

TEXTS = ["the cat sat on mat", "write red blue house in the dog .", "one", "a dog in house"]


def pairs_of(model: Any) -> list[tuple[ms.Prompt, ms.Prompt]]:
    return [(ms.prompt(model, text, instruction="answer in capitals"), ms.prompt(model, text)) for text in TEXTS]


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("kind", ["topk", "train-batchtopk"])
def test_it_is_the_difference_of_means_one_feature_at_a_time(family: str, kind: str, tiny: Callable) -> None:
    model, pairs = tiny(family), pairs_of(tiny(family))
    sae = make_sae(model, kind)
    site = own_site(model)
    table = instruction_features(model, sae, pairs, top=None)
    assert len(table) == D_SAE and table.change.is_monotonic_decreasing
    edit = features(sae, {}).edits[0].features
    assert edit is not None
    states = [[ms.capture(model, p, sites=site)[site][0] for p in side] for side in zip(*pairs, strict=True)]
    acts = [torch.stack([edit.sae.encode(x[None, None])[0, 0] for x in side]).detach() for side in states]
    for row in table.itertuples():
        on, off = (a[:, row.feature] for a in acts)
        assert row.mean_with == pytest.approx(float(on.mean()), abs=1e-4)
        assert row.difference == pytest.approx(float(on.mean() - off.mean()), abs=1e-4)
        assert row.frequency_with == float((on > 0).float().mean())
        assert row.frequency_without == float((off > 0).float().mean())
        assert row.change == pytest.approx(abs(row.difference) * edit.sae.W_dec[row.feature].norm().item(), abs=1e-4)
        deviation = float(((on.var() + off.var()) / 2).sqrt())
        if abs(row.difference) > 1e-3 and deviation > 1e-3:
            assert row.effect_size == pytest.approx(row.difference / deviation, rel=1e-3)
    assert not table.isna().any().any()
    assert (table.effect_size[table.difference == 0] == 0).all()


@pytest.mark.parametrize("family", BOTH)
def test_all_features_together_add_the_saes_part_of_the_difference_in_means(family: str, tiny: Callable) -> None:
    model, pairs = tiny(family), pairs_of(tiny(family))
    sae, site = make_sae(model, "standard"), own_site(model)
    table = instruction_features(model, sae, pairs, top=None)
    steer = features(sae, {row.feature: ("add", row.difference) for row in table.itertuples()}, scope="last_prompt")
    plain, steered = (ms.capture(model, pairs[0][1], sites=site, steer=s)[site] for s in (None, steer))
    on, off = (
        torch.stack([sae(ms.capture(model, p, sites=site)[site]).detach()[0] for p in side]).mean(0)
        for side in zip(*pairs, strict=True)
    )
    torch.testing.assert_close(steered - plain, (on - off)[None], atol=1e-4, rtol=0)
    dense = ms.difference_in_means(model, pairs, layer=1).vector
    top = table.iloc[0]
    row = sae.W_dec[int(top.feature)].detach()
    assert top.cosine == pytest.approx(float(row @ dense / row.norm() / dense.norm()), abs=1e-4)


@pytest.mark.parametrize("normalise", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", ["resid_post", "z"])
def test_of_an_sae_that_normalises_the_change_is_what_adding_the_difference_does(
    normalise: str, kind: str, tiny: Callable
) -> None:
    model, pairs = tiny("llama-gqa"), pairs_of(tiny("llama-gqa"))
    site = own_site(model, kind)
    sae = make_sae(model, "standard", site=site, normalize_activations=normalise)
    row = instruction_features(model, sae, pairs).iloc[1]
    steer = features(sae, {int(row.feature): ("add", row.difference)}, scope="last_prompt")
    moved = [
        (ms.capture(model, p, sites=site, steer=steer)[site] - ms.capture(model, p, sites=site)[site]).norm().item()
        for pair in pairs
        for p in pair
    ]
    assert row.change == pytest.approx(sum(moved) / len(moved), rel=1e-3)


def test_the_top_is_the_top_and_steering_is_seen(tiny: Callable) -> None:
    model, pairs = tiny("llama-gqa"), pairs_of(tiny("llama-gqa"))
    sae = make_sae(model)
    whole = instruction_features(model, sae, pairs, top=None)
    assert instruction_features(model, sae, pairs, top=3).equals(whole.head(3))
    assert instruction_features(model, sae, pairs, batch_size=1).round(3).equals(whole.head(20).round(3))
    steer = features(sae, {7: ("add", 5.0)}, scope="last_prompt")
    assert not instruction_features(model, sae, pairs, steer=steer).equals(whole.head(20))


@pytest.mark.usefixtures("unchecked")
def test_what_is_wrong_is_named(tiny: Callable) -> None:
    model, pairs = tiny("llama-gqa"), pairs_of(tiny("llama-gqa"))

    def refused(sae: Any, pairs: Any = pairs, **options: Any) -> str:
        with pytest.raises(ms.MechsteerError) as error:
            instruction_features(model, sae, pairs, **options)
        return str(error.value)

    assert "An SAE is one of SAELens" in refused("sae")
    assert "At least 2 pairs" in refused(make_sae(model), pairs[:1])
    assert "top must be" in refused(make_sae(model), top=0)
    assert "width 16" in refused(make_sae(model, d_in=16))
    assert "was trained at" in refused(make_sae(model), site=own_site(model, "resid_mid"))
    assert "blocks.9" in refused(make_sae(model, site="blocks.9.hook_resid_post"))
    broken = make_sae(model)
    broken.b_enc.data[3] = float("nan")
    assert "NaN or infinite features" in refused(broken)
