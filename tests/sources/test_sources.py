"""An analysis of what was captured equals the analysis of the model, on both model types, from every kind of source."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.activations import from_cache, moments
from mechsteer.directions import Direction, differences_in_means, random_direction
from mechsteer.models import is_encoder_decoder, pad
from tests.steering.planted import planted
from tests.steering.saes import make_sae, own_site

BOTH = ["llama-gqa", "t5"]
TASKS = ["the cat sat on mat", "one two", "write red blue house in the dog .", "a dog", "quote on mat . end", "blue"]


def groups_of(model: Any) -> dict[str, list[ms.Prompt]]:
    """Prompts of different lengths, with instructions of two kinds and without."""
    kinds = ["answer in capitals", "quote the dog , the cat"]
    with_it = [ms.prompt(model, task, instruction=kinds[place % 2]) for place, task in enumerate(TASKS)]
    return {"with": with_it, "without": [ms.prompt(model, task) for task in TASKS]}


def pairs_of(model: Any) -> list[tuple[ms.Prompt, ms.Prompt]]:
    return list(zip(*groups_of(model).values(), strict=True))


@pytest.fixture(scope="module")
def sources(tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    """Activations at every position of the groups, captured in batches of 5, in a store or in memory."""
    made: dict[tuple[str, str], Any] = {}

    def get(family: str, kind: str) -> Any:
        if (family, kind) not in made:
            model = tiny(family)
            sites = ["resid_post", "encoder.resid_post"] if family == "t5" else ["resid_post"]
            path = tmp_path_factory.mktemp("source") / family if kind == "store" else None
            options: dict[str, Any] = {"store": path} if path else {}
            made[family, kind] = ms.capture(
                model, groups_of(model), sites=sites, positions="all", batch_size=5, generate=8, **options
            )
        return made[family, kind]

    return get


def same(found: Any, expected: Any) -> None:
    """Equal but for the rounding of other batches."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, Direction):
        assert (found.site, found.method, found.meta) == (expected.site, expected.method, expected.meta)
        same(found.vector / expected.norm, expected.vector / expected.norm)
        numbers = [(d.mean_projection / d.activation_norm, d.activation_norm) for d in (found, expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-4)
    else:
        assert found.count == expected.count
        scale = float(expected.std.mean())
        same(found.mean / scale, expected.mean / scale)
        same(found.covariance / scale**2, expected.covariance / scale**2)


PAIRED: dict[str, Callable[..., Any]] = {
    "similarity": lambda x, *p, **k: ms.similarity(x, *p, n_boot=50, **k),
    "separability": lambda x, *p, **k: ms.separability(x, *p, folds=3, **k),
    "difference_in_means": lambda x, *p, **k: ms.difference_in_means(x, *p, layer=1, **k),
    "differences_in_means": lambda x, *p, **k: differences_in_means(x, *p, **k),
}


@pytest.mark.parametrize("kind", ["store", "memory"])
@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("name", PAIRED)
def test_what_compares_pairs(name: str, family: str, kind: str, tiny: Callable, sources: Callable) -> None:
    model, source, run = tiny(family), sources(family, kind), PAIRED[name]
    expected = run(model, pairs_of(model), batch_size=2)
    same(run(source), expected)
    same(run(model, source), expected)  # the model says that they are its own
    same(run(source, pairs_of(model)), expected)
    same(run(model, groups_of(model), batch_size=3), expected)
    few = run(source, pairs_of(model)[1:5])
    same(few, run(model, pairs_of(model)[1:5], batch_size=4))
    swapped = run(source, groups=("without", "with"))
    same(swapped, run(model, [(b, a) for a, b in pairs_of(model)], batch_size=12))


def test_the_encoders_last_token_is_that_of_each_prompt(tiny: Callable, sources: Callable) -> None:
    model, source = tiny("t5"), sources("t5", "store")
    for name in ("similarity", "separability"):
        same(PAIRED[name](source, stack="encoder"), PAIRED[name](model, pairs_of(model), stack="encoder"))
    site = "encoder.1.hook_resid_post"
    expected = ms.difference_in_means(model, pairs_of(model), layer=1, site=site)
    same(ms.difference_in_means(source, layer=1, site=site), expected)


@pytest.mark.parametrize("kind", ["store", "memory"])
@pytest.mark.parametrize("family", BOTH)
def test_features_of_an_instruction(family: str, kind: str, tiny: Callable, sources: Callable) -> None:
    model, source = tiny(family), sources(family, kind)
    sae = make_sae(model, metadata={"model_fingerprint": ms.model_info(model).fingerprint})
    expected = ms.instruction_features(model, sae, pairs_of(model), top=None).sort_values("feature")
    alone, beside = (ms.instruction_features(*x, top=None) for x in ((source, sae), (model, sae, source)))
    for found in (alone, beside):
        both = [t.set_index("feature").sort_index().drop(columns="effect_size") for t in (found, expected)]
        pd.testing.assert_frame_equal(*both, atol=1e-4, rtol=1e-3)
    other = make_sae(model, metadata={"model_fingerprint": "another", "model_name": "other"})
    with pytest.raises(ms.MechsteerError, match="was trained on 'other'"):
        ms.instruction_features(source, other)
    processed = make_sae(model)
    processed.cfg.metadata.model_from_pretrained_kwargs = {"fold_ln": True}
    with pytest.raises(ms.MechsteerError, match=r"fold_ln=True.*ms\.instruction_features\(model, sae, store\)"):
        ms.instruction_features(source, processed)


@pytest.mark.parametrize("kind", ["store", "memory"])
@pytest.mark.parametrize("family", BOTH)
def test_what_reads_states_out(family: str, kind: str, tiny: Callable, sources: Callable) -> None:
    model, source = tiny(family), sources(family, kind)
    groups = groups_of(model)
    everything = [*groups["with"], *groups["without"]]
    for options in ({}, {"normalise": False}, {"positions": "all"}, {"positions": [0, -1]}):
        expected = ms.logit_lens(model, everything, ["cat", 7], batch_size=7, **options)
        same(ms.logit_lens(model, source, ["cat", 7], batch_size=4, **options), expected)
    same(ms.logit_lens(model, source.group("without")), ms.logit_lens(model, groups["without"]))
    options = {"top_k": 5, "n_boot": 50}
    same(ms.volatility(model, source, batch_size=3, **options), ms.volatility(model, everything, **options))


@pytest.mark.parametrize("kind", ["store", "memory"])
@pytest.mark.parametrize("family", BOTH)
def test_sinks_and_moments(family: str, kind: str, tiny: Callable, sources: Callable) -> None:
    model, source = tiny(family), sources(family, kind)
    everything = [p for some in groups_of(model).values() for p in some]
    expected = ms.sinks(model, everything, above=1.2)
    assert len(expected) > 3
    same(ms.sinks(source, above=1.2, batch_size=5), expected)
    same(ms.sinks(source.group("with"), above=1.2), ms.sinks(model, groups_of(model)["with"], above=1.2))
    site = "encoder.resid_post" if family == "t5" else "resid_post"
    alone = ms.capture(model, groups_of(model), sites=site, positions="all")  # nothing generated
    live = moments(model, everything, sites=site, batch_size=2)
    same(moments(alone), live)
    same(moments(alone, sites=site, batch_size=3), live)


def test_a_planted_sink_is_found_in_what_was_captured(checkpoint: Callable[..., Path]) -> None:
    model = planted(checkpoint("gpt2"))
    made = ms.capture(model, groups_of(model)["with"], sites="resid_post", positions="all")
    found = ms.sinks(made)
    assert found["position"].eq(0).all() and found["layer"].tolist() == [0, 1, 2]
    same(found, ms.sinks(model, groups_of(model)["with"]))


@pytest.mark.parametrize("family", BOTH)
def test_the_librarys_own_cache(family: str, tiny: Callable) -> None:
    model = tiny(family)
    groups = groups_of(model)
    caches = {}
    for name, prompts in groups.items():
        batch = pad(model, prompts)
        if is_encoder_decoder(model):
            starts = torch.full((len(prompts), 1), model.cfg.decoder_start_token_id)
            _, cache = model.run_with_cache(batch.tokens, starts, one_zero_attention_mask=batch.mask.int())
        else:
            _, cache = model.run_with_cache(batch.tokens, attention_mask=batch.mask.int(), prepend_bos=False)
        caches[name] = from_cache(cache, batch)
    for run in PAIRED.values():
        same(run(caches), run(model, pairs_of(model)))
    same(ms.logit_lens(model, caches["with"], ["cat"]), ms.logit_lens(model, groups["with"], ["cat"]))
    if family == "llama-gqa":
        _, alone = model.run_with_cache(groups["with"][2].tokens[None], prepend_bos=False)
        same(ms.logit_lens(model, alone), ms.logit_lens(model, groups["with"][2]))
        same(ms.sinks(alone, above=1.2), ms.sinks(model, groups["with"][2], above=1.2))
        with pytest.raises(ms.MechsteerError, match=r"The cache has 6 rows, .*padding: give the prompts"):
            ms.sinks(cache)
        with pytest.raises(ms.MechsteerError, match=r"does not fit: give the ms\.Batch"):
            from_cache(cache, groups["without"])


@pytest.mark.parametrize("family", BOTH)
def test_the_same_batches_give_the_same_bits(family: str, tiny: Callable, tmp_path: Path) -> None:
    model = tiny(family)
    groups = groups_of(model)
    source = ms.capture(model, groups, sites="resid_post", batch_size=5, store=tmp_path / "s")
    for name in ("similarity", "separability"):
        assert PAIRED[name](source).equals(PAIRED[name](model, groups, batch_size=5))


@pytest.mark.parametrize("family", BOTH)
def test_under_an_intervention(family: str, tiny: Callable) -> None:
    model = tiny(family)
    steer = ms.add(random_direction(model, seed=1, layer=0), 6.0, scope="last_prompt")
    source = ms.capture(model, groups_of(model), sites="resid_post", steer=steer)
    plain = ms.difference_in_means(model, pairs_of(model), layer=1)
    for name, run in PAIRED.items():
        same(run(source), run(model, pairs_of(model), steer=steer))
        if "means" not in name:
            continue
        with pytest.raises(ms.MechsteerError, match=r"captured under the intervention 'add\(.*give it to capture"):
            run(source, steer=steer)
    assert not torch.allclose(PAIRED["difference_in_means"](source).vector, plain.vector, rtol=1e-3)
    with pytest.raises(ms.MechsteerError, match=r"lacks '(blocks|decoder)\.0\.hook_resid_pre'.*capture it with sites="):
        ms.logit_lens(model, source)  # the embeddings may have been steered


def test_a_group_may_grow_at_its_end_and_become_no_other(tiny: Callable, tmp_path: Path) -> None:
    model, groups = tiny("gpt2"), groups_of(tiny("gpt2"))
    options: dict[str, Any] = {"sites": "resid_post", "store": tmp_path / "s"}
    few = {name: prompts[:4] for name, prompts in groups.items()}
    store = ms.capture(model, few, **options)
    same(ms.similarity(store, n_boot=20), ms.similarity(model, pairs_of(model)[:4], n_boot=20))
    store = ms.capture(model, groups, **options)
    ms.capture(model, few, **options)
    ms.capture(model, ["a cat", "the mat"], **options)
    store = ms.capture(model, ["the mat", "red"], **options)
    assert {name: len(ids) for name, ids in store.groups.items()} == {"with": 6, "without": 6, "prompts": 3}
    assert [p.text for p in store.prompts("prompts")] == ["a cat", "the mat", "red"]
    for p, q in zip(store.prompts("with"), groups["with"], strict=True):
        assert torch.equal(p.tokens, q.tokens)
        assert {**vars(p), "tokens": 0} == {**vars(q), "tokens": 0}
    same(ms.similarity(store, n_boot=20), ms.similarity(model, pairs_of(model), n_boot=20))
    with pytest.raises(ms.MechsteerError, match=r"The group 'with' of .* has 6 other prompts"):
        ms.capture(model, {"with": groups["with"][::-1]}, **options)


def test_one_prompt_may_be_in_several_pairs(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("gpt2")
    pairs = [*pairs_of(model), (groups_of(model)["with"][0], groups_of(model)["without"][0])]
    groups = {"on": [a for a, _ in pairs], "off": [b for _, b in pairs]}
    for options in ({"store": tmp_path / "s"}, {}):
        source = ms.capture(model, groups, sites="resid_post", batch_size=4, **options)
        found = ms.similarity(source, groups=("on", "off"), n_boot=20)
        same(found, ms.similarity(model, pairs, n_boot=20))


def test_a_prompt_that_is_there_twice_counts_twice(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("gpt2")
    prompts = [*groups_of(model)["with"][:2], *groups_of(model)["without"][:1] * 3]
    for given in ({"with": prompts[:2], "without": prompts[2:]}, prompts):
        live = moments(model, prompts, sites="resid_post", batch_size=2)
        for number, options in enumerate(({}, {"store": tmp_path / type(given).__name__})):
            source = ms.capture(model, given, sites="resid_post", positions="all", batch_size=3 + number, **options)
            same(moments(source, batch_size=4), live)
            same(ms.logit_lens(model, source), ms.logit_lens(model, prompts))
    store = ms.capture(model, prompts, sites="resid_post", positions="all", store=tmp_path / "list")  # again
    assert [p.text for p in store.prompts()] == [p.text for p in prompts]


def test_a_prompt_that_is_there_twice_has_its_own_rows_each_time(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = groups_of(model)["with"][0]
    options: dict[str, Any] = {"sites": "resid_post", "positions": "all"}
    drawn = ms.capture(model, [prompt] * 4, generate=6, strategy=ms.Sample(seed=1), **options)
    site = "blocks.1.hook_resid_post"
    assert len({tuple(x[-1].tolist()) for x in drawn.by_prompt(site)}) == 4  # the answers are four
    found, rows = moments(drawn)[site], drawn[site].double()
    assert found.count == len(rows)
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.std, rows.std(0))
    direction = random_direction(model, layer=0, seed=1)
    steer = ms.add(direction, scale=20.0, rows=[0])
    steered = ms.capture(model, {"with": [prompt, prompt], "without": ["red", "one two"]}, steer=steer, **options)
    pairs = [(prompt, "red"), (prompt, "one two")]
    same(ms.similarity(steered, n_boot=20), ms.similarity(model, pairs, steer=steer, n_boot=20))
    batch = pad(model, [prompt, prompt])
    with model.hooks(fwd_hooks=steer.hooks(batch)):
        _, cache = model.run_with_cache(batch.tokens, attention_mask=batch.mask.int(), prepend_bos=False)
    same(ms.influence(from_cache(cache, batch)), ms.influence(model, [prompt, prompt], steer=steer))


@pytest.mark.usefixtures("unchecked")
def test_layers_may_count_from_the_end_and_be_numpys(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    source = ms.capture(model, groups_of(model), sites="resid_post")
    for layers in ([0, -1], np.array([0, -1]), [0, np.int64(2), -1]):
        for run in (lambda *x, **k: ms.similarity(*x, n_boot=5, **k), lambda *x, **k: ms.separability(*x, **k)):
            table = run(source, layers=layers)
            assert table["layer"].unique().tolist() == [0, 2] and len(table) == len(run(source, layers=[0, 2]))
            same(table, run(model, pairs_of(model), layers=layers))
    same(ms.difference_in_means(source, layer=np.int64(-1)), ms.difference_in_means(source, layer=2))
    for layer in (True, 1.0):
        with pytest.raises(ms.MechsteerError, match=f"layer must be an integer, got {layer}"):
            ms.similarity(source, layers=[layer])


@pytest.mark.usefixtures("unchecked")
def test_biases_of_what_was_captured_are_refused_however_they_are_given(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = groups_of(model)["with"][0]
    source = ms.capture(model, prompt, sites="influence:instruction", positions="all")
    for delta in (np.array([0.0, 1.0]), [0.0, 1.0], torch.tensor(1.0)):
        with pytest.raises(
            ms.MechsteerError, match=r"is captured already: delta= .* got (\[0\.0, 1\.0\]|1\.0) and None"
        ):
            ms.influence(source, delta=delta)
    same(ms.influence(source, delta=[0.0]), ms.influence(model, prompt))


def strangers(model: Any) -> list[tuple[ms.Prompt, ms.Prompt]]:
    return [(ms.prompt(model, "red"), ms.prompt(model, "cat"))] * 2


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "group": (lambda m, s: ms.similarity(s, groups=("with", "out")), "has no group 'out', only 'with', 'without'"),
    "layer": (lambda m, s: ms.difference_in_means(s, layer=2), r"'resid_post' of layer 2.*those of 0.*sites='resid"),
    "site": (lambda m, s: ms.similarity(s, site="mlp_out"), r"lacks 'mlp_out' of the blocks.*sites='mlp_out'"),
    "unknown site": (lambda m, s: ms.similarity(s, site="resid_pots"), "Unknown site 'resid_pots'.*resid_post"),
    "full site": (
        lambda m, s: ms.difference_in_means(s, layer=0, site="blocks.1.hook_mlp_out"),
        "lacks 'blocks.1.hook_mlp_out'",
    ),
    "exits": (lambda m, s: ms.logit_lens(m, s), r"lacks 'blocks\.1\.hook_resid_post'"),
    "positions": (lambda m, s: ms.sinks(s), r"position 0 of 'answer.*positions='last'.*with positions=\"all\""),
    "no model": (lambda m, s: ms.logit_lens(s, ["the cat"]), r"give it first, .* ms\.logit_lens\(model, store\)"),
    "continuation": (lambda m, s: ms.logit_lens(m, s, continuation="cat"), "is for prompts that are run"),
    "a stranger": (lambda m, s: ms.similarity(s, strangers(m)), r"does not have Prompt"),
    "texts": (lambda m, s: ms.similarity(s, [("the cat", "cat")] * 2), "what mechsteer.prompt makes, got 'the cat'"),
    "moments": (lambda m, s: moments(s, positions="last"), "moments of them are of all its rows"),
    "which of several": (
        lambda m, s: ms.similarity({"a": s, "b": s}, groups=("a", "b")),
        "has no group 'a', only 'with', 'without', 'one'",
    ),
    "few": (
        lambda m, s: ms.similarity({"with": s.group("with"), "without": s.group("one")}),
        "'with' and 'without' have 6 and 1 prompts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_captured_is_named_with_what_to_capture(name: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    source = ms.capture(model, {**groups_of(model), "one": ["red"]}, sites="blocks.0.hook_resid_post")
    run, message = REFUSED[name]
    with pytest.raises(ms.MechsteerError, match=message):
        run(model, source)


def test_activations_of_another_model_or_position_are_refused(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    groups = groups_of(model)
    source = ms.capture(model, groups, sites="resid_post", positions=[0], store=tmp_path / "s")
    with pytest.raises(ms.MechsteerError, match=r"the last position \(\d+\) of .*\[0\].*\"last\" or \"all\""):
        ms.similarity(source)
    for run in (ms.similarity, ms.logit_lens, ms.volatility, ms.sinks):
        with pytest.raises(ms.MechsteerError, match="is of another model: its fingerprint is"):
            run(tiny("llama"), source)


def test_pairs_that_do_not_differ_are_counted(tiny: Callable) -> None:
    model = tiny("gpt2")
    prompts = groups_of(model)["with"]
    twice = ms.capture(model, {"with": prompts, "without": prompts}, sites="resid_post")
    with pytest.raises(ms.MechsteerError, match="All 6 pairs have the same prompt"):
        ms.difference_in_means(twice, layer=0)
    without = [prompts[0], *groups_of(model)["without"][1:]]
    once = ms.capture(model, {"with": prompts, "without": without}, sites="mlp_out")
    with pytest.warns(UserWarning, match="1 of 6 pairs have the same prompt"):
        ms.difference_in_means(once, layer=0, site="mlp_out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.difference_in_means(ms.capture(model, groups_of(model), sites="resid_post"), layer=0)


def test_more_states_than_dimensions_are_told_apart_by_sums() -> None:
    from mechsteer.analysis.separability import _dealt, _right_by_sums, held_out
    from mechsteer.sources import Member, Paired

    x = torch.randn(2, 90, 7, generator=torch.Generator().manual_seed(0))
    x[0, :, 2] += 1.2
    members = [Member(str(i), f"query {i % 40}", 1, "") for i in range(90)]
    found = Paired(members, members, {0: "s"}, lambda s, side, a, b: x[side, a:b], lambda *a: [], 16, {})
    fold, labels, shuffled = _dealt([m.text for m in members], 5, 3)
    both = torch.stack([labels, shuffled], dim=1)
    exact = x.double().flatten(0, 1)
    expected = tuple(held_out(exact, taught, labels, fold, 0.1) for taught in (labels, shuffled))
    assert _right_by_sums(found, "s", both, fold, 0.1) == expected and expected[0] > 110 > expected[1]


def test_own_site_is_what_the_sae_reads(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    source = ms.capture(model, groups_of(model), sites="blocks.0.hook_resid_post")
    with pytest.raises(ms.MechsteerError, match=f"lacks '{own_site(model)}'"):
        ms.instruction_features(source, make_sae(model))


def test_rows_are_numbers(tiny: Callable) -> None:
    made = ms.capture(tiny("gpt2"), groups_of(tiny("gpt2")), sites="resid_post", positions="all")
    places = made.recorded().places("blocks")
    rows = np.concatenate([found.rows for found in places.values()])
    assert sorted(rows) == list(range(len(made["blocks.0.hook_resid_post"])))
