"""Every public name has an example in its docstring, and each example runs."""

import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import mechsteer as ms

NAMES = sorted(ms._HOME_OF)
PARSER = doctest.DocTestParser()


def examples(name: str) -> list[doctest.Example]:
    return PARSER.get_examples(getattr(ms, name).__doc__ or "")


@pytest.fixture(scope="module")
def shared_names(instruct_llama: Any, trap_t5: Any) -> dict[str, Any]:
    """What examples take as given, as the reference says."""
    model, instruction = instruct_llama, "Use only uppercase letters."
    texts = [f"Tell me about the {who}." for who in ("writer", "potter", "farmer", "singer", "cook", "guard")]
    prompts = [ms.prompt(model, text, instruction=instruction) for text in texts]
    pairs = [(marked, ms.prompt(model, text)) for marked, text in zip(prompts, texts, strict=True)]
    return {
        "ms": ms,
        "model": model,
        "prompt": prompts[0],
        "prompts": prompts[:2],
        "pairs": pairs,
        "with_it": [marked for marked, _ in pairs],
        "without": [plain for _, plain in pairs],
        "task": ms.task(
            [{"prompt": text, "instruction": instruction} for text in texts[:2]], "uppercase", max_new_tokens=8
        ),
        "direction": ms.difference_in_means(model, pairs, layer=3),
        "t5": trap_t5,
        "traps": ms.tasks.memotrap().mining[:2],
    }


@pytest.fixture
def names(shared_names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The same, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    yield dict(shared_names)
    plt.close("all")


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_runs(name: str, names: dict[str, Any]) -> None:
    found = examples(name)
    assert found, f"ms.{name} has no example"
    for example in found:
        skipped = example.options.get(doctest.SKIP, False)
        code = compile(example.source, f"ms.{name}", "single" if skipped else "exec")
        if not skipped:
            exec(code, names)


def test_only_what_takes_minutes_is_not_run() -> None:
    skipped = {n for n in NAMES for example in examples(n) if example.options.get(doctest.SKIP, False)}
    assert skipped <= {"Diagnosis", "Tuning", "diagnose", "tune"}
