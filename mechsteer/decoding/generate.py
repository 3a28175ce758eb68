"""``generate``: one batched, cached loop for both families, under any intervention and strategy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.decoding.processors import Processors, processors
from mechsteer.decoding.recorder import Recorder
from mechsteer.decoding.repetition import read_so_far
from mechsteer.decoding.strategies import Chooser, Greedy, Pass, Strategy
from mechsteer.errors import MechsteerError, positive_int, shown
from mechsteer.models import (
    as_prompts,
    context_of,
    is_encoder_decoder,
    loaded_info,
    model_device,
    select_rows,
)
from mechsteer.prompts import Prompt, Prompts
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

_COMPACT_BELOW = 0.75  # drop finished rows when fewer than this share of the computed ones is still running


@dataclass(frozen=True)
class Generation:
    """What came out.

    Attributes:
        texts: One text a prompt, without special tokens.
        tokens: ``[prompts, new]`` the new tokens, end-of-sequence token included, then padding.
        logprobs: ``[prompts, new]`` natural log-probability of each token under the (steered) model, before
            processors, temperature and truncation; 0 at padding.
        lengths: How many of each row's tokens are real.
        activations: For each recorded site, one ``[positions, ...]`` tensor a prompt: prompt tokens, then each
            generated token that was fed back (the last one is not).
        trace: What the strategy chose and why: one row a prompt and new token, with the columns ``prompt``, ``step``,
            ``token`` and the strategy's own. Without rows for greedy decoding and sampling.
        generation_config: What was applied of the checkpoint's ``generation_config.json``.
    """

    texts: list[str]
    tokens: Int[Tensor, "prompts new"]
    logprobs: Float[Tensor, "prompts new"]
    lengths: list[int]
    activations: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)
    trace: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    generation_config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Written:
    """What was written after one prompt so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)


@torch.no_grad()
def generate(
    model: Any,
    prompts: Prompts,
    *,
    steer: Intervention | None = None,
    strategy: Strategy | None = None,
    max_new_tokens: int = 20,
    stop: Sequence[str] = (),
    batch_size: int = 32,
    record: Sequence[str] = (),
    generation_config: bool = True,
    progress: bool = False,
) -> Generation:
    """Generate a continuation (decoder-only) or an answer (encoder-decoder) for each prompt.

    T5's encoder runs once, its decoder with cached self-attention and cross-attention keys and values. Rows that have
    ended are dropped from the batch. The results do not depend on ``batch_size``, on batch mates or on padding.

    Args:
        model: A loaded model.
        prompts: Texts (made into prompts by :func:`mechsteer.prompt`) or prompts; one or many.
        steer: An intervention; acts in prefill and in cached steps alike, as its scope says.
        strategy: ``Greedy()`` (default), ``Sample(...)`` or ``DoLa(...)``.
        max_new_tokens: The most new tokens for each prompt.
        stop: Texts that end a row as soon as it has one of them. ``texts`` end before it; the tokens have it.
        batch_size: Prompts computed together.
        record: Full names of sites whose activations to keep, as edited.
        generation_config: Apply what the checkpoint's ``generation_config.json`` does to scores (repetition penalty,
            forbidden n-grams, suppressed and forced tokens, least lengths and so on) and its ``stop_strings``, by
            transformers' own processors, as Hugging Face's ``generate`` does. Its ``do_sample``, ``temperature``,
            ``num_beams`` and the like are not read: the strategy says how tokens are chosen. False: leave the file out
            but for the end tokens and the decoder's start token.
        progress: Show a bar.

    Returns:
        Texts, tokens, log-probabilities and recorded activations, in the order of ``prompts``.

    Raises:
        MechsteerError: for no prompts, prompts that do not fit the context, an intervention that does not fit the model
            or that never fired, a site that cannot be recorded, a ``generation_config.json`` that cannot be applied, or
            logits that are NaN or infinite: with prompt, new token, dtype and the edits that acted.
    """
    positive_int("max_new_tokens", max_new_tokens)
    made = as_prompts(model, prompts)
    _check_context(model, made, max_new_tokens)
    strategy = strategy or Greedy()
    if not isinstance(strategy, Strategy):
        raise MechsteerError(f"strategy must be a strategy, e.g. ms.Greedy(), got {shown(strategy)}.")
    if not isinstance(stop, Sequence) or isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
        raise MechsteerError(f"stop must be a list of texts, e.g. ['\\n'], got {shown(stop)}.")
    chooser = strategy.chooser(model)
    applied = processors(model, strategy, max_new_tokens, use=generation_config)
    recorder = Recorder(model, record, len(made))
    rows = [Written() for _ in made]

    def run(step: Step) -> None:
        recorder.step = step
        generate_batch(model, step, chooser, max_new_tokens, rows, stop, applied)

    run_batches(
        model,
        made,
        run,
        steer=as_intervention(steer),
        batch_size=batch_size,
        hooks=recorder.hooks(),
        progress="generating" if progress else "",
    )
    return _collect(model, rows, recorder, stop, {} if applied is None else applied.settings)


def generate_batch(
    model: Any,
    step: Step,
    chooser: Chooser,
    max_new_tokens: int,
    rows: "list[Written] | dict[int, Written]",
    stop: Sequence[str] = (),
    applied: Processors | None = None,
) -> None:
    """Generate for one batch, appending to ``rows`` at the places that ``step.index`` names."""
    eos = torch.tensor(loaded_info(model).eos_ids, dtype=torch.long)
    index = list(step.index or range(len(step.batch)))
    state, tokens, mask = begin(model, step)
    computed = list(range(len(index)))  # rows of the batch in the tensors, in order
    running = torch.ones(len(index), dtype=torch.bool)  # which of those have not ended
    end = 0
    for new in range(max_new_tokens):
        end += tokens.shape[1]
        step.begin(end, computed)
        places = [index[row] for row in computed]
        written = [rows[place].tokens for place in places]
        choice = chooser.choose(Pass(model, state, tokens, mask, step, places, written, running, applied))
        logprobs = choice.logits.log_softmax(-1).gather(1, choice.tokens[:, None])[:, 0].tolist()
        ids = choice.tokens.cpu()
        for row, (place, token, alive) in enumerate(zip(places, ids.tolist(), running.tolist(), strict=True)):
            if alive:
                rows[place].tokens.append(token)
                rows[place].logprobs.append(logprobs[row])
                if choice.trace:
                    rows[place].trace.append({"prompt": place, "step": new, **choice.trace[row]})
        running &= ~torch.isin(ids, eos)
        if stop:
            running &= torch.tensor([not _stopped(model, rows[place].tokens, stop) for place in places])
        if applied is not None and "stop_strings" in applied.settings:
            running &= ~torch.tensor([applied.stopped(read) for read in read_so_far(model, step, written)])
        if new + 1 == max_new_tokens or not running.any():
            return
        if running.sum() <= _COMPACT_BELOW * len(computed):
            kept = running.nonzero()[:, 0]
            state = select_rows(state, kept.to(model_device(model)))
            ids, computed, running = ids[kept], [computed[i] for i in kept.tolist()], running[kept]
        tokens, mask = ids[:, None], torch.ones((len(computed), 1), dtype=torch.bool)


def _stopped(model: Any, tokens: list[int], stop: Sequence[str]) -> bool:
    """Whether one of the texts has just been completed."""
    tail = tokens[-(4 * max(map(len, stop)) + 4) :]  # no character takes more than four tokens
    text = model.tokenizer.decode(tail, skip_special_tokens=True)
    return any(end in text for end in stop)


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((place for end in stop if (place := text.find(end)) >= 0), default=len(text))]


def _check_context(model: Any, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    longest = max(len(p) for p in prompts)
    if not is_encoder_decoder(model) and longest + max_new_tokens > model.cfg.n_ctx:
        raise MechsteerError(
            f"The longest prompt has {longest} tokens; with max_new_tokens={max_new_tokens} that exceeds this model's "
            f"context of {context_of(model)}."
        )


def _collect(
    model: Any, rows: list[Written], recorder: Recorder, stop: Sequence[str], applied: dict[str, Any]
) -> Generation:
    lengths = [len(row.tokens) for row in rows]
    shape = (len(rows), max(lengths))
    tokens = torch.full(shape, model.tokenizer.pad_token_id or 0, dtype=torch.long)
    logprobs = torch.zeros(shape)
    for place, row in enumerate(rows):
        tokens[place, : lengths[place]] = torch.tensor(row.tokens)
        logprobs[place, : lengths[place]] = torch.tensor(row.logprobs)
    whole = model.tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
    texts = [_cut(text, stop) for text in whole]
    trace = pd.DataFrame([line for row in rows for line in row.trace])
    return Generation(texts, tokens, logprobs, lengths, recorder.result(lengths), trace, applied)
