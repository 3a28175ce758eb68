"""Tiny models whose weights are set by hand, so that it is known why they ignore an instruction.

GPT-2's architecture, two layers. A prompt asks about one of twenty things, ``q7``; the answer is ``a7``, or ``A7``
where the instruction ``reply loudly please now`` was read. In layer 0

- head 0 attends to the thing that is asked about, and copies which one it is;
- head 1 attends to ``loudly`` and writes "loud"; ``softly`` is attended to alike, and takes loudness away;

and the read-out says ``A`` instead of ``a`` where loudness, times a strength, is above a habit. Layer 1 adds noise.
Every feature has a pair of dimensions with opposite signs, so that LayerNorm subtracts nothing.
"""

import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

THINGS = 20
INSTRUCTION = "reply loudly please now"
FILLER = [f"f{i}" for i in range(24)]
WORDS = [
    *INSTRUCTION.split(),
    "softly",
    "speak",
    "about",
    "?",
    "<|im_start|>",
    "<|im_end|>",
    "user",
    "assistant",
    *FILLER,
]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
ASKED = [f"q{i}" for i in range(THINGS)]
ANSWERS = [f"a{i}" for i in range(THINGS)] + [f"A{i}" for i in range(THINGS)]
VOCAB = [*SPECIAL, *WORDS, *ASKED, *ANSWERS]
CHAT = (
    "{% for m in messages %}<|im_start|>user {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
OTHER_CHAT = "{% for m in messages %}user {{ m['content'] }} {% endfor %}"
"""A template that the model was not made for, though the tokenizer has the marks of the right one."""
WIDTH, HEADS, CONTEXT = 128, 2, 96
FEATURES = ["any", "span", "loudly", "softly", "role", "answer", "cos", "sin", "loud", "distract", "noise"]
FEATURES += [f"{kind}{i}" for kind in ("asked", "content") for i in range(THINGS)]


@dataclass(frozen=True)
class Plant:
    """A cause, in a model's weights and in its prompts.

    Attributes:
        cause: Its name, as ``diagnose`` should say it.
        score: Head 1's score of ``loudly`` and ``softly``, beside other words.
        loud: Nats that full loudness adds to ``A``.
        soft: How much of that ``softly`` takes away.
        habit: Nats that ``a`` has before.
        recency: How much more head 1 attends to a near key than to a far one, nats over the context.
        block: Taken from all heads' scores of the instruction's words.
        role: Whether head 1 reads nothing unless the template's ``assistant`` stands at the end.
        words: Words of context between instruction and task.
        opposed: Whether the task says ``softly``.
        chat: The tokenizer's template.
        templated: Whether the prompts have it.
        lost: Whether the prompts were cut by hand, from the left.
    """

    cause: str
    score: float = 7.0
    loud: float = 12.0
    soft: float = 0.0
    habit: float = 5.0
    recency: float = 0.0
    block: float = 0.0
    role: bool = False
    words: int = 8
    opposed: bool = False
    chat: str = ""
    templated: bool = False
    lost: bool = False


PLANTS = {
    plant.cause: plant
    for plant in (
        Plant("never attended", block=60.0),
        Plant("attended but outweighed", words=0, opposed=True, soft=1.2, habit=3.0),
        Plant("lost by distance", recency=18.0, words=40),
        Plant("truncated away", words=110),
        Plant("wrong template", role=True, chat=CHAT),
        Plant("incapable when instructed", loud=0.0),
        Plant("nothing to fix"),
    )
}


def varied(plant: Plant, seed: int) -> Plant:
    """The plant with numbers that differ by seed."""
    rng = random.Random(seed)
    changed: dict[str, Any] = {
        "habit": plant.habit * rng.uniform(0.9, 1.1),
        "score": plant.score * rng.uniform(0.95, 1.1),
    }
    changed["words"] = plant.words + (rng.randrange(4) if plant.words else 0)
    if plant.cause == "truncated away" and seed % 2:
        changed |= {"lost": True, "words": 12}
    if plant.cause == "wrong template" and seed % 2:
        changed |= {"chat": OTHER_CHAT, "templated": True}
    return replace(plant, **changed)


@dataclass
class Weights:
    """A GPT-2 of zeros, and features to write into it."""

    model: Any
    place: dict[str, int] = field(default_factory=lambda: {name: i for i, name in enumerate(FEATURES)})

    def vector(self, name: str, size: float = 1.0) -> torch.Tensor:
        """A feature in the residual stream."""
        made = torch.zeros(WIDTH)
        made[2 * self.place[name]], made[2 * self.place[name] + 1] = size, -size
        return made

    def reader(self, name: str, size: float = 1.0) -> torch.Tensor:
        """What reads a feature: 1 for its unit."""
        return self.vector(name, size / 2)


def made_model(plant: Plant, seed: int) -> Any:
    """The Hugging Face model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(VOCAB), n_embd=WIDTH, n_head=HEADS, n_layer=2, n_positions=CONTEXT, n_inner=8,
        tie_word_embeddings=False, bos_token_id=3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("ln_" in name and name.endswith("weight")))
        weights = Weights(model)
        _embed(weights, generator)
        _read_out(weights, plant, generator)
        _attend(weights, plant, generator)
    return model


def _embed(weights: Weights, generator: torch.Generator) -> None:
    table = weights.model.transformer.wte.weight
    for i, word in enumerate(VOCAB):
        table[i] = weights.vector("any")
        named = {"loudly": "loudly", "softly": "softly", "assistant": "role"}.get(word)
        if word in ASKED:
            named = f"asked{word[1:]}"
        if word in ANSWERS:
            named = "answer"
        if named:
            table[i] += weights.vector(named)
        if word in INSTRUCTION.split():
            table[i] += weights.vector("span")
        if word in FILLER:
            table[i] += weights.vector("distract", float(torch.rand((), generator=generator)))
            table[i] += weights.vector("noise", float(torch.randn((), generator=generator)))
    for position in range(CONTEXT):
        angle = math.pi * position / CONTEXT
        weights.model.transformer.wpe.weight[position] = weights.vector("cos", math.cos(angle)) + weights.vector(
            "sin", math.sin(angle)
        )


SCALE = math.sqrt(WIDTH / 8)
"""About what LayerNorm multiplies features by: four features of a token, two dimensions each."""


def _read_out(weights: Weights, plant: Plant, generator: torch.Generator) -> None:
    """Logits: which thing, loud or habit, and the end after an answer."""
    head, size = weights.model.lm_head.weight, 1 / SCALE
    for i in range(THINGS):
        soft, loud = VOCAB.index(f"a{i}"), VOCAB.index(f"A{i}")
        habit = plant.habit * (1 + 0.1 * float(torch.randn((), generator=generator)))
        head[soft] = weights.reader(f"content{i}", 20 * size) + weights.reader("any", habit * size)
        head[loud] = weights.reader(f"content{i}", 20 * size) + weights.reader("loud", plant.loud * size)
    head[VOCAB.index("</s>")] = weights.reader("answer", 60 * size)


def _attend(weights: Weights, plant: Plant, generator: torch.Generator) -> None:
    blocks, size = weights.model.transformer.h, WIDTH // HEADS
    for block in blocks:  # c_attn is [width, 3 width]: queries, keys, values
        for head in range(HEADS):
            _score(weights, block, head, 0, "any", "span", -plant.block)
    first = blocks[0].attn
    for i in range(THINGS):
        _score(weights, blocks[0], 0, 1, "any", f"asked{i}", 30.0)
        first.c_attn.weight[:, 2 * WIDTH + i] += weights.reader(f"asked{i}") / SCALE
        first.c_proj.weight[i] += weights.vector(f"content{i}")
    query = "role" if plant.role else "any"
    for place, word in ((1, "loudly"), (2, "softly")):
        _score(weights, blocks[0], 1, place, query, word, plant.score)
    _score(weights, blocks[0], 1, 3, "any", "cos", -plant.recency / 2)
    _score(weights, blocks[0], 1, 4, "any", "distract", 0.5)
    value = 2 * WIDTH + size
    first.c_attn.weight[:, value] += (weights.reader("loudly") - weights.reader("softly", plant.soft)) / SCALE
    first.c_proj.weight[size] += weights.vector("loud")
    noise = blocks[1].attn
    noise.c_attn.weight[:, 2 * WIDTH] += weights.reader("noise") / SCALE
    noise.c_proj.weight[0] += 0.1 * torch.randn(WIDTH, generator=generator)


def _score(weights: Weights, block: Any, head: int, place: int, query: str, key: str, nats: float) -> None:
    """A head's score of a key feature for a query feature; each pair has a place of its own in the head."""
    size = WIDTH // HEADS
    column = head * size + place
    table = block.attn.c_attn.weight
    table[:, column] = weights.reader(query) / SCALE * math.sqrt(size)
    table[:, WIDTH + column] += weights.reader(key, nats) / SCALE


def tokenizer(chat: str) -> Any:
    """Words with offsets; ``<s>`` goes before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCAB)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    if chat:
        made.chat_template = chat
    return made


def write_plant(plant: Plant, directory: Path, seed: int) -> Path:
    """A checkpoint directory."""
    made_model(plant, seed).save_pretrained(directory)
    tokenizer(plant.chat).save_pretrained(directory)
    return directory


def planted_task(model: Any, plant: Plant, seed: int, n: int = 20) -> Any:
    """The task: twenty prompts of a model of that plant."""
    import mechsteer as ms

    rng = random.Random(seed)
    samples: list[Any] = []
    for asked in rng.sample(ASKED, n):
        text = f"speak {'softly ' if plant.opposed else ''}about {asked} ?"
        context = " ".join(rng.choices(FILLER, k=plant.words))
        if plant.lost:
            made = ms.prompt(model, text, context=context)
            samples.append({"prompt": made, "instruction": INSTRUCTION})
        elif plant.chat and not plant.templated:
            samples.append({"prompt": ms.prompt(model, text, instruction=INSTRUCTION, context=context, chat=False)})
        else:
            samples.append({"prompt": text, "instruction": INSTRUCTION, "context": context})
    return ms.task(samples, "uppercase", name=f"planted {seed}", max_new_tokens=4)
