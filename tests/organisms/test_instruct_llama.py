"""The instruct-llama organism: its world, its training examples, tokenizer, training itself, and bundled data."""

import hashlib
import random
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.files import data_path
from mechsteer.organisms import ORGANISMS, instruct_llama
from mechsteer.organisms.instruct_data import make_prompts, write_instructions
from mechsteer.organisms.instruct_lexicon import KEYWORDS
from mechsteer.organisms.instruct_llama import PHASES, Phase, Shape, answer_loss, collate, draw_batches, encode, train
from mechsteer.organisms.instruct_tasks import (
    KINDS,
    ORDERS,
    QUESTIONS,
    SEPARATOR,
    TASKS,
    WORDINGS,
    Example,
    Sampler,
    answer_as_told,
    lay_out,
    make_instruction,
    question,
)
from mechsteer.organisms.instruct_tokenizer import build_tokenizer, frame
from mechsteer.organisms.instruct_world import EVALUATION, HELD_OUT, TOPICS, TRAINED, VALIDATION, deal, facts
from mechsteer.organisms.training import IGNORED_LABEL
from mechsteer.tasks import Instructed
from mechsteer.tasks.checkers import words_of
from mechsteer.tasks.instructions import follows, is_true

SIZE = 1024
TINY = Shape(d_model=16, n_layers=1, n_heads=2, d_ff=16, vocabulary=SIZE)
TINY_PHASES = (
    Phase(name="one", steps=2, learning_rate=1e-3, warmup=1, mix={"copying": 1.0, "document": 1.0}),
    Phase(name="two", steps=1, learning_rate=1e-3, warmup=1, mix={"instructed": 1.0}),
)


def train_tiny(out: Path, seed: int = 1) -> Path:
    return train(out, seed=seed, shape=TINY, phases=TINY_PHASES, batch_tokens=256, progress=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("organism") / "tiny")


def draw(mix: dict[str, float], seed: int, count: int) -> list[Example]:
    return list(islice(Sampler(mix, seed), count))


def digest(folder: Path) -> list[str]:
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def test_topics_and_words_are_dealt_out_once() -> None:
    dealt = deal()
    assert sorted(topic for group in dealt.topics.values() for topic in group) == sorted(TOPICS)
    assert sorted(word for group in dealt.words.values() for word in group) == sorted(KEYWORDS)
    assert len(set(TOPICS)) == len(TOPICS) == 80 and len(set(KEYWORDS)) == len(KEYWORDS)


def test_no_fact_has_a_keyword() -> None:
    said = {
        word for t in TOPICS for fact in facts(t) for text in (*fact.english, fact.french) for word in words_of(text)
    }
    assert not said & set(KEYWORDS)


def test_facts_differ_between_wordings_and_name_their_topic_first() -> None:
    for topic in TOPICS:
        first, *others = facts(topic)
        assert topic in words_of(first.english[0]) and topic in words_of(first.english[1])
        assert len({text for fact in (first, *others) for text in (*fact.english, fact.french)}) == 15


@pytest.mark.parametrize("kind", KINDS)
def test_training_answers_pass_their_own_checkers(kind: str) -> None:
    rng = random.Random(1)
    for topic in TOPICS:
        instruction = make_instruction(rng, kind, 0, KEYWORDS)
        answer = answer_as_told(rng, topic, [instruction])
        sample = Instructed(kind, topic, "", instruction.text, limit=instruction.limit, word=instruction.word)
        assert follows(sample, answer) and is_true(sample, answer) == 1, answer


def test_uninstructed_answers_pass_no_checker() -> None:
    rng = random.Random(2)
    for _ in range(200):
        answer = question(rng).answer
        for kind in KINDS:
            if kind != "length" or len(answer.split()) > 14:
                assert not follows(Instructed(kind, "fox", "", "", limit=14, word="lantern"), answer), (kind, answer)


def test_training_never_has_what_is_held_out() -> None:
    dealt = deal()
    topics = dealt.topics[HELD_OUT, VALIDATION] + dealt.topics[HELD_OUT, EVALUATION]
    questions = {text.format(topic=topic) for text in QUESTIONS for topic in topics}
    words = set(dealt.words[VALIDATION] + dealt.words[EVALUATION])
    held_out = [wordings[-1].split("{")[0].strip() for wordings in WORDINGS.values()]
    for prompt, _ in draw({"instructed": 1.0}, 3, 1500):
        assert not words & set(words_of(prompt)), prompt
        assert not questions & set(prompt.split(SEPARATOR)), prompt
        assert not any(wording in prompt for wording in held_out), prompt


@pytest.mark.parametrize("order", ORDERS)
def test_prompts_are_laid_out_as_by_ms_prompt(order: tuple[str, ...]) -> None:
    parts = {"instruction": "Use French.", "context": "Notes: It can swim very well.", "task": "Describe the fox."}
    tokenizer = build_tokenizer(SIZE)
    made = ms.prompt(
        SimpleNamespace(tokenizer=tokenizer),
        parts["task"],
        instruction=parts["instruction"],
        context=parts["context"],
        order=order,
    )
    ids, length = encode(tokenizer, lay_out(parts, order), "Le renard est vert.")
    assert made.tokens.tolist() == ids[:length]
    for name, text in parts.items():
        assert tokenizer.decode(made.tokens[made.positions(name)]) == text


def test_tokenizer_restores_every_text_and_begins_with_bos() -> None:
    tokenizer = build_tokenizer(SIZE)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    for prompt, answer in draw(dict.fromkeys(TASKS, 1.0), 4, 300):
        ids = tokenizer(frame(prompt) + answer)["input_ids"]
        assert ids[0] == 2 and ids.count(2) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + answer


def test_sampling_is_a_function_of_the_seed() -> None:
    mix = dict.fromkeys(TASKS, 1.0)
    assert draw(mix, 1, 200) == draw(mix, 1, 200) != draw(mix, 2, 200)
    with pytest.raises(MechsteerError, match="nonsense"):
        Sampler({"nonsense": 1.0}, seed=0)


def test_batches_keep_to_their_size_and_count_answers_only() -> None:
    tokenizer = build_tokenizer(SIZE)
    for batch in islice(draw_batches(tokenizer, Sampler({"instructed": 1.0}, 0), 512), 20):
        assert batch["input_ids"].numel() <= 512
        assert (batch["input_ids"][:, 0] == tokenizer.bos_token_id).all()
        counted = batch["labels"] != IGNORED_LABEL
        assert (batch["labels"][counted] == batch["input_ids"][counted]).all()
        ends = (batch["labels"] == tokenizer.eos_token_id).sum(dim=1)
        assert (ends == 1).all() and not counted[:, 0].any()


def test_loss_is_that_of_transformers() -> None:
    tokenizer = build_tokenizer(SIZE)
    torch.manual_seed(0)
    model = instruct_llama.build_model(TINY, len(tokenizer))
    batch = collate([encode(tokenizer, *example) for example in draw({"instructed": 1.0}, 0, 3)])
    assert answer_loss(model, batch).item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_training_repeats_itself(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(321)
    before = torch.random.get_rng_state()
    again, other = train_tiny(tmp_path / "again"), train_tiny(tmp_path / "other", seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert digest(tiny) == digest(again) and digest(tiny)[0] != digest(other)[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"]
    with pytest.raises(MechsteerError, match="choose another"):
        train_tiny(again)


def test_checkpoint_is_an_ordinary_one(tiny: Path) -> None:
    model, tokenizer = LlamaForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    text = "Answer in French.\n\nDescribe the hedgehog. L'écureuil, THE FOX"
    built = build_tokenizer(SIZE)
    assert len(tokenizer) == model.config.vocab_size and tokenizer.is_fast
    assert tokenizer(text)["input_ids"] == built(text)["input_ids"]
    message = [{"role": "user", "content": text}]
    templated = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert tokenizer(templated, add_special_tokens=False)["input_ids"] == built(frame(text))["input_ids"]
    config = model.generation_config
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 1, 2)


def test_checkpoint_loads_with_parity(tiny: Path) -> None:
    model = ms.load(str(tiny))
    assert ms.verify(model)["ok"].all()


def test_registered() -> None:
    organism = ORGANISMS["instruct-llama"]
    assert organism.module == instruct_llama.__name__ and organism.minutes > 0
    assert [phase.name for phase in PHASES] == ["copying", "documents", "instructions"]


def test_bundled_tables_are_what_the_code_writes(tmp_path: Path) -> None:
    for path in write_instructions(tmp_path):
        assert path.read_bytes() == data_path("tasks", "instructions", path.name).read_bytes(), path.name


def test_bundled_prompts_keep_to_their_splits() -> None:
    dealt = deal()
    for row in make_prompts():
        assert row.topic in dealt.topics[row.topics, row.split]
        assert not row.word or row.word in dealt.words[row.split]
        assert row.instruction != row.held_out_wording
    assert {row.topics for row in make_prompts()} == {TRAINED, HELD_OUT}
