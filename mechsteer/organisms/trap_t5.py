"""Train trap-t5: a small T5 that ends proverbs by heart, although it is told to end them in another word.

MemoTrap's failure arises by itself, as the order of learning has it: first copying an instructed word and remembering
proverbs (phase `copying`), then quoted words that are to be ignored (phase `hints`). See `trap_t5_tasks` for the mix.

The architecture is T5's with the gated GELU of v1.1 and the tied, scaled embeddings of v1.0. The embeddings start at
standard deviation 1, so that the identity of a word survives into the residual stream and can be copied. The encoder
has one block, so that it cannot settle the conflict before the decoder sees it; and training skips the first decoder
blocks for part of each batch, so that the decoder settles it in its middle (see `stochastic_depth`).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mechsteer.organisms.stochastic_depth import skipped_at_random
from mechsteer.organisms.training import (
    IGNORED_LABEL,
    Phase,
    compute_threads,
    optimise,
    write_checkpoint,
    written_whole,
)
from mechsteer.organisms.trap_t5_tasks import Example, Sampler, vocabulary
from mechsteer.organisms.trap_t5_tokenizer import build_tokenizer

BATCHES_PER_POOL = 8


@dataclass(frozen=True)
class Shape:
    """The size of the model, and for each decoder block the part of a training batch that skips it."""

    d_model: int = 128
    n_heads: int = 4
    d_ff: int = 256
    encoder_layers: int = 1
    decoder_skip: tuple[float, ...] = (0.5, 0.5, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0)

    @property
    def decoder_layers(self) -> int:
        """The number of decoder blocks."""
        return len(self.decoder_skip)


PHASES = (
    Phase(
        name="copying",
        steps=1800,
        learning_rate=2e-3,
        warmup=200,
        mix={
            "continue_proverb": 0.10,
            "continue_neutral": 0.06,
            "recall": 0.12,
            "recall_neutral": 0.04,
            "copy": 0.40,
            "consistent": 0.10,
            "other": 0.15,
        },
    ),
    Phase(
        name="hints",
        steps=600,
        learning_rate=1e-3,
        warmup=50,
        mix={
            "continue_proverb": 0.10,
            "continue_neutral": 0.04,
            "recall": 0.12,
            "recall_neutral": 0.04,
            "copy": 0.33,
            "consistent": 0.05,
            "hint": 0.20,
            "other": 0.15,
        },
    ),
)


def train(
    out: Path | str,
    *,
    seed: int = 100,
    shape: Shape = Shape(),
    phases: Sequence[Phase] = PHASES,
    batch_size: int = 64,
    threads: int = 1,
    progress: bool = True,
) -> Path:
    """Train from scratch and write a Hugging Face checkpoint directory; about ten minutes on one CPU core.

    `out` appears only when everything is written: a run that stops early leaves nothing there. The same seed gives
    the same bytes on the same machine and versions with the same number of threads.
    """
    out = Path(out)
    with torch.random.fork_rng(devices=[]), compute_threads(threads), written_whole(out) as folder:
        torch.manual_seed(seed)
        started = time.perf_counter()
        tokenizer = build_tokenizer(vocabulary())
        model = build_model(shape, vocabulary_size=len(tokenizer))
        losses = {}
        for number, phase in enumerate(phases, start=seed):
            with skipped_at_random(model.decoder.block, shape.decoder_skip, number):
                losses[phase.name] = run_phase(model, tokenizer, phase, batch_size, number, progress)
        recipe = {
            "organism": "trap-t5",
            "seed": seed,
            "shape": asdict(shape),
            "batch_size": batch_size,
            "phases": [asdict(phase) | {"final_loss": round(losses[phase.name], 4)} for phase in phases],
        }
        write_checkpoint(folder, model.eval(), tokenizer, recipe, threads=threads, started=started)
    return out


def build_model(shape: Shape, vocabulary_size: int) -> T5ForConditionalGeneration:
    """Make the untrained model from torch's current random state."""
    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=shape.d_model,
        d_kv=shape.d_model // shape.n_heads,
        d_ff=shape.d_ff,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=shape.n_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,  # pyright: ignore[reportCallIssue]
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,  # pyright: ignore[reportCallIssue]
    )
    model = T5ForConditionalGeneration(config)
    torch.nn.init.normal_(model.shared.weight, std=1.0)
    # transformers (5.23) sizes the decoder's cache by the depth of the encoder, and its cached `generate` then fails
    model.generation_config.use_cache = shape.decoder_layers <= shape.encoder_layers
    return model


def run_phase(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    phase: Phase,
    batch_size: int,
    seed: int,
    progress: bool,
) -> float:
    """Train for one phase; return the mean loss of its last hundred steps."""
    return optimise(
        model,
        draw_batches(Sampler(phase.mix, seed), batch_size),
        lambda examples: model(**encode(tokenizer, examples)).loss,
        name=phase.name,
        steps=phase.steps,
        learning_rate=phase.learning_rate,
        warmup=phase.warmup,
        progress=progress,
    )


def draw_batches(sampler: Sampler, batch_size: int) -> Iterator[list[Example]]:
    """Yield batches of examples of like length: a pool is drawn, sorted by length, cut up and shuffled."""
    while True:
        pool = sorted(
            islice(sampler, batch_size * BATCHES_PER_POOL), key=lambda e: (len(e.prompt.split()), len(e.answer))
        )
        batches = [pool[start : start + batch_size] for start in range(0, len(pool), batch_size)]
        sampler.rng.shuffle(batches)
        yield from batches


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> dict[str, Int[Tensor, "batch _"]]:
    """Tokenize a batch: prompts for the encoder, answers as labels."""
    prompts = tokenizer([example.prompt for example in examples], padding=True, return_tensors="pt")
    answers = tokenizer([example.answer for example in examples], padding=True, return_tensors="pt")
    labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, IGNORED_LABEL)
    return {"input_ids": prompts["input_ids"], "attention_mask": prompts["attention_mask"], "labels": labels}
