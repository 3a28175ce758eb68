"""DIRECTER equals a plain loop over whole sequences, one pass after another and without a cache, token for token."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.decoding import trials
from mechsteer.models import is_encoder_decoder, predicting_stack

ALPHA, BETA = 3.0, 0.5  # tiny random models are steered far enough by this
NEW = 6
WORDS = "the cat dog sat mat house answer quote word write ends red blue one two".split()


def prompts_of(model: Any, count: int, seed: int = 0) -> list[ms.Prompt]:
    """Random texts with an instruction in front or behind."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        text, instruction = (" ".join(draw.choices(WORDS, k=draw.randint(3, 7))) for _ in range(2))
        made.append(ms.prompt(model, f"<!!-> {instruction} <-!!> {text}" if draw.random() < 0.5 else text + " ."))
        if "instruction" not in made[-1].spans:
            made[-1] = ms.prompt(model, f"{text} <!!-> {instruction} <-!!> .")
    return made


@dataclass
class Naive:
    """The paper's loop, written down: one whole forward for each pass; steering acts on the last position alone."""

    model: Any
    prompt: ms.Prompt
    released: bool = False
    alpha: float = ALPHA
    beta: float = BETA
    ranked: Sequence[int] = ()

    def span(self, queries: int) -> list[int]:
        inside = self.prompt.positions("instruction")
        after = [self.prompt.positions("instruction")[-1] + 1] if self.released else []
        size = len(self.prompt)
        if self.released and not is_encoder_decoder(self.model):
            size = min(size, queries - 1)  # their cache has the keys of the tokens before the one that is run
        return [position for position in inside + after if position < size]

    def p(self, written: list[int], layers: Sequence[int]) -> Tensor:
        """The next-token distribution when these layers are steered."""
        hooks = [hook for layer in layers for hook in self.hooks(layer)]
        prompt = self.prompt.tokens[None]
        with torch.no_grad(), self.model.hooks(fwd_hooks=hooks):
            if is_encoder_decoder(self.model):
                start = self.model.cfg.decoder_start_token_id
                mask = torch.ones_like(prompt)
                logits = self.model(prompt, torch.tensor([[start, *written]]), one_zero_attention_mask=mask)
            else:
                logits = self.model(torch.cat([prompt, torch.tensor([written], dtype=torch.long)], 1))
        return logits[0, -1].float().softmax(-1)

    def hooks(self, layer: int) -> list[tuple[str, Callable[..., Any]]]:
        """The last query's scores of the span's keys, times alpha; before the cap where there is one."""
        cfg, kept = self.model.cfg, {}
        stack = predicting_stack(self.model)[0]
        attention = f"{stack}.{layer}.{'cross_attn' if is_encoder_decoder(self.model) else 'attn'}"

        def keep(x: Tensor, hook: Any) -> None:
            kept[hook.name.split("_")[-1]] = x

        def scale(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[:, :, -1, self.span(x.shape[2])] *= self.alpha
            return x

        def scale_below_the_cap(x: Tensor, hook: Any) -> Tensor:
            q, k = kept["q"][0, -1], kept["k"][0].repeat_interleave(cfg.n_heads // kept["k"].shape[2], 1)
            raw = self.alpha * torch.einsum("hd,khd->hk", q, k) / cfg.attn_scale
            capped = cfg.attn_scores_soft_cap * (raw / cfg.attn_scores_soft_cap).tanh()
            x = x.clone()
            seen = [place for place in self.span(x.shape[2]) if x[0, 0, -1, place] > -torch.inf]
            x[0, :, -1, seen] = capped[:, seen]
            return x

        if getattr(cfg, "attn_scores_soft_cap", 0) > 0:
            return [
                (f"{attention}.hook_rot_q", keep),
                (f"{attention}.hook_rot_k", keep),
                (f"{attention}.hook_attn_scores", scale_below_the_cap),
            ]
        return [(f"{attention}.hook_attn_scores", scale)]

    def run(self, ends: Sequence[int]) -> tuple[list[int], list[dict[str, Any]]]:
        """The new tokens, and what was tried."""
        written: list[int] = []
        trace = []
        for _ in range(NEW):
            raw = self.p(written, [])
            best, second = raw.topk(2).values.tolist()
            top = int(raw.argmax())
            token, accepted, tried = top, 0, 0
            skipped = second < self.beta * best
            if not skipped:
                size = len(self.ranked)
                while size >= (2 if self.released else 1):
                    tried += 1
                    steered = int(self.p(written, self.ranked[:size]).argmax())
                    likelihood, least = float(raw[steered]), self.beta * best
                    if likelihood > least or (likelihood == least and not self.released):
                        token, accepted = steered, size
                        break
                    size //= 2
            written.append(token)
            trace.append({"layers": accepted, "trials": tried, "skipped": skipped, "token": token, "raw_token": top})
            if token in ends:
                break
        return written, trace


def ranked(model: Any, prompt: ms.Prompt, compat: str) -> list[int]:
    """From the measurement, which has a naive loop of its own."""
    table = ms.layer_sensitivity(model, prompt, alpha=ALPHA, compat=compat)
    return table.sort_values("rank")["layer"].tolist()


@pytest.mark.parametrize("compat", ["paper", "released"])
@pytest.mark.parametrize(("family", "beta"), [("gpt2", 0.5), ("llama-gqa", 0.5), ("gemma2", 0.01), ("t5", 0.5)])
def test_tokens_and_trace_equal_the_plain_loop(family: str, beta: float, compat: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model, 50 if compat == "paper" and family != "gemma2" else 16)
    strategy = ms.Directer(alpha=ALPHA, beta=beta, compat=compat)
    found = ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW, batch_size=7)
    ends = ms.model_info(model).eos_ids
    traces = found.trace.groupby("prompt")
    for place, prompt in enumerate(prompts):
        naive = Naive(model, prompt, released=compat == "released", beta=beta, ranked=ranked(model, prompt, compat))
        tokens, trace = naive.run(ends)
        assert found.tokens[place, : found.lengths[place]].tolist() == tokens
        columns = list(trace[0])
        assert traces.get_group(place)[columns].to_dict("records") == trace
    seen = found.trace
    assert seen["skipped"].any() and (seen["accepted"] == 1).any()  # every way out was taken
    assert family == "gemma2" or ((seen["accepted"] == 0) & ~seen["skipped"]).any()  # its caps leave little to reject
    assert compat == "paper" or not (seen["layers"] == 1).any()
    assert (seen["token"] != seen["raw_token"]).any()


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "t5"])
def test_one_pass_for_all_and_the_raw_pass_first_are_the_same(
    family: str, tiny: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(family)
    prompts = prompts_of(model, 6, seed=1)
    strategy = ms.Directer(alpha=ALPHA)
    runs = []
    for most in (0, 10_000):
        monkeypatch.setattr(trials, "TOGETHER", {"cpu": most})
        runs.append([ms.generate(model, prompts, strategy=strategy, max_new_tokens=NEW, batch_size=n) for n in (1, 6)])
    (alone, batched), (alone_together, batched_together) = runs
    for other in (batched, alone_together, batched_together):
        assert other.tokens.equal(alone.tokens)
        torch.testing.assert_close(other.logprobs, alone.logprobs, atol=1e-4, rtol=1e-4)
        exact = ["prompt", "step", "token", "raw_token", "accepted", "trials", "skipped", "layers"]
        assert other.trace[exact].equals(alone.trace[exact])


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_a_factor_of_one_is_greedy_decoding(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model, 5, seed=2)
    plain = ms.generate(model, prompts, max_new_tokens=NEW)
    found = ms.generate(model, prompts, strategy=ms.Directer(alpha=1.0), max_new_tokens=NEW)
    assert found.tokens.equal(plain.tokens)
    torch.testing.assert_close(found.logprobs, plain.logprobs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_prompts_have_thresholds_of_their_own(batch_size: int, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model, 4)
    betas = (0.99, 0.5, 0.05, 1e-4)
    how: dict[str, Any] = {"max_new_tokens": NEW, "batch_size": batch_size}
    made = ms.generate(model, prompts, strategy=ms.Directer(ALPHA, betas), **how)
    for place, (prompt, beta) in enumerate(zip(prompts, betas, strict=True)):
        alone = ms.generate(model, prompt, strategy=ms.Directer(ALPHA, beta), max_new_tokens=NEW)
        own = made.trace[made.trace["prompt"] == place].reset_index(drop=True)
        names = ["token", "raw_token", "accepted", "trials", "skipped"]
        assert own[names].equals(alone.trace[names])
    assert made.trace["skipped"].any() and made.trace["accepted"].any()


def test_the_schedule_halves_down_to_one_layer_and_the_released_one_stops_before() -> None:
    sizes = {n: ms.Directer().schedule(n) for n in (32, 28, 6, 1)}
    assert sizes == {32: (32, 16, 8, 4, 2, 1), 28: (28, 14, 7, 3, 1), 6: (6, 3, 1), 1: (1,)}
    released = {n: ms.Directer(compat="released").schedule(n) for n in (32, 16, 36, 28, 48)}
    assert released == {
        32: (32, 16, 8, 4, 2),
        16: (16, 8, 4, 2),
        36: (36, 18, 9, 4, 2),
        28: (28, 14, 7, 3),
        48: (48, 24, 12, 6, 3),
    }


def test_orders_of_the_ablation(tiny: Callable) -> None:
    """With one layer steered and nothing rejected, each order's token is that of its first layer."""
    model = tiny("llama-gqa")
    prompts = prompts_of(model, 8, seed=3)
    firsts = {}
    for order in ("sensitivity", "reversed"):
        strategy = ms.Directer(alpha=ALPHA, order=order, strength=1)
        found = ms.generate(model, prompts, strategy=strategy, max_new_tokens=1)
        for place, prompt in enumerate(prompts):
            layer = ranked(model, prompt, "paper")[0 if order == "sensitivity" else -1]
            assert found.tokens[place, 0] == Naive(model, prompt).p([], [layer]).argmax()
        firsts[order] = found.tokens[:, 0].tolist()
    assert firsts["sensitivity"] != firsts["reversed"]
    draws = [
        ms.generate(model, prompts, strategy=ms.Directer(alpha=ALPHA, order="random", seed=seed), max_new_tokens=NEW)
        for seed in (0, 0, 1)
    ]
    assert draws[0].tokens.equal(draws[1].tokens)
    assert not draws[0].trace.equals(draws[2].trace)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_a_fixed_strength_steers_every_token(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompts_of(model, 1, seed=4)[0]
    layers = predicting_stack(model)[1]
    found = ms.generate(model, prompt, strategy=ms.Directer(alpha=50.0, strength=layers), max_new_tokens=NEW)
    naive, written = Naive(model, prompt, alpha=50.0), []
    for token in found.tokens[0, : found.lengths[0]].tolist():
        assert int(naive.p(written, range(layers)).argmax()) == token
        written.append(token)
    assert (found.trace["accepted"] == 1).all() and (found.trace["layers"] == layers).all()


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_it_stands_on_top_of_an_intervention(family: str, tiny: Callable) -> None:
    """Raw passes and trials both have it: with a factor of one it is the intervention alone."""
    model = tiny(family)
    prompts = prompts_of(model, 4, seed=5)
    steer = ms.add(ms.random_direction(model, layer=0, seed=0), 6.0) + ms.attention_bias(delta=1.0, scope="all")
    alone = ms.generate(model, prompts, steer=steer, max_new_tokens=NEW)
    under = ms.generate(model, prompts, steer=steer, strategy=ms.Directer(alpha=1.0), max_new_tokens=NEW)
    assert under.tokens.equal(alone.tokens)
    both = ms.generate(model, prompts, steer=steer, strategy=ms.Directer(alpha=ALPHA), max_new_tokens=NEW)
    one = [ms.generate(model, p, steer=steer, strategy=ms.Directer(alpha=ALPHA), max_new_tokens=NEW) for p in prompts]
    assert [row for r in one for row in r.texts] == both.texts


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_what_is_recorded_is_the_unsteered_pass(family: str, batch_size: int, tiny: Callable) -> None:
    """The activations whose keys and values are kept: those of a plain forward over the text that was written."""
    model = tiny(family)
    prompts = prompts_of(model, 4, seed=6)
    site = ms.site(model, "resid_post", layer=-1)
    found = ms.generate(
        model, prompts, strategy=ms.Directer(alpha=ALPHA), max_new_tokens=NEW, record=[site], batch_size=batch_size
    )
    for place, prompt in enumerate(prompts):
        written = found.tokens[place, : found.lengths[place] - 1]
        kept: list[Tensor] = []
        with torch.no_grad(), model.hooks(fwd_hooks=[(site, lambda x, hook, kept=kept: kept.append(x[0]))]):
            if is_encoder_decoder(model):
                model(prompt.tokens[None], torch.tensor([[model.cfg.decoder_start_token_id, *written.tolist()]]))
            else:
                model(torch.cat([prompt.tokens, written])[None])
        torch.testing.assert_close(found.activations[site][place], kept[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, r"beta must be above 0 and at most 1, got 0\.0"),
        ({"beta": 1.5}, r"beta must be above 0 and at most 1, got 1\.5"),
        ({"beta": float("nan")}, "beta must be"),
        ({"beta": (0.5, 2.0)}, r"beta must be above 0 and at most 1, got 2\.0"),
        ({"beta": ()}, r"or one for each prompt, got \(\)"),
        ({"alpha": 0.0}, r"alpha must be above 0, got 0\.0"),
        ({"alpha": float("inf")}, "alpha must be"),
        ({"compat": "code"}, "Unknown compat 'code'. Valid: paper, released"),
        ({"order": "revesed"}, "reversed"),
        ({"span": ""}, "needs a span"),
        ({"strength": 0}, "strength must be"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.Directer(**settings)


def test_what_does_not_fit_a_run_is_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    with pytest.raises(ms.MechsteerError, match="strength=9 is more than the 3 layers"):
        ms.generate(model, "the cat", strategy=ms.Directer(strength=9))
    with pytest.raises(ms.MechsteerError, match="instruction"):
        ms.generate(model, "the cat sat", strategy=ms.Directer())
    with pytest.raises(ms.MechsteerError, match="beta is 1 numbers, one a prompt, but there are more"):
        ms.generate(model, prompts_of(model, 2), strategy=ms.Directer(beta=(0.5,)))
    prompt = ms.prompt(model, "<!!-> the cat <-!!> sat")
    beyond = ms.Prompt(prompt.text, prompt.tokens, {"instruction": [(0, 99)]})
    with pytest.raises(ms.MechsteerError, match=r"span|99"):
        ms.generate(model, beyond, strategy=ms.Directer())


def test_logits_that_are_not_finite_are_an_error(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model, 1)[0]
    with (
        model.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", lambda x, hook: x * torch.nan)]),
        pytest.raises(ms.MechsteerError, match="not finite"),
    ):
        ms.generate(model, prompt, strategy=ms.Directer(), max_new_tokens=2)
