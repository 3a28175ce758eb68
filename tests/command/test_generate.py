"""``mechsteer generate``: what its options steer with is what the library's functions do."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.command.generate import DEFAULTS, with_numbers
from tests.command_line import CommandLine

TEXT = "Tell me about the writer."
INSTRUCTION = "Use only uppercase letters."
NEW = 5


@pytest.fixture
def generated(mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch, instruct_llama: Any) -> Callable[..., str]:
    """A function that runs ``mechsteer generate`` on one model and returns the answer, or the error's line."""
    monkeypatch.setattr("mechsteer.models.load", lambda name, **_: instruct_llama)

    def run(*arguments: object) -> str:
        code, out, err = mechsteer("generate", *arguments, "--max-new-tokens", NEW)
        assert code == (2 if err else 0) and bool(out) != bool(err)
        return out.removesuffix("\n") or err

    return run


def expected(model: Any, prompt: Any, **options: Any) -> str:
    return ms.generate(model, prompt, max_new_tokens=NEW, **options).texts[0]


METHODS = {
    "--guide": lambda *number: {"steer": ms.attention_bias("instruction", *number)},
    "--pasta": lambda *number: {"steer": ms.pasta("instruction", *number)},
    "--spotlight": lambda *number: {"steer": ms.spotlight("instruction", *number)},
    "--scale-keys": lambda *number: {"steer": ms.scale_keys("instruction", *number)},
    "--directer": lambda *number: {"strategy": ms.Directer(**dict(zip(["beta"], number, strict=False)))},
}


@pytest.mark.parametrize("option", METHODS)
def test_a_method_with_its_number_and_without(option: str, generated: Callable[..., str], instruct_llama: Any) -> None:
    prompt = ms.prompt(instruct_llama, TEXT, instruction=INSTRUCTION)
    plain = expected(instruct_llama, prompt, **METHODS[option]())
    assert generated(option, TEXT, "--instruction", INSTRUCTION) == plain
    strong = expected(instruct_llama, prompt, **METHODS[option](0.9))
    assert generated(TEXT, "--instruction", INSTRUCTION, option, 0.9) == strong


def test_the_numbers_by_default_are_the_functions() -> None:
    functions = {"guide": ms.attention_bias, "pasta": ms.pasta, "spotlight": ms.spotlight, "scale_keys": ms.scale_keys}
    names = {name: list(signature(make).parameters.values())[1].default for name, make in functions.items()}
    assert dict(DEFAULTS) == names | {"directer": signature(ms.Directer).parameters["beta"].default}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--guide"], ["--guide", "1.0"]),
        (["--guide", "-2", "x"], ["--guide", "-2", "x"]),
        (["--scale_keys", "x"], ["--scale_keys", "100.0", "x"]),
        (["--pasta", "--spotlight", "0.3"], ["--pasta", "0.01", "--spotlight", "0.3"]),
        (["--guide=3", "guide"], ["--guide=3", "guide"]),
    ],
)
def test_numbers_that_are_left_out_are_put_in(given: list[str], read: list[str]) -> None:
    assert with_numbers(given) == read


def test_methods_add_up(generated: Callable[..., str], instruct_llama: Any) -> None:
    prompt = ms.prompt(instruct_llama, TEXT, instruction=INSTRUCTION)
    both = ms.attention_bias(delta=2.0) + ms.spotlight(target=0.2)
    given = ("--instruction", INSTRUCTION, "--spotlight", 0.2, "--guide", 2, "--directer", 0.1)
    assert generated(TEXT, *given) == expected(instruct_llama, prompt, steer=both, strategy=ms.Directer(beta=0.1))


def test_an_instruction_is_marked_where_it_is(generated: Callable[..., str], instruct_llama: Any) -> None:
    text = f"Tell me about the writer. {INSTRUCTION}"
    tagged = text.replace(INSTRUCTION, f"<!-> {INSTRUCTION} <-!>")
    guided = expected(instruct_llama, ms.prompt(instruct_llama, tagged), steer=ms.attention_bias(delta=2.0))
    assert generated(text, "--instruction", INSTRUCTION, "--guide", 2) == guided
    assert generated(tagged, "--guide", 2) == guided
    assert generated(tagged, "--instruction", INSTRUCTION, "--guide", 2) == guided, "marked twice is marked"
    twice = generated(f"{text} {INSTRUCTION}", "--instruction", INSTRUCTION, "--guide", 2)
    assert f"mechsteer: The instruction '{INSTRUCTION}' is in the prompt 2 times: mark the one" in twice
    assert generated(INSTRUCTION, "--instruction", INSTRUCTION) == expected(
        instruct_llama, ms.prompt(instruct_llama, INSTRUCTION, instruction=INSTRUCTION)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--guide", "2"], "--instruction"),
        (["--directer"], "--instruction"),
        (["--instruction", " ", "--guide"], "--instruction needs a text, got ' '"),
        (["--instruction", "Be brief.", "--guide", "nan"], "delta of guide must be finite, got nan"),
        (["--instruction", "Be brief.", "--pasta", "2"], "alpha must be above 0 and at most 1, got 2.0"),
        (["--instruction", "Be brief.", "--directer", "--strategy", "dola"], "--strategy dola another"),
        (["--instruction", "Be brief.", "--directer", "--temperature", "0.5"], "--temperature must be 0, got 0.5"),
        (["--instruction", "Be brief.", "--directer", "7"], "beta"),
    ],
)
def test_what_cannot_be_done_is_said(given: list[str], message: str, generated: Callable[..., str]) -> None:
    line = generated(TEXT, *given)
    assert line.startswith("mechsteer: ") and message in line and line.count("\n") == 1


def test_the_version(mechsteer: CommandLine) -> None:
    assert mechsteer("--version") == (0, f"mechsteer {ms.__version__}\n", "")


def test_a_saved_direction_acts_last(generated: Callable[..., str], instruct_llama: Any, tmp_path: Path) -> None:
    direction = ms.random_direction(instruct_llama, layer=1, seed=0)
    direction.save(tmp_path / "d.safetensors")
    ms.add(direction, 2.0).save(tmp_path / "first.safetensors")
    prompt = ms.prompt(instruct_llama, TEXT, instruction=INSTRUCTION)
    all_three = ms.add(direction, 2.0) + ms.attention_bias(delta=2.0) + ms.add(direction, -3.0)
    given = ("--direction", tmp_path / "d.safetensors", "--scale", -3, "--guide", 2)
    given = (*given, "--instruction", INSTRUCTION, "--intervention", tmp_path / "first.safetensors")
    assert generated(TEXT, *given) == expected(instruct_llama, prompt, steer=all_three)
