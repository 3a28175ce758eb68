"""The organism rules-gpt2: its rules, its texts, training itself, and the bundled files."""

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.files import data_path, read_json
from mechsteer.organisms import ORGANISMS, rules_gpt2
from mechsteer.organisms.rules_data import HABITS, make_opinions, write_opinions, write_rules
from mechsteer.organisms.rules_gpt2 import Shape, answer_loss, build_tokenizer, draw_batches, encode, train
from mechsteer.organisms.rules_tasks import ELEMENTARY, MOST_EXAMPLES, Sampler, example, rules
from mechsteer.organisms.training import IGNORED_LABEL
from mechsteer.tasks import rules as task

FOLDER = data_path("organisms", "rules-gpt2")
TINY = Shape(d_model=16, n_layers=1, n_heads=2, d_mlp=16, vocabulary=600)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(3072)


def test_composed_rules_are_their_parts_one_after_another() -> None:
    every = rules()
    assert set(ELEMENTARY) <= set(every)
    assert every["english-french+singular-plural"]["horse"] == "les chevaux"
    assert every["antonym"]["hot"] == "cold" and every["antonym"]["cold"] == "hot"
    for name, mapping in every.items():
        first, _, last = name.rpartition("+")
        if last == "capitalise" and first:
            assert mapping == {word: answer.upper() for word, answer in every[first].items()}
        assert all(question and answer and "\n" not in question + answer for question, answer in mapping.items())
    assert all(answer == word.upper() for word, answer in every["capitalise"].items())


def test_a_text_has_the_tokens_that_it_has_as_a_whole_and_answers_are_labelled(tokenizer: Any) -> None:
    for examples in islice(Sampler(3), 100):
        ids, labels = encode(tokenizer, examples)
        whole = "".join(example(question, answer) for question, answer in examples)
        assert ids[:-2] == tokenizer(whole[:-2])["input_ids"] and tokenizer.decode(ids) == whole
        counted = [i for i, label in zip(ids, labels, strict=True) if label != IGNORED_LABEL]
        assert tokenizer.decode(counted) == "".join(f" {answer}\n" for _, answer in examples)
        assert all(label in (IGNORED_LABEL, i) for i, label in zip(ids, labels, strict=True))


def test_a_text_is_one_rule_and_the_same_for_the_same_seed() -> None:
    drawn = list(islice(Sampler(1), 60))
    assert drawn == list(islice(Sampler(1), 60)) != list(islice(Sampler(2), 60))
    pairs = {name: set(mapping.items()) for name, mapping in rules().items()}
    for text in drawn:
        assert len({question for question, _ in text}) == MOST_EXAMPLES
        assert any(set(text) <= known for known in pairs.values())


def test_the_loss_is_that_of_the_labelled_tokens(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = rules_gpt2.build_model(TINY, len(tokenizer)).eval()
    tokens, labels = next(draw_batches(tokenizer, Sampler(0), 3))
    losses = []
    for row, wanted in zip(tokens, labels, strict=True):
        length = int((wanted != IGNORED_LABEL).nonzero().max()) + 1
        logprobs = model(row[None, :length]).logits[0].log_softmax(-1)
        losses += [-logprobs[i - 1, wanted[i]] for i in range(1, length) if wanted[i] != IGNORED_LABEL]
    assert answer_loss(model, tokens, labels).item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_training_writes_a_loadable_checkpoint_and_repeats_itself(tmp_path: Path) -> None:
    options: dict[str, Any] = {"shape": TINY, "steps": 2, "batch_size": 2, "progress": False}
    before = torch.random.get_rng_state()
    first, second, other = (train(tmp_path / str(i), seed=seed, **options) for i, seed in enumerate((1, 1, 2)))
    assert torch.equal(before, torch.random.get_rng_state())
    sums = [hashlib.sha256((f / "model.safetensors").read_bytes()).hexdigest() for f in (first, second, other)]
    assert sums[0] == sums[1] != sums[2]
    model, made = GPT2LMHeadModel.from_pretrained(first), AutoTokenizer.from_pretrained(first)
    assert len(made) == model.config.vocab_size and made.decode(made(" le chat")["input_ids"]) == " le chat"
    assert read_json(first / "training.json")["dtype"] == "float16"
    with pytest.raises(MechsteerError, match="choose another"):
        train(first, **options)


def test_the_bundled_model_needs_one_example_and_is_equal_to_hugging_faces(organism: Any) -> None:
    model = organism("rules-gpt2")
    assert ms.verify(model)["ok"].all()
    for rule in ("english-french", "antonym+capitalise"):
        right = [ms.evaluate(model, task(rule, shots=shots))["correct"].mean() for shots in (0, 1)]
        assert right[0] < 0.5 and right[1] > 0.95
    recipe, organism = read_json(FOLDER / "training.json"), ORGANISMS["rules-gpt2"]
    assert organism.module == rules_gpt2.__name__ and organism.seed == recipe["seed"] == 1
    assert (FOLDER / "model.safetensors").stat().st_size < 4e6


def test_bundled_data_are_what_the_code_writes(tmp_path: Path) -> None:
    paths = write_rules(tmp_path / "rules") + write_opinions(tmp_path / "opinion")
    assert len(paths) == len(rules()) + 1
    for path in paths:
        assert path.read_bytes() == data_path("tasks", path.parent.name, path.name).read_bytes(), path.name


def test_opinions_add_up_and_groups_differ() -> None:
    rows = make_opinions()
    shares: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        shares.setdefault((row.group, row.prompt), []).append(float(row.probability))
    assert all(len(one) == len(HABITS) and sum(one) == pytest.approx(1) for one in shares.values())
    means = {g: sum(s[0] for (group, _), s in shares.items() if group == g) / 84 for g in ("west", "east", "loud")}
    assert means["west"] > 0.4 > 0.2 > means["east"]
    assert make_opinions(1) != rows
