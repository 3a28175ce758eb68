"""generation_config.json: the tokens are Hugging Face's, prompt by prompt, in every batch and under every strategy."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import mechsteer as ms
from mechsteer.models import is_encoder_decoder
from mechsteer.models.checkpoint.generation_config import read_settings
from mechsteer.models.info import set_info
from tests.decoding.reference import prompts_of, rows
from tests.models.test_parity import hugging_face

NEW = 12
FAMILIES = ["llama-gqa", "gpt2", "t5-gated"]
OPTIONS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.8},
    "n-grams": {"no_repeat_ngram_size": 1},
    "encoder": {"encoder_repetition_penalty": 2.5, "encoder_no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": list(range(4, 95, 3)), "begin_suppress_tokens": [30, 31, 32, 33, 34]},
    "lengths": {"min_length": 9, "eos_token_id": [1, 40, 41, 42, 43, 44, 45]},
    "new tokens": {"min_new_tokens": 5, "eos_token_id": list(range(40, 70))},
    "end forced": {"forced_eos_token_id": 7},
    "start forced": {"forced_bos_token_id": 9},
    "bad words": {"bad_words_ids": [[11], [25], [50, 51], [60], [64]]},
    "bias": {"sequence_bias": [[[12], 30.0], [[13, 14], 8.0]], "repetition_penalty": 1.3},
    "decay": {"exponential_decay_length_penalty": [3, 1.6], "eos_token_id": [1, 33]},
    "watermark": {"watermarking_config": {"greenlist_ratio": 0.3, "bias": 4.0}, "renormalize_logits": True},
    "all": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "suppress_tokens": [25]},
}


@contextmanager
def configured(model: Any, hf: Any, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Both models with these settings in their generation configuration; what acts of them."""
    info, before = ms.model_info(model), hf.generation_config
    config = GenerationConfig(**(before.to_diff_dict() | settings))
    ends = config.eos_token_id or []
    acting = read_settings(config)
    hf.generation_config = config
    set_info(model, replace(info, generation_config=acting, eos_ids=tuple(ends) if isinstance(ends, list) else (ends,)))
    try:
        yield acting
    finally:
        hf.generation_config = before
        set_info(model, info)


def theirs(hf: Any, model: Any, prompt: ms.Prompt, new: int = NEW, **options: Any) -> list[int]:
    """What Hugging Face writes after one prompt."""
    out = hf.generate(
        input_ids=prompt.tokens[None],
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=new,
        pad_token_id=0,
        **({"do_sample": False} | options),
    )[0]
    return out[1 if is_encoder_decoder(model) else len(prompt) :].tolist()


@cache
def unprocessed(model: Any) -> list[list[int]]:
    """What the model writes by itself; the same for all options."""
    return rows(ms.generate(model, prompts_of(model), max_new_tokens=NEW))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("option", OPTIONS)
def test_tokens_equal_hugging_faces_alone_and_in_padded_batches(
    option: str, family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts, plain = prompts_of(model), unprocessed(model)
    with configured(model, hf, OPTIONS[option]) as acting:
        expected = [theirs(hf, model, prompt) for prompt in prompts]
        out = ms.generate(model, prompts, max_new_tokens=NEW)
        assert rows(out) == expected
        assert rows(ms.generate(model, prompts[1], max_new_tokens=NEW)) == expected[1:2]
        assert out.generation_config == acting
        without = ms.generate(model, prompts, max_new_tokens=NEW, generation_config=False)
        assert without.generation_config == {}
    if not {"start", "encoder"} & set(option.split()) or is_encoder_decoder(model):
        assert expected != plain  # a forced start is for decoders that begin with one token
    if "eos_token_id" not in OPTIONS[option]:
        assert rows(without) == plain


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_it_is_read_from_the_file_and_kept_in_the_provenance(
    family: str, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint(family), folder)
    path = folder / "generation_config.json"
    given = {"repetition_penalty": 1.7, "min_new_tokens": 3, "no_repeat_ngram_size": 0, "do_sample": True}
    given |= {"temperature": 0.3, "top_k": 4, "decoder_start_token_id": 5}
    path.write_text(json.dumps(given))
    model, hf = ms.load(str(folder)), hugging_face(folder)
    assert ms.model_info(model).generation_config == {"repetition_penalty": 1.7, "min_new_tokens": 3}
    assert ms.model_info(model).eos_ids == ()  # Hugging Face does not stop either
    prompts = prompts_of(model)
    assert rows(ms.generate(model, prompts, max_new_tokens=NEW)) == [theirs(hf, model, p) for p in prompts]


def test_stop_strings_end_a_row_as_in_hugging_face(tiny: Callable, checkpoint: Callable[..., Path]) -> None:
    model, hf = tiny("qwen2"), hugging_face(checkpoint("qwen2"))
    prompts = prompts_of(model)
    plain = ms.generate(model, prompts, max_new_tokens=NEW)
    stop = model.tokenizer.decode([rows(plain)[0][3]])
    with configured(model, hf, {"stop_strings": [stop]}):
        expected = [theirs(hf, model, prompt, tokenizer=model.tokenizer) for prompt in prompts]
        assert rows(ms.generate(model, prompts, max_new_tokens=NEW)) == expected
    assert len(expected[0]) == 4 < len(rows(plain)[0])


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_a_penalty_of_the_strategy_stands_for_the_checkpoints(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts = prompts_of(model)
    with configured(model, hf, OPTIONS["bias"]):
        expected = [theirs(hf, model, prompt, repetition_penalty=2.2) for prompt in prompts]
        own = ms.generate(model, prompts, strategy=ms.Greedy(repetition_penalty=2.2), max_new_tokens=NEW)
        assert rows(own) == expected
        assert own.generation_config["repetition_penalty"] == 2.2
        dola = ms.DoLa(contrast=0.0, relative_top=0.0, repetition_penalty=2.2)
        assert rows(ms.generate(model, prompts, strategy=dola, max_new_tokens=NEW)) == expected


def test_what_is_forbidden_is_neither_sampled_nor_contrasted(tiny: Callable, checkpoint: Callable[..., Path]) -> None:
    model, hf = tiny("llama-gqa"), hugging_face(checkpoint("llama-gqa"))
    prompts = prompts_of(model)
    allowed = [10, 20, 30]
    forbidden = [token for token in range(model.cfg.d_vocab) if token not in allowed]
    with configured(model, hf, {"suppress_tokens": forbidden, "eos_token_id": None}):
        for strategy in (ms.Sample(temperature=5.0, seed=1), ms.Sample(top_k=50), ms.DoLa(), ms.DoLa(relative_top=1.0)):
            out = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW)
            assert set(out.tokens.flatten().tolist()) <= set(allowed), strategy


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_gated_decoding_has_the_processors_in_every_pass(
    batch_size: int, family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    """Trials that change nothing are plain greedy decoding; real ones never take what is forbidden."""
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts = [
        ms.prompt(model, "the cat sat on mat", instruction=text)
        for text in ("write red", "two words", "one", "answer in")
    ]
    with configured(model, hf, OPTIONS["all"]):
        plain = rows(ms.generate(model, prompts, max_new_tokens=NEW))
        still = ms.generate(model, prompts, strategy=ms.Directer(alpha=1.0), max_new_tokens=NEW, batch_size=batch_size)
        assert rows(still) == plain == [theirs(hf, model, prompt) for prompt in prompts]
        out = ms.generate(model, prompts, strategy=ms.Directer(beta=0.01), max_new_tokens=NEW, batch_size=batch_size)
        assert rows(out) != plain
        assert 25 not in out.tokens.flatten().tolist()
        for row in rows(out):
            grams = [tuple(row[i : i + 3]) for i in range(len(row) - 2)]
            assert len(set(grams)) == len(grams)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": "1.2"}, r"cannot be applied: .*penalty.*generation_config=False"),
        ({"bad_words_ids": [[5000]]}, r"cannot be applied: .*5000"),
        ({"guidance_scale": 1.5}, r"guidance_scale=1\.5, which means a second, unconditional pass"),
        ({"token_healing": True}, "token_healing=True"),
    ],
)
def test_what_cannot_be_applied_is_an_error_that_names_the_way_out(
    settings: dict[str, Any], message: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny("llama-gqa"), hugging_face(checkpoint("llama-gqa"))
    with configured(model, hf, settings):
        with pytest.raises(ms.MechsteerError, match=message):
            ms.generate(model, "the cat", max_new_tokens=2)
        assert len(ms.generate(model, "the cat", max_new_tokens=2, generation_config=False).texts) == 1


@pytest.mark.usefixtures("unchecked")
def test_the_switch_is_a_switch(tiny: Callable) -> None:
    switch: Any = {"repetition_penalty": 1.2}
    with pytest.raises(ms.MechsteerError, match="generation_config must be True"):
        ms.generate(tiny("llama-gqa"), "the cat", generation_config=switch)


def test_a_search_by_beams_that_is_not_made_is_said(
    tmp_path: Path, checkpoint: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama-gqa"), folder)
    ms.load(folder, check=False)
    assert not caplog.records
    (folder / "generation_config.json").write_text('{"num_beams": 4, "do_sample": true, "eos_token_id": 1}')
    ms.load(folder, check=False)
    assert "asks for num_beams=4, a beam search" in caplog.text
