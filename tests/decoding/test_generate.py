"""Generation equals Hugging Face's and the plain uncached loop, in every batch, padded or not, steered or not."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mechsteer as ms
from mechsteer.decoding.stops import completed, naming_specials, text_before
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder, parse
from tests.decoding.reference import TEXTS, greedy, next_logprobs, prompts_of, row_logprobs, rows
from tests.models.test_parity import hugging_face
from tests.tiny import ENCODER_DECODERS, FAMILIES, WORDS
from tests.tokenizers import byte_level, write

BOTH = ["llama-gqa", "t5"]
NEW = 12


def direction(model: Any, seed: int = 0, **place: Any) -> ms.Direction:
    return random_direction(model, seed=seed, **({"layer": 1} | place))


def hf_greedy(hf: Any, model: Any, prompts: list[ms.Prompt], new: int) -> list[list[int]]:
    batch = ms.batch(prompts, side="right" if is_encoder_decoder(model) else "left")
    uneven = is_encoder_decoder(model) and len(model.encoder) != len(model.decoder)
    out = hf.generate(
        input_ids=batch.tokens,
        attention_mask=batch.mask.long(),
        do_sample=False,
        max_new_tokens=new,
        pad_token_id=0,
        use_cache=not uneven,  # transformers makes its cache as deep as the encoder
    )
    out = out[:, 1:] if is_encoder_decoder(model) else out[:, batch.length :]
    eos = ms.model_info(model).eos_ids
    made = []
    for row in out.tolist():
        ends = [i for i, token in enumerate(row) if token in eos]
        made.append(row[: ends[0] + 1] if ends else row)
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_hugging_faces_generate(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts = prompts_of(model)
    expected = hf_greedy(hf, model, prompts, NEW)
    assert rows(ms.generate(model, prompts, max_new_tokens=NEW)) == expected
    assert len({tuple(row) for row in expected}) > 1


def hf_block(hf: Any, family: str, layer: int) -> Any:
    if family in ENCODER_DECODERS:
        return hf.decoder.block[layer]
    return hf.transformer.h[layer] if family == "gpt2" else hf.model.layers[layer]


@pytest.mark.parametrize("family", FAMILIES)
def test_steered_greedy_tokens_equal_hugging_faces_with_a_forward_hook(
    family: str, tiny: Callable, checkpoint: Callable[..., Path]
) -> None:
    model, hf = tiny(family), hugging_face(checkpoint(family))
    prompts, d = prompts_of(model), direction(tiny(family))
    strength = 0.8 * float(ms.generate(model, prompts, max_new_tokens=1, record=[d.site]).activations[d.site][0].norm())

    def shift(module: Any, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + strength * d.unit, *output[1:])
        return output + strength * d.unit

    with_hook = hf_block(hf, family, 1).register_forward_hook(shift)
    expected = hf_greedy(hf, model, prompts, NEW)
    with_hook.remove()
    steered = ms.generate(model, prompts, steer=ms.add(d, strength), max_new_tokens=NEW)
    assert rows(steered) == expected
    assert expected != hf_greedy(hf, model, prompts, NEW)


def places(model: Any) -> list[tuple[str, Any]]:
    """Sites and the scopes that have a meaning there."""
    if not is_encoder_decoder(model):
        site = ms.site(model, "resid_post", layer=1)
        scopes = ["all", "prompt", "generated", "last_prompt", "span:instruction", [0, -2, 12]]
        return [(site, scope) for scope in scopes] + [
            ("blocks.0.attn.hook_z", "all"),
            ("blocks.2.hook_attn_out", "all"),
        ]
    decoder, encoder = ms.site(model, "resid_post", layer=0), ms.site(model, "resid_pre", layer=0, stack="encoder")
    cross = ms.site(model, "resid_mid_cross", layer=-1)
    return [(decoder, scope) for scope in ("all", "prompt", "generated", [2, 4])] + [
        (encoder, scope) for scope in ("all", "prompt", "last_prompt", "span:instruction", [1, -1])
    ] + [(cross, "all")]  # fmt: skip


def steer_at(model: Any, site: str, scope: Any, strength: float) -> ms.Intervention:
    """Add to the residual stream by a direction, to other sites by the same rule for their flattened heads."""
    if not site.endswith("hook_z"):
        return ms.add(direction(model, site=site, layer=None), strength, scope=scope)
    from mechsteer.steering import Edit, Intervention, make_scope

    def apply(edit: Any, x: Tensor, where: Any) -> Tensor:
        chosen = 1.0 if where.queries is True else where.queries[..., None, None]
        return x + strength * chosen

    return Intervention((Edit("add", site, make_scope(scope), strength, apply),))


@pytest.mark.parametrize("family", [*BOTH, "gpt2", "gemma2", "t5-gated"])
def test_cached_generation_equals_the_whole_sequence_again_for_each_token(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)[:3]
    plain = ms.generate(model, prompts, max_new_tokens=6)
    assert [greedy(model, p, None, 6)[0] for p in prompts] == rows(plain)
    changed = 0
    for site, scope in places(model):
        steer = steer_at(model, site, scope, 15.0)
        out = ms.generate(model, prompts, steer=steer, max_new_tokens=6)
        for place, prompt in enumerate(prompts):
            tokens, logprobs = greedy(model, prompt, steer, 6)
            assert tokens == rows(out)[place], (site, scope)
            assert row_logprobs(out)[place] == pytest.approx(logprobs, abs=1e-3), (site, scope)
        changed += rows(out) != rows(plain)
    assert changed >= len(places(model)) / 2


texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=5)


@st.composite
def runs(draw: Any) -> dict[str, Any]:
    """Prompts, a batch size, and which of the places to steer at (None: unsteered)."""
    return {"texts": draw(texts), "batch_size": draw(st.integers(1, 4)), "place": draw(st.none() | st.integers(0, 7))}


@pytest.fixture(scope="module")
def exact(checkpoint: Callable[..., Path]) -> Callable[[str], Any]:
    """A function that loads a tiny model in float64.

    Sums of another shape round otherwise, and in float32 the steep random weights make up to 2e-4 of that. In float64
    nothing of it is left, so that a difference of batches is an error.
    """

    @cache
    def get(family: str) -> Any:
        model = ms.load(str(checkpoint(family))).double()
        model.cfg.dtype = torch.float64
        return model

    return get


@pytest.mark.parametrize("family", BOTH)
@settings(max_examples=15)
@given(run=runs())
def test_a_batch_equals_its_rows_one_by_one(family: str, run: dict[str, Any], exact: Callable[[str], Any]) -> None:
    model = exact(family)
    prompts = prompts_of(model, run["texts"])
    site, scope = places(model)[run["place"] or 0]
    if scope not in ("all", "prompt", "last_prompt", "span:instruction"):
        scope = "all"  # every prompt is long enough for these
    steer = None if run["place"] is None else steer_at(model, site, scope, 10.0)
    together = ms.generate(model, prompts, steer=steer, max_new_tokens=5)
    smaller = ms.generate(model, prompts, steer=steer, max_new_tokens=5, batch_size=run["batch_size"])
    for place, prompt in enumerate(prompts):
        alone = ms.generate(model, prompt, steer=steer, max_new_tokens=5)
        assert rows(together)[place] == rows(smaller)[place] == rows(alone)[0]
        assert row_logprobs(together)[place] == pytest.approx(row_logprobs(alone)[0], abs=1e-6)
        assert row_logprobs(smaller)[place] == pytest.approx(row_logprobs(alone)[0], abs=1e-6)
        assert together.texts[place] == alone.texts[0]


@pytest.mark.parametrize("family", BOTH)
@settings(max_examples=15)
@given(run=runs(), extra=st.integers(1, 12))
def test_more_padding_changes_nothing(
    family: str, run: dict[str, Any], extra: int, exact: Callable[[str], Any]
) -> None:
    model = exact(family)
    short = prompts_of(model, run["texts"])
    longest = ms.prompt(model, " ".join(["mat"] * (max(len(p) for p in short) + extra)))
    steer = ms.add(direction(model), 10.0, scope="all") if run["place"] is not None else None
    alone = ms.generate(model, short, steer=steer, max_new_tokens=4)
    padded = ms.generate(model, [*short, longest], steer=steer, max_new_tokens=4)
    assert rows(padded)[:-1] == rows(alone)
    for place in range(len(short)):
        assert row_logprobs(padded)[place] == pytest.approx(row_logprobs(alone)[place], abs=1e-6)


@pytest.mark.parametrize("family", BOTH)
def test_log_probabilities_are_those_of_the_whole_sequence(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    steer = ms.add(direction(model), 5.0)
    for chosen, strategy in ((None, ms.Greedy()), (steer, ms.Sample(temperature=2.0, top_k=5, seed=3))):
        out = ms.generate(model, prompts, steer=chosen, strategy=strategy, max_new_tokens=6)
        for place, (prompt, tokens) in enumerate(zip(prompts, rows(out), strict=True)):
            whole = next_logprobs(model, prompt, tokens[:-1], chosen)
            expected = whole[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
            assert row_logprobs(out)[place] == pytest.approx(expected, abs=1e-3)


@pytest.fixture
def with_eos(checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """A function that loads a tiny model with other end-of-sequence tokens in its generation_config.json."""

    def get(family: str, eos: int | list[int]) -> tuple[Any, Any]:
        directory = tmp_path / family
        shutil.copytree(checkpoint(family), directory, dirs_exist_ok=True)
        path = directory / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": eos}))
        return ms.load(str(directory), check=False), hugging_face(directory)

    return get


@pytest.mark.parametrize("family", BOTH)
def test_rows_end_at_their_own_end_token(family: str, tiny: Callable, with_eos: Callable[..., Any]) -> None:
    endless = ms.generate(tiny(family), prompts_of(tiny(family)), max_new_tokens=NEW)
    first, second = rows(endless)[0][2], rows(endless)[2][6]
    model, hf = with_eos(family, [first, second])
    assert ms.model_info(model).eos_ids == (first, second)
    prompts = prompts_of(model)
    out = ms.generate(model, prompts, max_new_tokens=NEW)
    expected = hf_greedy(hf, model, prompts, NEW)
    assert rows(out) == expected
    assert len(set(out.lengths)) > 1 and min(out.lengths) < NEW
    for place, row in enumerate(rows(out)):
        assert not set(row[:-1]) & {first, second}
        assert (out.tokens[place, len(row) :] == 0).all() and (out.logprobs[place, len(row) :] == 0).all()
        alone = ms.generate(model, prompts[place], max_new_tokens=NEW)
        assert rows(alone) == [row]
        assert row_logprobs(out)[place] == pytest.approx(row_logprobs(alone)[0], abs=1e-4)
    assert out.tokens.shape == out.logprobs.shape == (len(prompts), max(out.lengths))


@pytest.mark.parametrize("family", BOTH)
def test_steering_and_recording_follow_the_rows_that_are_left(
    family: str, tiny: Callable, with_eos: Callable[..., Any]
) -> None:
    endless = ms.generate(tiny(family), prompts_of(tiny(family)), max_new_tokens=NEW)
    model, _ = with_eos(family, [rows(endless)[0][1], rows(endless)[2][3]])
    prompts = prompts_of(model)
    d = direction(model)
    steer = ms.add(d, 9.0, rows=[1, 2])
    out = ms.generate(model, prompts, steer=steer, max_new_tokens=NEW, record=[d.site])
    assert len(set(out.lengths)) > 1
    for place, prompt in enumerate(prompts):
        own = ms.add(d, 9.0) if place in (1, 2) else None
        alone = ms.generate(model, prompt, steer=own, max_new_tokens=NEW, record=[d.site])
        assert rows(alone)[0] == rows(out)[place]
        torch.testing.assert_close(out.activations[d.site][place], alone.activations[d.site][0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", BOTH)
def test_recording_ends_with_the_row_although_its_batch_runs_on(
    family: str, tiny: Callable, with_eos: Callable[..., Any]
) -> None:
    texts = ["the cat sat", "one two", "red blue house", "dog on mat in", "a . :", "write word", "quote task", "ends"]
    endless = ms.generate(tiny(family), texts, max_new_tokens=NEW)
    ends = [row[2] for row in rows(endless)]
    rare = next(token for token in ends if sum(token in row[:-1] for row in rows(endless)) <= 2)  # too few to drop rows
    model, _ = with_eos(family, rare)
    site = direction(model).site
    out = ms.generate(model, texts, max_new_tokens=NEW, record=[site])
    assert min(out.lengths) < NEW
    first = [1 if is_encoder_decoder(model) else len(ms.prompt(model, text)) for text in texts]
    lengths = [len(x) for x in out.activations[site]]
    assert lengths == [a + n - 1 for a, n in zip(first, out.lengths, strict=True)]


def test_texts_are_the_decoded_tokens_without_special_ones(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    out = ms.generate(model, prompts_of(model), max_new_tokens=4)
    assert out.texts == [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows(out)]


@torch.no_grad()
def cache_of(model: Any, prompt: ms.Prompt, tokens: list[int], steer: Any) -> Any:
    hooks = steer.hooks(prompt) if steer is not None else []
    with model.hooks(fwd_hooks=hooks):
        if is_encoder_decoder(model):
            decoder = torch.tensor([[model.cfg.decoder_start_token_id, *tokens]])
            return model.run_with_cache(prompt.tokens[None], decoder)[1]
        whole = torch.cat([prompt.tokens, torch.tensor(tokens)])[None]
        return model.run_with_cache(whole, prepend_bos=False)[1]


@pytest.mark.parametrize("family", [*BOTH, "gpt2", "t5-uneven"])
@pytest.mark.parametrize("steered", [False, True])
def test_recorded_activations_are_the_whole_sequences_without_padding(
    family: str, steered: bool, tiny: Callable
) -> None:
    model = tiny(family)
    prompts = prompts_of(model)[:3]
    steer = ms.add(direction(model, layer=0), 6.0) if steered else None
    table = ms.sites(model)
    recordable = table["shape"].str.split().str[1] == "pos"
    sites = table["site"][recordable].tolist()
    assert len(sites) > 10
    if is_encoder_decoder(model):
        assert {"encoder", "decoder"} <= {parse(site)[0] for site in sites}
    out = ms.generate(model, prompts, steer=steer, max_new_tokens=5, record=sites, batch_size=2)
    assert set(out.activations) == set(sites)
    for place, (prompt, tokens) in enumerate(zip(prompts, rows(out), strict=True)):
        cache = cache_of(model, prompt, tokens[:-1], steer)
        for site in sites:
            recorded, whole = out.activations[site][place], cache[site][0]
            assert recorded.shape == whole.shape, site
            scale = float(whole.abs().max())
            torch.testing.assert_close(recorded, whole, atol=1e-4 * max(scale, 1.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("family", "site", "message"),
    [
        ("llama-gqa", "blocks.0.attn.hook_pattern", "only sites with one row a position"),
        ("llama-gqa", "blocks.0.attn.hook_rot_k", "only sites with one row a position"),
        ("t5", "decoder.0.cross_attn.hook_k", "only sites with one row a position"),
        ("llama-gqa", "blocks.0.hook_resid_psot", r"Unknown site to record.*blocks\.0\.hook_resid_post"),
        ("llama-gqa", "blocks.0.attn.hook_result", "Unknown site to record"),
    ],
)
def test_a_site_that_cannot_be_recorded_is_refused(family: str, site: str, message: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.generate(tiny(family), TEXTS, record=[site])


def test_one_site_to_record_is_given_in_a_list(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"record must be a list, got 'blocks\.0\.hook_resid_post'"):
        ms.generate(tiny("llama-gqa"), TEXTS, record="blocks.0.hook_resid_post")


def test_one_text_one_prompt_and_many_are_accepted(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    one = rows(ms.generate(model, "the cat", max_new_tokens=3))
    assert one == rows(ms.generate(model, ms.prompt(model, "the cat"), max_new_tokens=3))
    assert one * 2 == rows(ms.generate(model, ["the cat", ms.prompt(model, "the cat")], max_new_tokens=3))


def test_no_prompts_are_refused(tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="No prompts were given"):
        ms.generate(tiny("llama-gqa"), [])


@pytest.mark.parametrize("name", ["max_new_tokens", "batch_size"])
def test_counts_below_one_are_refused(name: str, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=f"{name} must be an integer of at least 1, got 0"):
        ms.generate(tiny("llama-gqa"), "the cat", **{name: 0})


def test_a_prompt_that_does_not_fit_the_context_is_refused(tiny: Callable) -> None:
    model = tiny("gpt2")
    fits = ms.prompt(model, " ".join(["cat"] * (model.cfg.n_ctx - 3)))
    assert ms.generate(model, fits, max_new_tokens=2).lengths[0] <= 2
    with pytest.raises(ms.MechsteerError, match=rf"has {len(fits)} tokens; with max_new_tokens=3 that exceeds"):
        ms.generate(model, ["cat", fits], max_new_tokens=3)


def test_generation_leaves_the_model_as_it_was(tiny: Callable) -> None:
    model = tiny("t5")
    before = {name: p.clone() for name, p in model.named_parameters()}
    ms.generate(model, TEXTS, steer=ms.add(direction(model), 3.0), max_new_tokens=3)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


def test_greedy_generation_repeats_itself_to_the_bit(tiny: Callable) -> None:
    model = tiny("t5-gated")
    one, two = (ms.generate(model, TEXTS, max_new_tokens=5) for _ in range(2))
    assert one.tokens.equal(two.tokens) and one.logprobs.equal(two.logprobs)


def test_steering_changes_what_the_bundled_model_says(trap_t5: Any) -> None:
    prompt = ms.prompt(trap_t5, "Write a quote that ends in the word early: Better late than")
    steer = ms.add(random_direction(trap_t5, seed=0, layer=2), 300.0)
    plain, steered = ms.generate(trap_t5, prompt), ms.generate(trap_t5, prompt, steer=steer)
    assert plain.texts[0] and plain.texts != steered.texts
    assert rows(steered)[0] == greedy(trap_t5, prompt, steer, 20)[0]


@pytest.mark.parametrize("family", ["llama-gqa", "t5-gated"])
def test_a_stop_text_ends_a_row_and_is_cut_off(family: str, tiny: Callable) -> None:
    model = tiny(family)
    free = ms.generate(model, TEXTS, max_new_tokens=12)
    word = next(w for text in free.texts for w in text.split()[2:4])
    out = ms.generate(model, TEXTS, max_new_tokens=12, stop=[word, "never said"], batch_size=2)
    assert any(word in text for text in free.texts)
    for before, after, tokens in zip(free.texts, out.texts, rows(out), strict=True):
        assert after == before.split(word)[0]
        said = [word in model.tokenizer.decode(tokens[:n], skip_special_tokens=True) for n in range(1, len(tokens) + 1)]
        assert not any(said[:-1])  # nothing was generated after it


def test_a_stop_text_may_be_a_special_token(tmp_path: Path) -> None:
    folder, _ = write(tmp_path, "gpt2", byte_level(), eos_token_id=None)
    model = ms.load(folder, check=False)
    mark = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.unembed.b_U[mark] = 1e4  # says it at once, and nothing else
    assert ms.generate(model, TEXTS, max_new_tokens=5).lengths == [5] * len(TEXTS)
    out = ms.generate(model, TEXTS, max_new_tokens=5, stop=["<|im_end|>"])
    assert out.lengths == [1] * len(TEXTS) and rows(out) == [[mark]] * len(TEXTS)


@pytest.mark.parametrize(
    ("written", "stop", "ends", "said"),
    [
        ("Paris.<|im_end|>\n<|im_start|>", ["<|im_end|>"], True, "Paris."),
        ("Paris.<|im_end|>\n<|im_start|>user", ["<|im_end|>\n<|im_start|>"], True, "Paris."),
        ("Paris. Rome<|im_end|>", ["ome", "<|im_end|>"], True, "Paris. R"),
        ("Paris. Rome<|im_end|>", ["e<|im_end|>"], True, "Paris. Rom"),
        ("Paris.<|im_start|> Rome<|im_end|>", ["ome<|im_end|>"], True, "Paris. R"),
        ("Paris<|im_start|>. Rome", ["Rome"], True, "Paris. "),
        ("Paris<|im_start|>Rome", ["im_start"], False, "ParisRome"),
        ("Paris", ["<|im_end|>"], False, "Paris"),
    ],
)
def test_what_is_said_before_a_stop_text(written: str, stop: list[str], ends: bool, said: str) -> None:
    tokenizer = byte_level()
    tokens = tokenizer(written)["input_ids"]
    special = naming_specials(tokenizer, stop)
    assert completed(tokenizer, tokens, stop, special) == ends
    assert text_before(tokenizer, tokens, stop, special) == said


@pytest.mark.parametrize("stop", ["end", [""]])
def test_stop_texts_are_texts(stop: Any, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="stop must be a list of texts"):
        ms.generate(tiny("gpt2"), TEXTS, stop=stop)
