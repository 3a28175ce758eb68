r"""DoLa: decoding by contrasting the model's last layer with one of its early exits.

Papers: <https://arxiv.org/abs/2512.03803> (version 2; T5) and <https://arxiv.org/abs/2309.03883> (the original, LLaMA).
Early exit e is what the language-modelling head makes of the stream after e blocks of the stack that predicts (of T5,
its decoder): 0 is the embeddings, N the last layer, which is the model itself. With q_e the next-token distribution and
l_e the logits at exit e, for every new token

    M = argmax over candidates j of JSD(q_N, q_j)             (1)
    l = l_N + lambda (l_N - l_M)                              (2)

then the repetition penalty and the checkpoint's other processors on l, then the largest.

What the paper leaves open, and what stands here (``compat="paper"``, the default):

- Equation 2's lambda has no value; its code has no lambda. ``contrast=1`` is ours.
- Whether the final norm comes before the head at an early exit. In the code it does not, and so it is here;
  ``normalise=True`` applies it.
- What to do with equals. Distributions of raw streams are so sharp that several exits are often as far from the last
  layer as can be, ln 2: of those the earliest is chosen, so that rounding does not decide.
- A restriction to likely tokens. Version 2 has none; version 1 keeps tokens "with high probability in the mature layer"
  without a number; the code keeps those with at least a tenth of the largest probability, and so it is here. Raw
  streams are large, and without the restriction l_M alone decides. ``relative_top=0`` is version 2 to the letter.

The released code (``compat="released"``; <https://github.com/itshuey/DoLa>, derived from the original's):

- The divergence's arguments are exchanged, and it is the mean over the vocabulary, not the sum: with m = (q_N + q_j)/2,
  1/2 mean_v m (log m - log q_N) + 1/2 mean_v m (log m - log q_j). It has no upper bound.
- The score is log q_N - log q_M, without lambda; with ``relative_top=0`` it is l_N - l_M.
- The head is the bare unembedding at every exit, the last included: original T5's factor d_model^-0.5, Granite's
  division and caps on the logits are left out.
- It picks one layer for a whole batch, and its authors' batches have one row. Here each row has its own.
- In float16 its divergences of deep layers are NaN, and the first NaN wins. That is not reproduced: logits that are not
  finite are an error.

``compat="huggingface"`` is the decoder-only DoLa of transformers up to 4.55: as released, but the last layer's logits
are the model's own (with their cap), and ``relative_top=0`` keeps the log-probabilities.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.analysis.distributions import jsd
from mechsteer.decoding.exits import check_layers, early_exits, exit_streams
from mechsteer.decoding.repetition import checked_penalty
from mechsteer.decoding.strategies import Choice, Pass, own_numbers
from mechsteer.errors import MechsteerError, one_of
from mechsteer.models import is_encoder_decoder, model_info, multiplier, refuse_folded, unembed

COMPAT = ("paper", "released", "huggingface")
_SAME = 1e-5  # relative; divergences closer than this to the largest are equal to it


@dataclass(frozen=True)
class DoLa:
    """Greedy decoding on the contrast between the last layer and, for each row and token, one early exit.

    Every row chooses its own layer, whatever its batch mates are. Early exits see what an intervention makes of the
    stream. ``Generation.logprobs`` stay those of the model itself; ``Generation.trace`` has, for each new token,
    ``token``, ``layer`` (the exit it was contrasted with), ``jsd`` (its divergence from the last layer), ``kept`` (how
    many tokens passed the restriction to likely ones) and ``jsd_E`` for every candidate E.

    Attributes:
        layers: The candidates, as numbers of blocks passed: ``"even"`` for 0, 2, ... below the last, as in the paper;
            ``"low"`` and ``"high"`` as in Hugging Face; or a list. One candidate makes the contrast static.
        compat: ``"paper"``, ``"released"`` or ``"huggingface"`` (decoder-only models); see the module.
        contrast: The paper's lambda, which it gives no value; 0 leaves the model's own logits. Of ``"paper"`` only.
        relative_top: Keep tokens with at least this share of the largest probability; 0 keeps all.
        repetition_penalty: The paper's is 1.2; 1 is none but what the checkpoint's ``generation_config.json`` says.
        normalise: Apply the final norm at early exits. Of ``"paper"`` only.

    Example:
        >>> ms.generate(t5, traps[0].prompt, strategy=ms.DoLa(normalise=True)).trace
    """

    layers: str | Sequence[int] = "even"
    compat: str = "paper"
    contrast: float = 1.0
    relative_top: float = 0.1
    repetition_penalty: float = 1.2
    normalise: bool = False

    def __post_init__(self) -> None:
        one_of("compat", self.compat, COMPAT)
        object.__setattr__(self, "layers", check_layers(self.layers))
        own_numbers(self, "contrast", "relative_top", "repetition_penalty")
        if not 0 <= self.relative_top <= 1:
            raise MechsteerError(f"relative_top must be from 0 (keep all) to 1, got {self.relative_top}.")
        checked_penalty(self.repetition_penalty)
        if self.compat != "paper" and (self.contrast != 1 or self.normalise):
            raise MechsteerError(
                f'compat={self.compat!r} has neither contrast nor normalise; they are for compat="paper".'
            )

    def chooser(self, model: Any) -> "Contrast":
        """Find the candidates in a model.

        Raises:
            MechsteerError: for layers that the model does not have, ``"huggingface"`` on an encoder-decoder, or a model
                whose norms are folded.
        """
        refuse_folded(model, "DoLa reads early exits without the final norm, and asks whether the embeddings are tied")
        if self.compat == "huggingface" and is_encoder_decoder(model):
            raise MechsteerError(
                'compat="huggingface" is for decoder-only models: transformers has no DoLa for '
                f'{model_info(model).family}; use "paper" or "released".'
            )
        return Contrast(self, early_exits(model, self.layers))


@dataclass
class Contrasted:
    """What one pass gave.

    Attributes:
        logits: The model's own.
        scores: What is maximised: contrasted, -inf at unlikely tokens, then penalised.
        place: Of each row, which candidate it was contrasted with.
        divergences: Of each candidate from the last layer.
        kept: How many tokens were likely enough.
        early: The stream at the candidates.
    """

    logits: Float[Tensor, "rows d_vocab"]
    scores: Float[Tensor, "rows d_vocab"]
    place: Int[Tensor, "rows"]
    divergences: Float[Tensor, "rows exits"]
    kept: Int[Tensor, "rows"]
    early: Float[Tensor, "exits rows d_model"]


@dataclass(frozen=True)
class Contrast:
    """One run's candidates."""

    settings: DoLa
    exits: tuple[int, ...]

    def choose(self, current: Pass) -> Choice:
        """Choose the largest contrasted score of each row."""
        found = self.contrasted(current)
        tokens = found.scores.argmax(-1)
        columns = (tokens.tolist(), found.place.tolist(), found.kept.tolist(), found.divergences.tolist())
        trace = [
            {"token": token, "layer": self.exits[place], "jsd": row[place], "kept": kept}
            | {f"jsd_{e}": value for e, value in zip(self.exits, row, strict=True)}
            for token, place, kept, row in zip(*columns, strict=True)
        ]
        return Choice(tokens, found.logits, trace)

    def contrasted(self, current: Pass) -> Contrasted:
        """Run a pass and contrast its last layer.

        Raises:
            MechsteerError: if logits are not finite.
        """
        model, settings = current.model, self.settings
        early, last = exit_streams(current, self.exits)
        logits = current.checked(unembed(model, last[:, None])[:, 0].float())
        with _more_readings(current):
            mature = _bare_last(model, last) if settings.compat == "released" else logits
            divergences = self._divergences(current, mature, early)
            place = most_divergent(divergences)
            premature = self.exit_logits(model, early[place, torch.arange(len(place), device=place.device)])
        kept = likely(mature, settings.relative_top)
        scores = self._scores(mature, premature)
        lost = ~(scores.isfinite() | ~kept).all(-1)
        if (lost if current.running is None else lost & current.running.to(lost.device)).any():
            raise MechsteerError(
                f"contrast={settings.contrast:g} makes scores that no float32 holds: take a smaller one."
            )
        scores = scores.masked_fill(~kept, -torch.inf)
        scores = self._processed(current, scores, logits)
        return Contrasted(logits, scores, place, divergences, kept.sum(-1), early)

    def _processed(
        self, current: Pass, scores: Float[Tensor, "rows d_vocab"], logits: Float[Tensor, "rows d_vocab"]
    ) -> Float[Tensor, "rows d_vocab"]:
        """The scores after the processors; the model's own, where these leave none of the likely tokens."""
        penalty = self.settings.repetition_penalty
        made = current.processed(scores, repetition_penalty=penalty)
        nothing = made.isneginf().all(-1, keepdim=True)
        return (
            torch.where(nothing, current.processed(logits, repetition_penalty=penalty), made) if nothing.any() else made
        )

    def exit_logits(self, model: Any, stream: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_vocab"]:
        """The logits at an early exit."""
        at_a_position = stream[:, None]  # as hook functions at the head expect it
        if self.settings.compat == "paper":
            return unembed(model, at_a_position, normalise=self.settings.normalise)[:, 0].float()
        return _bare_head(model, at_a_position)[:, 0]

    def _divergences(
        self, current: Pass, mature: Float[Tensor, "rows d_vocab"], early: Float[Tensor, "exits rows d_model"]
    ) -> Float[Tensor, "rows exits"]:
        """Of every candidate from the last layer; one after another, as a large vocabulary takes much memory."""
        model, running = current.model, slice(None) if current.running is None else current.running
        log_p, divergence = mature.log_softmax(-1), jsd if self.settings.compat == "paper" else released_jsd
        found = [divergence(log_p, self.exit_logits(model, stream).log_softmax(-1)) for stream in early]
        for e, values in zip(self.exits, found, strict=True):
            if not torch.isfinite(values[running]).all():
                raise MechsteerError(
                    f"DoLa cannot compare exit {e} with the last layer: logits are not finite in "
                    f"{model_info(model).dtype}. Without steering, load the model in float32 or bfloat16."
                )
        return torch.stack(found, dim=1)

    def _scores(
        self, mature: Float[Tensor, "rows d_vocab"], premature: Float[Tensor, "rows d_vocab"]
    ) -> Float[Tensor, "rows d_vocab"]:
        """The contrast alone."""
        settings = self.settings
        if settings.compat == "paper":
            return mature + settings.contrast * (mature - premature)
        if settings.compat == "released" and settings.relative_top == 0:
            return mature - premature
        return mature.log_softmax(-1) - premature.log_softmax(-1)


def most_divergent(divergences: Float[Tensor, "rows exits"]) -> Int[Tensor, "rows"]:
    """The place of each row's largest divergence; of those that are equal to it but for rounding, the first."""
    largest = divergences.max(-1, keepdim=True).values
    return (divergences >= largest * (1 - _SAME)).int().argmax(-1)


def released_jsd(
    log_p: Float[Tensor, "*batch d_vocab"], log_q: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """The released code's divergence: 1/2 KL(m || p) + 1/2 KL(m || q), m = (p + q) / 2, averaged over the vocabulary.

    Args:
        log_p: Finite log-probabilities.
        log_q: The other ones.
    """
    m = 0.5 * (log_p.exp() + log_q.exp())
    return 0.5 * (F.kl_div(log_p, m, reduction="none").mean(-1) + F.kl_div(log_q, m, reduction="none").mean(-1))


def likely(logits: Float[Tensor, "rows d_vocab"], share: float) -> Bool[Tensor, "rows d_vocab"]:
    """The tokens whose probability is at least ``share`` of the largest; all for 0. The most likely is always there."""
    log_p = logits.log_softmax(-1)
    return log_p >= log_p.max(-1, keepdim=True).values + (math.log(share) if share > 0 else -math.inf)


def _bare_head(model: Any, stream: Float[Tensor, "rows 1 d_model"]) -> Float[Tensor, "rows 1 d_vocab"]:
    """The unembedding, without the family's scale or cap; Granite's scale is in its weights."""
    return model.unembed(stream.to(model.cfg.dtype)).float() / multiplier(model, "logits")


def _bare_last(model: Any, stream: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_vocab"]:
    """The same of the normalised stream."""
    norm = model.decoder_final_ln if is_encoder_decoder(model) else model.ln_final
    return _bare_head(model, norm(stream[:, None]))[:, 0]


def _more_readings(current: Pass) -> AbstractContextManager[None]:
    """In the block, what passes the head is no state of the pass: interventions act on it, and none of it is kept."""
    rows = list(current.step.rows())
    return current.step.copied(rows, [False] * len(rows))
