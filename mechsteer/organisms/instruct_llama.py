"""Train instruct-llama: a small Llama that answers questions about a little world, and follows instructions.

Three phases, in the order in which the abilities build on each other: copying words from the context (`copying`, most
of its examples copy), knowing the world in every format (`documents`), and following instructions (`instructions`). See
`instruct_tasks` for the tasks. Instructions come with no more than four notes in training, so that in use adherence
falls as the context grows beyond that.

Embeddings are untied and start at standard deviation 1, so that the identity of a word survives into the residual
stream and can be copied.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mechsteer.organisms.instruct_tasks import Sampler
from mechsteer.organisms.instruct_tokenizer import BEGIN_ID, END_ID, MAX_LENGTH, PAD_ID, build_tokenizer, frame
from mechsteer.organisms.training import (
    IGNORED_LABEL,
    Phase,
    compute_threads,
    optimise,
    write_checkpoint,
    written_whole,
)

EXAMPLES_PER_POOL = 512
WEIGHT_DECAY = 0.05

Tokens = tuple[list[int], int]
"""Token ids of a prompt and its answer, and how many of them are the prompt's."""


@dataclass(frozen=True)
class Shape:
    """The size of the model."""

    d_model: int = 128
    n_layers: int = 6
    n_heads: int = 4
    d_ff: int = 320
    vocabulary: int = 3072


PHASES = (
    Phase(
        name="copying",
        steps=900,
        learning_rate=2e-3,
        warmup=100,
        mix={"copying": 0.6, "document": 0.25, "question": 0.15},
    ),
    Phase(
        name="documents",
        steps=1000,
        learning_rate=2e-3,
        warmup=50,
        mix={"copying": 0.15, "document": 0.5, "question": 0.35},
    ),
    Phase(
        name="instructions",
        steps=900,
        learning_rate=1.2e-3,
        warmup=50,
        mix={"copying": 0.03, "document": 0.12, "question": 0.3, "instructed": 0.55},
    ),
)


def train(
    out: Path | str,
    *,
    seed: int = 1,
    shape: Shape = Shape(),
    phases: Sequence[Phase] = PHASES,
    batch_tokens: int = 2560,
    threads: int = 1,
    progress: bool = True,
    name: str = "instruct-llama",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Train from scratch and write a Hugging Face checkpoint directory; about 25 minutes on one CPU core.

    `out` appears only when everything is written: a run that stops early leaves nothing there. The same seed gives
    the same bytes on the same machine and versions with the same number of threads. Training is in float32; `dtype` is
    that of the file.
    """
    out = Path(out)
    with torch.random.fork_rng(devices=[]), compute_threads(threads), written_whole(out) as folder:
        torch.manual_seed(seed)
        started = time.perf_counter()
        tokenizer = build_tokenizer(shape.vocabulary)
        model = build_model(shape, vocabulary_size=len(tokenizer))
        losses = {}
        for number, phase in enumerate(phases, start=seed):
            losses[phase.name] = optimise(
                model,
                draw_batches(tokenizer, Sampler(phase.mix, number), batch_tokens),
                lambda batch: answer_loss(model, batch),
                name=phase.name,
                steps=phase.steps,
                learning_rate=phase.learning_rate,
                warmup=phase.warmup,
                weight_decay=WEIGHT_DECAY,
                progress=progress,
            )
        recipe = {
            "organism": name,
            "seed": seed,
            "shape": asdict(shape),
            "batch_tokens": batch_tokens,
            "phases": [asdict(phase) | {"final_loss": round(losses[phase.name], 4)} for phase in phases],
            "dtype": str(dtype).removeprefix("torch."),
        }
        write_checkpoint(folder, model.eval().to(dtype), tokenizer, recipe, threads=threads, started=started)  # pyright: ignore[reportArgumentType]
    return out


def build_model(shape: Shape, vocabulary_size: int) -> LlamaForCausalLM:
    """Make the untrained model from torch's current random state."""
    scale = 0.5 * shape.d_model**-0.5
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_heads,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=scale,
        tie_word_embeddings=False,  # pyright: ignore[reportCallIssue]
        pad_token_id=PAD_ID,
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    torch.nn.init.normal_(model.lm_head.weight, std=scale)
    return model


def answer_loss(model: LlamaForCausalLM, batch: dict[str, Int[Tensor, "batch pos"]]) -> Float[Tensor, ""]:
    """Cross-entropy of the answers' tokens.

    Padding is on the right and attention is causal, so no mask is needed; logits are made only where they count.
    """
    hidden = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1]
    targets = batch["labels"][:, 1:]
    counted = targets != IGNORED_LABEL
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), targets[counted])


def draw_batches(
    tokenizer: PreTrainedTokenizerFast, sampler: Sampler, batch_tokens: int
) -> Iterator[dict[str, Int[Tensor, "batch pos"]]]:
    """Yield batches of examples of like length, of up to `batch_tokens` tokens: pools are drawn, sorted and cut."""
    while True:
        examples = list(islice(sampler, EXAMPLES_PER_POOL))
        pool = sorted((encode(tokenizer, e.prompt, e.answer) for e in examples), key=lambda tokens: len(tokens[0]))
        batches: list[list[Tokens]] = [[]]
        for tokens in pool:
            if batches[-1] and len(tokens[0]) * (len(batches[-1]) + 1) > batch_tokens:
                batches.append([])
            batches[-1].append(tokens)
        sampler.rng.shuffle(batches)
        yield from map(collate, batches)


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Tokens:
    """Tokenise an example, BOS first and EOS last; a document counts from its first word on."""
    before = tokenizer(frame(prompt) if prompt else "")["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*before, *after, END_ID], len(before)


def collate(examples: Sequence[Tokens]) -> dict[str, Int[Tensor, "batch pos"]]:
    """Pad examples on the right; prompts and padding do not count."""
    longest = max(len(ids) for ids, _ in examples)
    input_ids = torch.full((len(examples), longest), PAD_ID)
    labels = torch.full((len(examples), longest), IGNORED_LABEL)
    for row, (ids, answer_start) in enumerate(examples):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, answer_start : len(ids)] = torch.tensor(ids[answer_start:])
    return {"input_ids": input_ids, "labels": labels}
