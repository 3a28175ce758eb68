"""Learned sparse vectors: the loss is the one under the intervention, planted ones come back, bad input is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.decoding.score import score
from mechsteer.directions.sparse import default_weights, path_table, sparse_direction, sparse_directions, sparse_path
from mechsteer.directions.sparse_fit import fit
from mechsteer.directions.sparse_problem import Problem
from mechsteer.errors import MechsteerError

EXAMPLES = [
    ("the cat sat on mat", "red blue"),
    ("write a word in the house", "one"),
    ("quote", "dog cat ends"),
    ("answer in capitals : the dog ends .", "mat"),
    ("red blue red", "house answer"),
]
OPTIONS: dict[str, Any] = {"generated": "none", "n": None, "validation": 0.0, "seed": 0, "batch_size": 2}


def problem(model: Any, examples: Any = EXAMPLES, layers: Any = (1,), site: str = "z", **options: Any) -> Problem:
    return Problem.of(model, examples, layers=layers, site=site, **(OPTIONS | options))


def some_delta(shape: tuple[int, int]) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "t5", "t5-uneven"])
@pytest.mark.parametrize("generated", ["none", "all"])
def test_the_loss_is_the_one_under_the_intervention(family: str, generated: str, tiny: Callable) -> None:
    model = tiny(family)
    made = problem(model, generated=generated)
    delta = some_delta(made.shape)
    d = ms.Direction(
        delta.flatten().float(), made.sites[0], "mine", meta={"model_fingerprint": ms.model_info(model).fingerprint}
    )
    steer = ms.heads(d) if generated == "none" else ms.heads(d) + ms.heads(d, scope="generated")
    wanted = -score(model, [e[0] for e in EXAMPLES], [e[1] for e in EXAMPLES], steer=steer).mean()
    assert made.smooth(delta)[0] == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize(("family", "site"), [("gpt2", "z"), ("t5", "cross_z"), ("llama-gqa", "resid_post")])
def test_the_gradient_is_that_of_finite_differences(family: str, site: str, tiny: Callable) -> None:
    made = problem(tiny(family), site=site)
    delta = some_delta(made.shape)
    _, gradient = made.smooth(delta)
    towards = torch.randn(made.shape, generator=torch.Generator().manual_seed(6)).double()
    h = 1e-2
    slope = (made.smooth(delta + h * towards)[0] - made.smooth(delta - h * towards)[0]) / (2 * h)
    assert slope == pytest.approx(float((gradient * towards).sum()), rel=0.02, abs=1e-3)


def test_the_kl_loss_is_the_definition(tiny: Callable) -> None:
    model = tiny("gpt2")
    target = {"red": 0.5, "blue": 0.25, "one": 0.25}
    value, _ = problem(model, [("the cat", target)]).smooth(torch.zeros(4, 8, dtype=torch.float64))
    choices = list(target)
    logprobs = score(model, ["the cat"], [choices])[0]
    by_hand = sum(p * (torch.tensor(p).log() - q) for p, q in zip(target.values(), logprobs, strict=True))
    assert value == pytest.approx(float(by_hand), abs=1e-5)


def test_at_the_largest_weight_it_is_zero_and_below_it_is_not(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    for share in (0.0, 0.5, 1.0):
        most = sum(default_weights(problem(model), 1, 1.0, share)[0])
        weights = [(share * w, (1 - share) * w) for w in (most, 0.97 * most)]
        at, below = sparse_path(model, EXAMPLES, layer=1, weights=weights, validation=0.0, max_steps=20)
        assert not at.delta.any() and at.stopped == "zero" and at.loss == at.unsteered_loss
        assert below.delta.any() and below.loss < below.unsteered_loss
    with pytest.raises(MechsteerError, match="is zero; use smaller weights"):
        _ = at.direction


def test_the_path_goes_from_zero_to_many_heads(tiny: Callable) -> None:
    model = tiny("gpt2")
    table = path_table(sparse_path(model, EXAMPLES, layer=2, points=5, validation=0.0, max_steps=40))
    assert table["entries"].iloc[0] == 0 and table["groups"].iloc[-1] >= 3
    assert (table["groups"].diff().dropna() >= 0).all() and table["entries"].iloc[-1] > table["entries"].iloc[1]
    assert (table["loss"].diff().dropna() < 0).all()


@pytest.mark.usefixtures("unchecked")
def test_layers_may_be_numpys(tiny: Callable) -> None:
    options: dict[str, Any] = {"points": 2, "validation": 0.0, "max_steps": 2}
    for layer, same in ((np.int64(1), 1), (np.array([0, 2]), [0, 2])):
        one, other = (sparse_path(tiny("gpt2"), EXAMPLES, layer=given, **options) for given in (layer, same))
        assert one[1].sites == other[1].sites and one[1].delta.equal(other[1].delta)


@pytest.fixture(scope="module")
def eight_heads(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random GPT-2 with eight heads of eight."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.tiny import tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=512, n_embd=64, n_head=8, n_layer=2, n_positions=64, initializer_range=0.15, eos_token_id=1
        )
        made = GPT2LMHeadModel(config)
    folder = tmp_path_factory.mktemp("eight")
    made.save_pretrained(folder)
    tokenizer(seq2seq=False).save_pretrained(folder)
    return ms.load(str(folder))


def plant(made: Problem, prompts: list[str], heads: list[int], seed: int) -> Problem:
    """The problem whose targets are the model's own distributions under a vector on some heads."""
    delta = torch.zeros(made.shape)
    for head in heads:
        delta[head] = 2 * torch.randn(made.shape[1], generator=torch.Generator().manual_seed(seed + head)).sign()

    def edit(x: Tensor, hook: Any) -> Tensor:
        return torch.cat([x[:, :-1], x[:, -1:] + delta], dim=1)

    def distribution(text: str) -> Tensor:
        tokens = ms.prompt(made.model, text).tokens[None]
        return made.model.run_with_hooks(tokens, fwd_hooks=[(made.sites[0], edit)])[0, -1].softmax(-1)

    chunks = [replace(c, wanted=torch.stack([distribution(prompts[i]) for i in c.index])) for c in made.training]
    return replace(made, training=chunks)


def test_a_planted_vector_comes_back(eight_heads: Any) -> None:
    """At half of the largest weight the heads are those of the planted vector: F1 of at least 0.95."""
    words = ["the cat sat on mat", "a dog", "red blue one", "house answer capitals", "task quote word", "ends", "two"]
    prompts = [f"{a} {b}" for a in words for b in words if a != b]
    hits = sizes = 0
    for layer in (0, 1):
        for seed in range(5):
            heads = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[: 1 + seed % 3].tolist()
            made = problem(eight_heads, [(p, {"red": 1.0}) for p in prompts], layers=[layer], batch_size=64)
            made = plant(made, prompts, heads, seed)
            ((_, most),) = default_weights(made, 1, 1.0, 0.0)
            found = set(fit(made, 0.0, 0.5 * most, max_steps=60).groups)
            hits, sizes = hits + 2 * len(found & set(heads)), sizes + len(found) + len(heads)
    assert hits / sizes >= 0.95, (hits, sizes)


def test_batches_change_nothing_and_seeds_decide_the_split(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    common: dict[str, Any] = {"layer": 1, "l1": 0.01, "group_l2": 0.01, "max_steps": 10}
    one = sparse_direction(model, EXAMPLES, **common, batch_size=1)
    many = sparse_direction(model, EXAMPLES, **common, batch_size=5)
    assert torch.allclose(one.vector, many.vector, atol=1e-4)
    again = sparse_direction(model, EXAMPLES, **common, batch_size=1)
    assert torch.equal(one.vector, again.vector)
    other = sparse_direction(model, EXAMPLES, **common, seed=3)
    assert one.meta["examples_hash"] != other.meta["examples_hash"] or not torch.allclose(one.vector, other.vector)
    assert one.meta["validation_examples"] == "1" and one.meta["examples"] == "4"


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_several_layers_share_their_groups(family: str, tiny: Callable) -> None:
    model = tiny(family)
    made = problem(model, layers=[0, 1])
    delta = some_delta(made.shape)
    assert made.shape == (2 * model.cfg.n_heads, model.cfg.d_head)
    parts = delta.chunk(2)
    steer = sum(
        (ms.heads(ms.Direction(part.flatten().float(), name, "mine"), transfer=True)
         for part, name in zip(parts, made.sites, strict=True)),
        start=ms.Intervention(),
    )  # fmt: skip
    wanted = -score(model, [e[0] for e in EXAMPLES], [e[1] for e in EXAMPLES], steer=steer).mean()
    assert made.smooth(delta)[0] == pytest.approx(float(wanted), abs=1e-4)
    (at,) = sparse_path(model, EXAMPLES, layer=[0, 1], points=1, validation=0.0)
    assert at.stopped == "zero"
    weights = 0.9 * at.l1, 0.9 * at.group_l2  # just below: not every layer
    found = sparse_directions(model, EXAMPLES, layers=[0, 1], l1=weights[0], group_l2=weights[1], validation=0.0)
    assert list(found) in ([0], [1], [0, 1])
    assert sum(int(d.vector.count_nonzero()) for d in found.values()) < delta.numel() / 2
    (below,) = sparse_path(model, EXAMPLES, layer=[0, 1], weights=[weights], validation=0.0)
    assert {d.site for d in found.values()} == set(below.directions)
    assert torch.equal(next(iter(found.values())).vector, next(iter(below.directions.values())).vector)
    with pytest.raises(MechsteerError, match=r"learned at 2 layers; use \.directions"):
        _ = below.direction
    with pytest.raises(MechsteerError, match="at 2 layers are all zero"):
        sparse_directions(model, EXAMPLES, layers=[0, 1], l1=1e6)
    with pytest.raises(MechsteerError, match="name a site twice"):
        sparse_directions(model, EXAMPLES, layers=[0, 0])
    with pytest.raises(MechsteerError, match="No layers"):
        sparse_directions(model, EXAMPLES, layers=[])


def test_the_residual_stream_is_one_group(tiny: Callable) -> None:
    model = tiny("t5")
    d = sparse_direction(model, EXAMPLES, layer=0, site="resid_post", l1=0.02, validation=0.0, max_steps=20)
    assert d.width == model.cfg.d_model and 0 < int((d.vector == 0).sum()) < d.width
    steered = -score(
        model, [e[0] for e in EXAMPLES], [e[1] for e in EXAMPLES], steer=ms.add(d, d.norm, scope="last_prompt")
    )
    assert float(steered.mean()) == pytest.approx(float(d.meta["loss"]), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 9}, "9 examples were asked for, but only 5 were given"),
        ({"examples": []}, "No examples"),
        ({"examples": [("a", "red"), ("a", {"red": 1.0})]}, "all be continuations, or all be mappings"),
        ({"examples": ["the cat"]}, r"An example is \(prompt, target\)"),
        ({"examples": [("a", {"red": 0.5})], "validation": 0}, "add up to 0.5, not 1"),
        ({"examples": [("a", {"red": 0.5, "red blue": 0.5})], "validation": 0}, "begin with the same token"),
        ({"examples": [("a", "")], "validation": 0}, "has no tokens"),
        ({"layer": 7}, "Layer 7 is out of range"),
        ({"site": "pattern"}, "A vector is learned at z"),
        ({"site": "zz"}, "Unknown site"),
        ({"l1": -1.0}, "l1 must not be negative"),
        ({"group_l2": float("nan")}, "group_l2 must be finite"),
        ({"validation": 1.0}, "validation must be"),
        ({"validation": 0.9, "n": 1}, "cannot be split"),
        ({"l1": 1e6}, "is zero; use smaller weights"),
        ({"generated": "most"}, "Unknown generated"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, Any], message: str, tiny: Callable, unchecked: None) -> None:
    given = {"examples": EXAMPLES, "layer": 1} | change
    with pytest.raises(MechsteerError, match=message):
        sparse_direction(tiny("gpt2"), **given)


def test_an_encoder_site_and_a_broken_model_are_refused(tiny: Callable) -> None:
    with pytest.raises(MechsteerError, match=r"not at 'encoder\.0"):
        sparse_direction(tiny("t5"), EXAMPLES, layer=0, site="encoder.0.attn.hook_z")
    model = tiny("gpt2")
    weight = model.blocks[2].mlp.W_out.data
    kept = weight.clone()
    try:
        weight.fill_(float("nan"))
        with pytest.raises(MechsteerError, match=r"NaN or infinite numbers at the loss at blocks\.1.* for prompt"):
            sparse_direction(model, EXAMPLES, layer=1)
    finally:
        weight.copy_(kept)
