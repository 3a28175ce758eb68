"""Train rules-gpt2: a small GPT-2 that finds a rule from examples in its context and applies it to another word.

It knows eight rules and their compositions (see `rules_tasks`). Without examples nothing says which rule is meant, so
that it answers by one of them; a vector that makes it follow a rule without examples is the rule's.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mechsteer.organisms.rules_tasks import Sampler, example, rules
from mechsteer.organisms.training import IGNORED_LABEL, compute_threads, optimise, write_checkpoint, written_whole

PAD, END = "<|pad|>", "<|end|>"
MAX_LENGTH = 256


@dataclass(frozen=True)
class Shape:
    """The size of the model."""

    d_model: int = 128
    n_layers: int = 6
    n_heads: int = 8
    d_mlp: int = 256
    vocabulary: int = 3072


def train(
    out: Path | str,
    *,
    seed: int = 1,
    shape: Shape = Shape(),
    steps: int = 2500,
    batch_size: int = 24,
    learning_rate: float = 2e-3,
    warmup: int = 100,
    threads: int = 1,
    progress: bool = True,
) -> Path:
    """Train from scratch and write a Hugging Face checkpoint directory; about ten minutes on one CPU core.

    `out` appears only when everything is written: a run that stops early leaves nothing there. The same seed gives
    the same bytes on the same machine and versions with the same number of threads. The file is in float16.
    """
    out = Path(out)
    with torch.random.fork_rng(devices=[]), compute_threads(threads), written_whole(out) as folder:
        torch.manual_seed(seed)
        started = time.perf_counter()
        tokenizer = build_tokenizer(shape.vocabulary)
        model = build_model(shape, vocabulary_size=len(tokenizer))
        loss = optimise(
            model,
            draw_batches(tokenizer, Sampler(seed), batch_size),
            lambda batch: answer_loss(model, *batch),
            name="rules",
            steps=steps,
            learning_rate=learning_rate,
            warmup=warmup,
            progress=progress,
        )
        recipe = {
            "organism": "rules-gpt2",
            "seed": seed,
            "shape": asdict(shape),
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "warmup": warmup,
            "final_loss": round(loss, 4),
            "dtype": "float16",
        }
        write_checkpoint(folder, model.eval().half(), tokenizer, recipe, threads=threads, started=started)
    return out


def build_model(shape: Shape, vocabulary_size: int) -> GPT2LMHeadModel:
    """Make the untrained model from torch's current random state."""
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=MAX_LENGTH,
        n_embd=shape.d_model,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_inner=shape.d_mlp,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.5 * shape.d_model**-0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return GPT2LMHeadModel(config)


def build_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer of at most `size` entries on every question and answer."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_trained(size),
        pad_token=PAD,
        eos_token=END,
        bos_token=END,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


@cache
def _trained(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [example(q, a) for mapping in rules().values() for q, a in mapping.items()]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def draw_batches(
    tokenizer: PreTrainedTokenizerFast, sampler: Sampler, batch_size: int
) -> Iterator[tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]]:
    """Yield tokens and labels; the labels are the answers' tokens and the line break that ends each."""
    texts = iter(sampler)
    while True:
        encoded = [encode(tokenizer, examples) for examples in islice(texts, batch_size)]
        longest = max(len(ids) for ids, _ in encoded)
        tokens = torch.zeros((batch_size, longest), dtype=torch.long)
        labels = torch.full_like(tokens, IGNORED_LABEL)
        for row, (ids, answers) in enumerate(encoded):
            tokens[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids)] = torch.tensor(answers)
        yield tokens, labels


def encode(tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """The tokens of a text, as if it were tokenised whole, and its labels: each answer and the line break after it."""
    (line_break,) = tokenizer("\n")["input_ids"]
    ids: list[int] = []
    labels: list[int] = []
    for question, answer in examples:
        before = tokenizer(f"Q: {question}\nA:")["input_ids"]
        after = [*tokenizer(f" {answer}")["input_ids"], line_break]
        ids += [*before, *after, line_break]
        labels += [*[IGNORED_LABEL] * len(before), *after, IGNORED_LABEL]
    return ids, labels


def answer_loss(
    model: GPT2LMHeadModel, tokens: Int[Tensor, "batch pos"], labels: Int[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the answers. Padding is on the right and attention is causal, so no mask is needed."""
    seen = torch.ones_like(tokens)
    hidden = model.transformer(input_ids=tokens, attention_mask=seen, use_cache=False).last_hidden_state[:, :-1]
    counted = labels[:, 1:] != IGNORED_LABEL
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), labels[:, 1:][counted])
