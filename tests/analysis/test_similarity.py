"""Similarity and separability against plain loops, on states that are planted and on those of models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.separability import held_out, separability
from mechsteer.analysis.similarity import similarity
from mechsteer.sources import last_states
from tests.analysis.naive import hf_run, hugging_face

QUERIES = ["the cat sat", "one two red", "a dog in house", "write the task", "blue quote on mat ."]
INSTRUCTIONS = ["answer in capitals", "answer in capitals", "quote the dog", "quote the dog", "quote the dog"]


def pairs_of(model: Any) -> list[tuple[ms.Prompt, ms.Prompt]]:
    return [
        (ms.prompt(model, query, instruction=instruction), ms.prompt(model, query))
        for query, instruction in zip(QUERIES, INSTRUCTIONS, strict=True)
    ]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "t5-gated"])
def test_means_equal_a_plain_loop(family: str, diagonal: bool, tiny: Callable, checkpoint: Callable) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    pairs = pairs_of(model)
    table = similarity(model, pairs, layers=[0, 1], diagonal=diagonal, n_boot=20)

    def states(prompt: ms.Prompt) -> Any:
        out = hf_run(hf, prompt)
        return [h[0, -1].double() for h in (out.decoder_hidden_states if "t5" in family else out.hidden_states)]

    with_it, without = [states(a) for a, _ in pairs], [states(b) for _, b in pairs]
    checked = 0
    for layer in [0] if "t5" in family else [0, 1]:  # a last layer's are normalised by Hugging Face
        a, b = [s[layer + 1] for s in with_it], [s[layer + 1] for s in without]
        n = range(len(pairs))
        same = [
            cosine(a[i], a[j])
            for i in n
            for j in n
            if (i == j and diagonal) or (i != j and INSTRUCTIONS[i] == INSTRUCTIONS[j])
        ]
        queries = [cosine(b[i], b[j]) for i in n for j in n if diagonal or i != j]
        other = [cosine(a[i], a[j]) for i in n for j in n if INSTRUCTIONS[i] != INSTRUCTIONS[j]]
        wanted = {
            "same instruction, different query": (np.mean(same), 4 + 5 * diagonal),
            "same query, with and without": (np.mean([cosine(a[i], b[i]) for i in n]), 5),
            "different queries": (np.mean(queries), 10 + 5 * diagonal),
            "different instructions": (np.mean(other), 6),
        }
        mine = table[table["layer"] == layer].set_index("relation")
        for relation, (value, count) in wanted.items():
            assert mine.loc[relation, "cosine"] == pytest.approx(value, abs=1e-4)
            assert mine.loc[relation, "n"] == count
            assert mine.loc[relation, "low"] - 1e-9 <= value <= mine.loc[relation, "high"] + 1e-9 or len(pairs) < 10
            checked += 1
    assert checked >= 4


def test_labels_decide_the_relations(tiny: Callable) -> None:
    model = tiny("gpt2")
    pairs = pairs_of(model)
    found = set(similarity(model, pairs, instructions=["one"] * 5, n_boot=5)["relation"])
    assert "different instructions" not in found and len(found) == 3
    by_label = similarity(model, pairs, instructions=list("aabbb"), n_boot=5)
    by_span = similarity(model, pairs, n_boot=5)
    assert by_label["cosine"].tolist() == by_span["cosine"].tolist()  # the spans say the same


def test_equal_queries_are_no_different_queries(tiny: Callable) -> None:
    model = tiny("gpt2")
    twice = [pairs_of(model)[0], pairs_of(model)[0]]
    table = similarity(model, twice, n_boot=5)
    assert set(table["relation"]) == {"same query, with and without"}


@pytest.mark.parametrize("family", ["llama-gqa", "t5-uneven"])
def test_batches_change_nothing(family: str, tiny: Callable) -> None:
    model = tiny(family)
    one, many = (similarity(model, pairs_of(model), batch_size=size, n_boot=5)["cosine"] for size in (1, 8))
    assert one.to_numpy() == pytest.approx(many.to_numpy(), abs=1e-5)


def test_the_encoders_last_token(tiny: Callable, checkpoint: Callable) -> None:
    model, hf = tiny("t5"), hugging_face(checkpoint("t5"))
    prompts = [a for a, _ in pairs_of(model)]
    found = last_states(model, prompts, ["encoder.0.hook_resid_post"])["encoder.0.hook_resid_post"]
    for prompt, state in zip(prompts, found, strict=True):
        assert torch.allclose(state, hf_run(hf, prompt).encoder_hidden_states[1][0, -1], atol=2e-4)
    assert set(similarity(model, pairs_of(model), stack="encoder", n_boot=5)["layer"]) == {0, 1}


def test_a_planted_instruction_is_found_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 60, generator=generator, dtype=torch.float64)
    labels = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(100)
    fold = (torch.arange(100) % 5).repeat(2)
    planted = noise + labels[:, None] * torch.nn.functional.one_hot(torch.tensor(3), 60) * 3
    assert held_out(planted, labels, labels, fold, 0.1) >= 190
    assert 70 <= held_out(noise, labels, labels, fold, 0.1) <= 130
    assert held_out(planted, -labels, labels, fold, 0.1) <= 10  # taught the opposite, it says the opposite


def test_the_probe_equals_ridge_regression_by_its_normal_equations() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    y = torch.where(x[:, 0] + 0.8 * torch.randn(40, generator=generator) > 0, 1.0, -1.0).double()
    fold, right = torch.arange(40) % 4, 0
    for held in range(4):
        train = fold != held
        z = (x - x[train].mean(0)) / x[train].std(0)
        weights = torch.linalg.solve(z[train].T @ z[train] / 6 + 0.3 * torch.eye(6).double(), z[train].T @ y[train])
        right += int(((z[~train] @ weights > 0) == (y[~train] > 0)).sum())
    assert held_out(x, y, y, fold, 0.3) == right


def test_separability_of_a_model(tiny: Callable) -> None:
    table = separability(tiny("llama-gqa"), pairs_of(tiny("llama-gqa")), folds=5)
    assert table["layer"].tolist() == [0, 1, 2] and set(table["n_test"]) == {10} and set(table["n_train"]) == {8}
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    again = separability(tiny("llama-gqa"), pairs_of(tiny("llama-gqa")), folds=5, batch_size=1)
    assert again["accuracy"].tolist() == table["accuracy"].tolist()


BAD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "one pair": (lambda m, p: similarity(m, p[:1]), "At least 2 pairs of prompts are needed, got 1"),
    "none": (lambda m, p: similarity(m, []), "No pairs of prompts were given"),
    "labels": (lambda m, p: similarity(m, p, instructions=["a"]), "5 pairs need as many instruction labels, got 1"),
    "layer": (lambda m, p: similarity(m, p, layers=[9]), "Layer 9 is out of range"),
    "site": (lambda m, p: similarity(m, p, site="resid_pots"), "Unknown site 'resid_pots'.*resid_post"),
    "scores": (lambda m, p: similarity(m, p, site="pattern"), "does not hold one state a position"),
    "stack": (lambda m, p: similarity(m, p, stack="encoder"), "Unknown stack 'encoder'"),
    "full name": (lambda m, p: similarity(m, p, site="blocks.0.hook_resid_post"), "site is a kind here"),
    "silent site": (lambda m, p: similarity(m, p, site="result"), "never fires"),
    "no layers": (lambda m, p: separability(m, p, layers=[]), "No layers were given"),
    "folds": (lambda m, p: separability(m, p, folds=6), "folds must be from 2 to the number of different queries, 5"),
    "ridge": (lambda m, p: separability(m, p, ridge=0.0), "ridge must be above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str, tiny: Callable) -> None:
    run, message = BAD[name]
    with pytest.raises(ms.MechsteerError, match=message):
        run(tiny("gpt2"), pairs_of(tiny("gpt2")))


def test_nan_is_named(checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint("gpt2")))
    model.blocks[1].mlp.W_out.data = torch.full_like(model.blocks[1].mlp.W_out, torch.nan)
    with pytest.raises(ms.MechsteerError, match=r"NaN or infinite numbers at blocks\.1\.hook_resid_post for prompt \d"):
        similarity(model, pairs_of(model))


def test_a_layer_that_is_named_twice_is_run_once(tiny: Callable) -> None:
    model = tiny("gpt2")
    table = similarity(model, pairs_of(model), layers=[0, -3], n_boot=5)
    assert table.equals(similarity(model, pairs_of(model), layers=[0], n_boot=5))  # and called by its number


def test_one_comparison_has_no_interval(tiny: Callable) -> None:
    model = tiny("gpt2")
    table = similarity(model, pairs_of(model)[:2], diagonal=False, layers=[0], n_boot=20).set_index("relation")
    one, two = table.loc["same instruction, different query"], table.loc["same query, with and without"]
    assert one["n"] == 1 and np.isfinite(one["cosine"]) and np.isnan(one["low"]) and np.isnan(one["high"])
    assert two["n"] == 2 and two["low"] < two["high"]


def test_an_instruction_is_known_by_its_text_wherever_it_stands(tiny: Callable) -> None:
    model = tiny("qwen2")  # whose first word has another token behind a space
    texts = ["<!-> answer in capitals <-!> the cat", "the dog <!-> answer in capitals <-!>"]
    prompts = [ms.prompt(model, text.replace("<!-> ", "<!->")) for text in texts]
    assert prompts[0].str_tokens[0] not in prompts[1].str_tokens
    pairs = list(zip(prompts, [ms.prompt(model, text) for text in ("the cat", "the dog")], strict=True))
    relations = set(similarity(model, pairs, n_boot=5)["relation"])
    assert "same instruction, different query" in relations and "different instructions" not in relations
