"""Vocabularies that differ from their tokenizer's: rows without a name, a pad id beyond the rows, no pad or end."""

from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.prompts import token_names
from tests.tokenizers import byte_level, write

TEXTS = ["Tell me", "Tell me about the writer"]


def no_end() -> Any:
    made = byte_level()
    made.eos_token = made.pad_token = made.bos_token = None
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One model a kind of vocabulary, and Hugging Face's."""
    padded = byte_level()
    size = len(padded)
    padded.add_special_tokens({"pad_token": "[PAD]"})
    kinds = {
        "larger": ("qwen3", byte_level(), {"vocab_size": 700}),
        "pad beyond": ("llama", padded, {"vocab_size": size, "pad_token_id": None}),
        "config's pad beyond": ("gpt2", padded, {"vocab_size": size, "pad_token_id": None}),
        "no end": ("llama", no_end(), {}),
    }
    made = {}
    for name, (family, tokenizer, changes) in kinds.items():
        folder, hf = write(tmp_path_factory.mktemp("vocabulary"), family, tokenizer, **changes)
        if name == "config's pad beyond":
            config = (folder / "config.json").read_text(encoding="utf-8")
            assert '"pad_token_id": null' in config
            text = config.replace('"pad_token_id": null', f'"pad_token_id": {size}')
            (folder / "config.json").write_text(text, encoding="utf-8")
        made[name] = (ms.load(folder), hf)
    return made


KINDS = ["larger", "pad beyond", "config's pad beyond", "no end"]


@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_hugging_faces(kind: str, models: dict[str, Any]) -> None:
    model, hf = models[kind]
    out = ms.generate(model, TEXTS, max_new_tokens=5)
    for text, tokens, length in zip(TEXTS, out.tokens, out.lengths, strict=True):
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        wanted = hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
        )
        assert tokens[:length].tolist() == wanted[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_everything_runs_and_every_token_has_a_name(kind: str, models: dict[str, Any], tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    model, _ = models[kind]
    lens = ms.logit_lens(model, TEXTS, top_k=model.cfg.d_vocab)
    assert lens["token"].map(type).eq(str).all() and lens["top1"].map(type).eq(str).all()
    names = dict(zip(lens["token_id"], lens["token"], strict=True))
    assert len(names) == model.cfg.d_vocab == len(set(names.values()))
    if kind == "larger":
        assert names[683] == "<683>" and names[699] == "<699>"
    few = ms.logit_lens(model, TEXTS[0], [3, model.cfg.d_vocab - 1])
    figure, axes = plt.subplots()
    ms.plots.rank_trajectories(axes, few)
    plt.close(figure)
    assert ms.score(model, TEXTS, " the").isfinite().all()
    acts = ms.capture(model, TEXTS, sites=["resid_post"], generate=2)
    assert all(isinstance(name, str) for name in acts.index(next(iter(acts)))["text"])
    assert len(ms.volatility(model, TEXTS)) and len(ms.influence(model, TEXTS, "task"))
    shown = ms.add(ms.random_direction(model, layer=0, seed=0), 50.0).explain(model, TEXTS[1])
    assert shown["top1_after"].map(len).all()


def test_names_of_no_tokens_are_no_names() -> None:
    tokenizer = byte_level()
    assert token_names(tokenizer, []) == [] and token_names(tokenizer, [5, 9999])[1] == "<9999>"
