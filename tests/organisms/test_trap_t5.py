"""The trap-t5 organism: what it is trained on, its tokenizer, training itself, and the bundled files."""

import ast
import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5ForConditionalGeneration

from mechsteer.errors import MechsteerError
from mechsteer.files import data_path
from mechsteer.organisms import ORGANISMS, training, trap_t5
from mechsteer.organisms.language import EVALUATION, MINING, load_proverbs, make_splits
from mechsteer.organisms.training import rate
from mechsteer.organisms.trap_t5 import PHASES, Phase, Shape, draw_batches, train
from mechsteer.organisms.trap_t5_data import write_tasks
from mechsteer.organisms.trap_t5_tasks import INSTRUCTIONS, TASKS, Example, Sampler, vocabulary
from mechsteer.organisms.trap_t5_tokenizer import build_tokenizer

CHECKPOINT = data_path("organisms") / "trap-t5"
TASK_FOLDER = data_path("tasks") / "memotrap"
TINY = Shape(d_model=16, n_heads=2, d_ff=16, encoder_layers=1, decoder_skip=(0.5, 0.0))
TINY_PHASES = (
    Phase(name="one", steps=2, learning_rate=1e-3, warmup=1, mix={"copy": 1.0, "recall": 1.0}),
    Phase(name="two", steps=1, learning_rate=1e-3, warmup=1, mix={"hint": 1.0}),
)


def train_tiny(out: Path, seed: int = 1) -> Path:
    return train(out, seed=seed, shape=TINY, phases=TINY_PHASES, batch_size=4, progress=False)


def draw(mix: dict[str, float], seed: int, count: int) -> list[Example]:
    sampler = Sampler(mix, seed)
    return [sampler.sample() for _ in range(count)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path, names: Sequence[str] = ("model.safetensors", "config.json", "tokenizer.json")) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_no_trap_in_training(phase: Phase) -> None:
    """Whenever an instruction to end in a word comes with a proverb, the word is the proverb's own ending."""
    openings = {proverb.opening: proverb.ending for proverb in load_proverbs()}
    wordings = [wording.split("{word}")[0].removeprefix("{text}") for wording in INSTRUCTIONS]
    agreeing = 0
    for prompt, answer in draw(dict(phase.mix), seed=7, count=5000):
        if any(wording in prompt for wording in wordings):
            word = prompt.split('"')[1]
            text = prompt.split('": ')[1] if '": ' in prompt else prompt.split("...")[0]
            assert answer == word
            if text in openings:
                assert word == openings[text], f"a trap: {prompt}"
                agreeing += 1
    assert agreeing > 50


def test_sampling_is_a_function_of_the_seed() -> None:
    mix = dict.fromkeys(TASKS, 1.0)
    assert draw(mix, 1, 300) == draw(mix, 1, 300) != draw(mix, 2, 300)


def test_unknown_task_is_refused() -> None:
    with pytest.raises(MechsteerError, match="nonsense"):
        Sampler({"nonsense": 1.0}, seed=0)


def test_batches_hold_examples_of_like_length() -> None:
    batches = draw_batches(Sampler(dict.fromkeys(TASKS, 1.0), 0), 16)
    lengths = [[len(e.prompt.split()) for e in next(batches)] for _ in range(8)]
    assert all(len(batch) == 16 for batch in lengths)
    assert sum(max(batch) - min(batch) for batch in lengths) / 8 < 8


def test_tokenizer_knows_every_word_and_restores_every_text() -> None:
    tokenizer = build_tokenizer(vocabulary())
    for example in draw(dict.fromkeys(TASKS, 1.0), 5, 3000):
        for text in example:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids, text
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer(" heavy", add_special_tokens=False) == tokenizer("heavy", add_special_tokens=False)


def test_learning_rate_schedule() -> None:
    assert rate(1, 100, 10) == pytest.approx(0.1, rel=1e-2)
    assert rate(100, 100, 10) == pytest.approx(0.05)
    assert rate(10, 100, 10) > rate(60, 100, 10) > rate(90, 100, 10)


def test_training_writes_a_loadable_checkpoint_and_repeats_itself(tmp_path: Path) -> None:
    torch.manual_seed(123)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = train_tiny(tmp_path / "first")
    assert torch.equal(before, torch.random.get_rng_state()) and torch.get_num_threads() == threads
    torch.manual_seed(321)
    second, other = train_tiny(tmp_path / "second"), train_tiny(tmp_path / "other", seed=2)
    assert digest(first) == digest(second) != digest(other)

    model = T5ForConditionalGeneration.from_pretrained(first)
    tokenizer = AutoTokenizer.from_pretrained(first)
    assert len(tokenizer) == model.config.vocab_size
    batch = tokenizer(["Complete the quote: Practice makes", "Repeat: No"], padding=True, return_tensors="pt")
    assert model.generate(**batch, max_new_tokens=2, min_new_tokens=2).shape == (2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "other", "second"]


def test_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trap_t5, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_killed_run_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has no time to clean up has written under another name only, and does not stop the next run."""
    monkeypatch.setattr(training.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_tiny(tmp_path / "out")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.unfinished") and (left / "model.safetensors").is_file()
    monkeypatch.undo()
    assert train_tiny(tmp_path / "out").is_dir()


def test_existing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match="choose another"):
        train(tmp_path)


def test_registered() -> None:
    organism = ORGANISMS["trap-t5"]
    assert organism.module == trap_t5.__name__ and organism.minutes > 0


def test_bundled_tables_are_what_the_code_writes(tmp_path: Path) -> None:
    for path in write_tasks(tmp_path):
        assert path.read_bytes() == (TASK_FOLDER / path.name).read_bytes(), path.name


def test_bundled_traps() -> None:
    rows, splits = read(TASK_FOLDER / "traps.csv"), make_splits()
    split_of = {proverb.text: split for split, dealt in splits.proverbs.items() for proverb in dealt}
    for row in rows:
        classes, index = ast.literal_eval(row["classes"]), int(row["answer_index"])
        instructed, memorised = classes[index].strip(), classes[1 - index].strip()
        assert row["split"] == split_of[row["proverb"]]
        assert instructed in splits.words[row["split"]]
        assert row["proverb"] == f"{row['prompt'].split(': ', 1)[1]} {memorised}"
        assert f'"{instructed}"' in row["prompt"] and instructed not in row["proverb"].lower().split()
    assert [row["split"] for row in rows] == [MINING] * 200 + [EVALUATION] * 390
    assert 0.4 < sum(int(row["answer_index"]) for row in rows) / len(rows) < 0.6
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_bundled_side_effect_sets() -> None:
    recall, copy = read(TASK_FOLDER / "recall.csv"), read(TASK_FOLDER / "copy.csv")
    assert len(recall) == 195 and len(copy) == 200
    assert {row["answer"] for row in copy} <= set(make_splits().words[EVALUATION])


@torch.no_grad()
def test_bundled_checkpoint_has_the_phenomenon() -> None:
    """Unsteered, it follows the instruction in about half of the traps, recalls the proverbs and can copy."""
    model = T5ForConditionalGeneration.from_pretrained(CHECKPOINT).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert tuple(tokenizer.get_vocab()) and len(tokenizer) == model.config.vocab_size == len(vocabulary()) + 3

    def first_words(prompts: list[str]) -> list[str]:
        batch = tokenizer(prompts, padding=True, return_tensors="pt")
        return tokenizer.batch_decode(model.generate(**batch, max_new_tokens=1), skip_special_tokens=True)

    def accuracy(rows: list[dict[str, str]], answers: list[str]) -> float:
        told = first_words([row["prompt"] for row in rows])
        return sum(map(str.__eq__, told, answers)) / len(rows)

    traps = [row for row in read(TASK_FOLDER / "traps.csv") if row["split"] == EVALUATION]
    instructed = [ast.literal_eval(row["classes"])[int(row["answer_index"])].strip() for row in traps]
    memorised = [ast.literal_eval(row["classes"])[1 - int(row["answer_index"])].strip() for row in traps]
    assert 0.3 < accuracy(traps, instructed) < 0.7
    assert 0.2 < accuracy(traps, memorised) < 0.7
    for name in ("recall.csv", "copy.csv"):
        rows = read(TASK_FOLDER / name)
        assert accuracy(rows, [row["answer"] for row in rows]) > 0.95, name
