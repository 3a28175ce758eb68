"""``generate``: one batched, cached loop for both families, under any intervention and strategy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.decoding.loop import MAX_BATCH_TOKENS, Queue, Writer, Written
from mechsteer.decoding.processors import Processors, processors
from mechsteer.decoding.recorder import Recorder
from mechsteer.decoding.showing import page_of, text_of
from mechsteer.decoding.stops import naming_specials, text_before
from mechsteer.decoding.strategies import Chooser, Strategy, as_strategy
from mechsteer.decoding.trials import GatedChooser
from mechsteer.errors import MechsteerError, positive_int, shown
from mechsteer.models import as_prompts, context_of, fits, hooked, is_encoder_decoder, pad
from mechsteer.prompts import Prompt, Prompts
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.steering import Intervention, Step, as_intervention, attach, check_fired
from mechsteer.steering.batches import check_fits
from mechsteer.steering.intervention import BoundEdit


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
        tokenizer: The model's, for :attr:`pieces`.

    Example:
        >>> made = ms.generate(model, prompts, record=[ms.site(model, "resid_post", 3)])
        >>> made.texts, made.pieces[0], made.logprobs.sum(1)
    """

    texts: list[str]
    tokens: Int[Tensor, "prompts new"]
    logprobs: Float[Tensor, "prompts new"]
    lengths: list[int]
    activations: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)
    trace: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    generation_config: dict[str, Any] = field(default_factory=dict)
    tokenizer: Any = field(default=None, repr=False, compare=False)

    @property
    def pieces(self) -> list[list[str]]:
        """What each real token adds to the text, for people; one list a prompt."""
        rows = zip(self.tokens.tolist(), self.lengths, strict=True)
        return [token_pieces(self.tokenizer, row[:length]) for row, length in rows]

    def __repr__(self) -> str:
        return text_of(self)

    def _repr_html_(self) -> str:
        return page_of(self)


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
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    record: Sequence[str] = (),
    generation_config: bool = True,
    progress: bool = False,
) -> Generation:
    """Generate a continuation (decoder-only) or an answer (encoder-decoder) for each prompt.

    T5's encoder runs once, its decoder with cached self-attention and cross-attention keys and values. Rows that have
    ended make room for waiting prompts. Where memory runs out, half as many prompts are computed together from there
    on, which the log (``logging.getLogger("mechsteer")``) says. The results do not depend on ``batch_size``,
    ``max_batch_tokens``, batch mates or padding.

    Args:
        model: A loaded model.
        prompts: Texts (made into prompts by :func:`mechsteer.prompt`) or prompts; one or many.
        steer: An intervention; acts in prefill and in cached steps alike, as its scope says.
        strategy: ``Greedy()`` (default), ``Sample(...)``, ``DoLa(...)``, ``Directer(...)``, ``Gated(...)`` or your own
            :class:`mechsteer.decoding.Strategy`.
        max_new_tokens: The most new tokens for each prompt.
        stop: Texts that end a row as soon as it has one of them, special tokens such as ``<|im_end|>`` too. ``texts``
            end before it; the tokens have it.
        batch_size: The most prompts computed together.
        max_batch_tokens: The most positions whose keys and values are held together: rows times the longest of their
            prompts and ``max_new_tokens``. It bounds the memory. A prompt that alone is more runs alone.
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

    Example:
        >>> ms.generate(model, prompts, steer=ms.attention_bias(delta=1.0), max_new_tokens=40).texts
    """
    positive_int("batch_size", batch_size)
    positive_int("max_batch_tokens", max_batch_tokens)
    run = started(model, prompts, steer, strategy, max_new_tokens, stop, generation_config, record)
    size = min(batch_size, len(run.prompts))
    with tqdm(total=len(run.prompts), desc="generating", unit="prompt", disable=not progress) as bar:
        while not fits(lambda: run.write(size, max_batch_tokens, bar.update), size):  # noqa: B023
            size //= 2
            run.forget()
    check_fired(run.bound, model)
    return run.made()


def started(
    model: Any,
    prompts: Prompts,
    steer: Intervention | None,
    strategy: Strategy | None,
    max_new_tokens: int,
    stop: Sequence[str],
    generation_config: bool,
    record: Sequence[str] = (),
) -> "Generating":
    """What :func:`generate` is given, checked, before the first token.

    Raises:
        MechsteerError: as :func:`generate`.
    """
    positive_int("max_new_tokens", max_new_tokens)
    made = as_prompts(model, prompts)
    _check_context(model, made, max_new_tokens)
    strategy = as_strategy(strategy)
    if not isinstance(stop, Sequence) or isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
        raise MechsteerError(f"stop must be a list of texts, e.g. ['\\n'], got {shown(stop)}.")
    run = Generating(model, made, strategy, strategy.chooser(model), max_new_tokens, stop, as_intervention(steer))
    run.applied = processors(model, strategy, max_new_tokens, use=generation_config)
    run.recorder = Recorder(model, record, len(made))
    check_fits(model, made, run.steer)
    chooser = getattr(run.chooser, "inner", run.chooser)  # of a strategy that is watched
    if isinstance(chooser, GatedChooser):
        chooser.check_prompts(made)
    return run


@dataclass
class Generating:
    """One call of :func:`generate`: what it has been given, and what it has written so far."""

    model: Any
    prompts: list[Prompt]
    strategy: Strategy
    chooser: Chooser
    max_new_tokens: int
    stop: Sequence[str]
    steer: Intervention
    applied: Processors | None = None
    recorder: Recorder = field(init=False)
    bound: list[BoundEdit] = field(default_factory=list)
    hooks: list[tuple[str, Callable[..., Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = [Written() for _ in self.prompts]

    def left(self) -> list[int]:
        """The prompts whose rows have not ended."""
        return [place for place, row in enumerate(self.rows) if not row.done]

    def write(self, size: int, max_batch_tokens: int, ended: Callable[[int], object]) -> None:
        """Write what is left, so many rows together."""
        queue = Queue(self.prompts, size, max_batch_tokens, self.max_new_tokens, self.left())
        step, writer = self.prepared(queue.take([]), ended)
        with hooked(self.model, self.hooks):
            writer.write(step, queue)

    def prepared(self, index: list[int], ended: Callable[[int], object] = lambda count: None) -> tuple[Step, Writer]:
        """What writes after these prompts, under :attr:`hooks`."""
        step = Step(
            pad(self.model, [self.prompts[i] for i in index]),
            decoder_prefix=int(is_encoder_decoder(self.model)),
            index=index,
        )
        step.edits = bound = self.steer.bind(self.model, step)
        self.bound += bound
        self.recorder.step = step
        self.hooks = [*attach(bound, self.model), *self.recorder.hooks()]
        return step, Writer(self.model, self.chooser, self.max_new_tokens, self.rows, self.stop, self.applied, ended)

    def forget(self) -> None:
        """Begin the rows that have not ended again: a sampler draws for them what it would have drawn."""
        for place in self.left():
            self.rows[place].forget()
        self.recorder.forget(self.left())
        self.chooser = getattr(self.strategy, "renewed", self.strategy.chooser)(self.model)

    def made(self) -> Generation:
        """What is written so far."""
        applied = {} if self.applied is None else self.applied.settings
        return _collect(self.model, self.rows, self.recorder, self.stop, applied)


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
    special = naming_specials(model.tokenizer, stop)
    texts = [text_before(model.tokenizer, row.tokens, stop, special) for row in rows]
    trace = pd.DataFrame([line for row in rows for line in row.trace])
    return Generation(texts, tokens, logprobs, lengths, recorder.result(lengths), trace, applied, model.tokenizer)
