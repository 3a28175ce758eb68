"""The lens equals what is read out of Hugging Face's hidden states, whatever the batch, padding or continuation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.lens import logit_lens
from mechsteer.analysis.volatility import rank_biased_overlap, volatility
from mechsteer.models import continuation_ids
from tests.analysis.naive import FAMILIES, TEXTS, hf_exits, hugging_face, plain_jsd

TARGETS = ["cat", "red", 7]


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_exit_equals_hugging_faces(family: str, normalise: bool, tiny: Callable, checkpoint: Callable) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    table = logit_lens(model, TEXTS, TARGETS, normalise=normalise)
    ids = [continuation_ids(model, " cat")[0], continuation_ids(model, " red")[0], 7]
    for place, text in enumerate(TEXTS):
        exits = [logits[-1] for logits in hf_exits(hf, ms.prompt(model, text), normalise=normalise)]
        mine = table[table["prompt"] == place]
        assert len(mine) == len(exits) * len(ids) and mine["exit"].nunique() == len(exits)
        final = exits[-1].softmax(-1)
        for row in mine.to_dict("records"):
            logits = exits[row["exit"]]
            p = logits.softmax(-1)
            assert row["layer"] == row["exit"] - 1 and row["token_id"] in ids
            assert row["logit"] == pytest.approx(float(logits[row["token_id"]]), abs=2e-3, rel=1e-4)
            assert row["probability"] == pytest.approx(float(p[row["token_id"]]), abs=1e-4)
            assert row["rank"] == 1 + sum(x > logits[row["token_id"]] + 1e-3 for x in logits) or _close(logits, row)
            assert row["jsd"] == pytest.approx(plain_jsd(p.tolist(), final.tolist()), abs=1e-4)
            assert row["entropy"] == pytest.approx(float(-(p * p.clamp(min=1e-30).log()).sum()), abs=1e-3)


def _close(logits: torch.Tensor, row: dict[str, Any]) -> bool:
    """Whether the rank is right but for ties within rounding."""
    own = logits[row["token_id"]]
    return int((logits > own + 1e-3).sum()) + 1 <= row["rank"] <= int((logits > own - 1e-3).sum())


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "mistral", "t5-gated"])
def test_positions_and_continuations(family: str, tiny: Callable, checkpoint: Callable) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    texts, after = TEXTS, ["red blue", "one", "the cat sat", "two"]
    table = logit_lens(model, texts, ["dog"], positions="all", continuation=after)
    last = logit_lens(model, texts, ["dog"], continuation=after, batch_size=2)
    dog = continuation_ids(model, " dog")[0]
    for place, (text, more) in enumerate(zip(texts, after, strict=True)):
        exits = hf_exits(hf, ms.prompt(model, text), continuation_ids(model, more))
        mine = table[table["prompt"] == place]
        assert mine["position"].unique().tolist() == list(range(len(exits[0])))
        for row in mine.to_dict("records"):
            wanted = float(exits[row["exit"]][row["position"], dog])
            assert row["logit"] == pytest.approx(wanted, abs=2e-3, rel=1e-4)
        ends = mine[mine["position"] == mine["position"].max()].reset_index(drop=True)
        pd.testing.assert_frame_equal(ends, last[last["prompt"] == place].reset_index(drop=True), atol=1e-3, rtol=1e-3)
    chosen = logit_lens(model, texts[2], ["dog"], positions=[-1, 0], continuation=after[2])
    assert sorted(chosen["position"].unique()) == [0, mine_length(model, texts[2], after[2]) - 1]


def mine_length(model: Any, text: str, after: str) -> int:
    start = 1 if hasattr(model, "encoder") else len(ms.prompt(model, text))
    return start + len(continuation_ids(model, after))


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "t5-uneven"])
def test_batches_change_nothing(family: str, tiny: Callable) -> None:
    model = tiny(family)
    whole, single = (logit_lens(model, TEXTS, top_k=3, batch_size=size) for size in (4, 1))
    assert (whole["token_id"] == single["token_id"]).all()
    assert whole["logit"].to_numpy() == pytest.approx(single["logit"].to_numpy(), abs=2e-3)
    assert set(whole[whole["exit"] == whole["exit"].max()]["rank"]) == {1, 2, 3}


def test_the_lens_reads_what_an_intervention_made(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(ms.random_direction(model, layer=1, seed=0), 30.0)
    plain, steered = (logit_lens(model, TEXTS, ["cat"], steer=s) for s in (None, steer))
    same = plain["logit"].to_numpy() == pytest.approx(steered["logit"].to_numpy(), abs=1e-4)
    changed = (plain["logit"] - steered["logit"]).abs() > 1e-3
    assert not same and not changed[plain["layer"] < 1].any() and changed[plain["layer"] >= 1].all()


def test_one_prompt_has_no_interval(tiny: Callable) -> None:
    model = tiny("gpt2")
    table = ms.volatility(model, "the cat sat")
    for name in ("flip_rate", "rbo", "jsd"):
        assert table[name].notna().all() and table[[f"{name}_low", f"{name}_high"]].isna().all(axis=None)
    two = ms.volatility(model, ["the cat sat", "the cat sat"])
    np.testing.assert_allclose(two["jsd"], table["jsd"], rtol=1e-4)


def test_a_prompt_that_fits_only_alone_is_run_alone(tiny: Callable) -> None:
    model = tiny("gpt2")  # a context of 128
    long = " ".join(["cat"] * 120)
    table = logit_lens(model, [long, "the"], ["dog"], continuation=["red", " ".join(["blue"] * 100)])
    assert table["prompt"].nunique() == 2


@pytest.mark.parametrize("family", ["gpt2", "t5-gated"])
def test_volatility_equals_a_plain_loop(family: str, tiny: Callable, checkpoint: Callable) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    table = volatility(model, TEXTS, top_k=8, p=0.8, n_boot=50)
    flips, overlaps, divergences = [], [], []
    for text in TEXTS:
        exits = [logits[-1] for logits in hf_exits(hf, ms.prompt(model, text))]
        tops = [logits.topk(8).indices for logits in exits]
        pairs = range(1, len(exits))
        flips.append([float(tops[e][0] != tops[e - 1][0]) for e in pairs])
        overlaps.append([rank_biased_overlap(tops[e - 1], tops[e], 0.8) for e in pairs])
        divergences.append([plain_jsd(exits[e - 1].softmax(-1).tolist(), exits[e].softmax(-1).tolist()) for e in pairs])
    for name, values in {"flip_rate": flips, "rbo": overlaps, "jsd": divergences}.items():
        assert table[name].to_numpy() == pytest.approx(torch.tensor(values).mean(0).numpy(), abs=1e-3)
        assert (table[f"{name}_low"] <= table[name] + 1e-9).all() and (
            table[name] <= table[f"{name}_high"] + 1e-9
        ).all()
    assert table["exit"].tolist() == [layer + 1 for layer in table["layer"]] and set(table["n"]) == {len(TEXTS)}
    alone = volatility(model, TEXTS, top_k=8, p=0.8, n_boot=50, batch_size=1)
    assert alone["jsd"].to_numpy() == pytest.approx(table["jsd"].to_numpy(), abs=1e-4)


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no prompts": (lambda m: logit_lens(m, []), "No prompts"),
    "an id outside": (lambda m: logit_lens(m, "the cat", [5000]), r"token id from 0 to 95, got 5000"),
    "no targets": (lambda m: logit_lens(m, "the cat", []), "No targets"),
    "lists of a wrong number": (lambda m: logit_lens(m, "the cat", [["a"], ["b"]]), "one list of words"),
    "an empty word": (lambda m: logit_lens(m, "the cat", [" "]), "has no tokens"),
    "a position beyond": (lambda m: logit_lens(m, "the", positions=[40]), "Position 40 is not there"),
    "positions by a name": (lambda m: logit_lens(m, "the", positions="first"), "positions must be 'last'"),
    "no positions": (lambda m: logit_lens(m, "the", positions=[]), "No positions"),
    "continuations of a wrong number": (lambda m: logit_lens(m, "the", continuation=["a", "b"]), "2 continuations"),
    "p of 1": (lambda m: volatility(m, "the", p=1.0), "p must be between 0 and 1"),
    "no list": (lambda m: volatility(m, "the", top_k=0), "top_k must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str, tiny: Callable) -> None:
    run, message = BAD[name]
    with pytest.raises(ms.MechsteerError, match=message):
        run(tiny("gpt2"))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([["cat"], "dog"], "one such list for each of the 2 prompts"),
        ([["cat"], ["dog", ["mat"]]], r"A target is a word or a token id .*, got \['mat'\]"),
    ],
)
def test_targets_that_are_no_lists_of_words_are_named(
    targets: Any, message: str, tiny: Callable, unchecked: None
) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        logit_lens(tiny("gpt2"), ["the", "a"], targets)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_nan_is_named_by_site_and_prompt(family: str, checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint(family)))
    stack = model.decoder if hasattr(model, "decoder") else model.blocks
    stack[1].mlp.W_out.data = torch.full_like(stack[1].mlp.W_out, torch.nan)
    with pytest.raises(ms.MechsteerError, match=r"NaN or infinite numbers at \w+\.1\.hook_resid_post for prompt \d"):
        logit_lens(model, TEXTS)


@pytest.mark.parametrize("measure", [logit_lens, volatility])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_read_out_that_is_not_finite_is_named(family: str, measure: Any, checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint(family)))
    model.unembed.W_U.data = model.unembed.W_U.data.index_fill(1, torch.tensor([7]), torch.nan)  # one logit of each
    with pytest.raises(ms.MechsteerError, match=r"NaN or infinite numbers at unembed\.hook_out for prompt \d"):
        measure(model, TEXTS)


def test_token_ids_may_be_pytorchs_or_numpys(unchecked: None, tiny: Callable) -> None:
    model = tiny("gpt2")
    plain = logit_lens(model, "the cat", [3, 5])
    pd.testing.assert_frame_equal(logit_lens(model, "the cat", list(torch.tensor([3, 5]))), plain)
    pd.testing.assert_frame_equal(logit_lens(model, "the cat", list(np.array([3, 5]))), plain)
