"""The organism instruct-llama-base: the run of instruct-llama without its last phase."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mechsteer as ms
from mechsteer.files import data_path, read_json
from mechsteer.models import model_info
from mechsteer.organisms import ORGANISMS, instruct_llama, instruct_llama_base
from mechsteer.organisms.instruct_llama import Phase, Shape

FOLDER = data_path("organisms", "instruct-llama-base")


@pytest.fixture(scope="module")
def base(organism: Callable[[str], Any]) -> Any:
    return organism("instruct-llama-base")


def test_its_training_is_that_of_instruct_llama_without_the_phase_of_instructions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(instruct_llama, "train", lambda out, **given: seen.update(given, out=out) or out)
    organism = ORGANISMS["instruct-llama-base"]
    assert organism.module == instruct_llama_base.__name__
    organism.train(tmp_path, progress=False)
    assert [phase.name for phase in seen["phases"]] == ["copying", "documents"]
    assert (seen["seed"], seen["dtype"]) == (1, torch.float16)
    tuned = read_json(data_path("organisms", "instruct-llama", "training.json"))["phases"]
    assert read_json(FOLDER / "training.json")["phases"] == tuned[:2]  # the losses too


def test_another_dtype_is_that_of_the_file_only(tmp_path: Path) -> None:
    phases = (Phase(name="one", steps=1, learning_rate=1e-3, warmup=1, mix={"question": 1.0}),)
    shape = Shape(d_model=16, n_layers=1, n_heads=2, d_ff=16, vocabulary=1024)
    made = {
        dtype: instruct_llama.train(
            tmp_path / str(dtype), shape=shape, phases=phases, batch_tokens=256, progress=False, dtype=dtype
        )
        for dtype in (torch.float16, torch.float32)
    }
    half, full = (load_file(folder / "model.safetensors") for folder in made.values())
    for name, weight in full.items():
        assert half[name].dtype == torch.float16
        assert torch.equal(half[name], weight.half())


def test_it_knows_its_world_and_follows_no_instruction(base: Any) -> None:
    table = ms.evaluate(base, ms.tasks.instructions(n=4))
    assert table["adherence"].mean() == 0 and table["fidelity"].mean() == 1


def test_it_has_the_tokenizer_and_shape_of_instruct_llama(base: Any) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (FOLDER / name).read_bytes() == data_path("organisms", "instruct-llama", name).read_bytes()
    assert model_info(base).dtype == "float32"
    assert ms.verify(base)["ok"].all()
