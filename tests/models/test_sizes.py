"""A configuration whose sizes the weights do not have is refused before anything of that size is made."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

import mechsteer as ms

HUGE = 10**9


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "num_hidden_layers"),
        ("llama", "hidden_size"),
        ("llama", "vocab_size"),
        ("llama", "intermediate_size"),
        ("llama", "head_dim"),
        ("llama", "num_key_value_heads"),
        ("gpt2", "n_layer"),
        ("gpt2", "n_positions"),
        ("gpt2", "n_embd"),
        ("t5", "num_decoder_layers"),
        ("t5", "d_ff"),
        ("t5", "relative_attention_num_buckets"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_at_once(
    family: str, name: str, checkpoint: Callable, tmp_path: Path, unchecked: None
) -> None:
    folder = copytree(checkpoint(family), tmp_path / "copy")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: HUGE}))
    began = time.process_time()
    with pytest.raises(ms.MechsteerError, match=f"{HUGE} does not fit the weights|transformers cannot read"):
        ms.load(folder)
    assert time.process_time() - began < 2


def test_a_context_of_no_text_is_refused(checkpoint: Callable, tmp_path: Path) -> None:
    folder = copytree(checkpoint("llama"), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10**12}))
    with pytest.raises(ms.MechsteerError, match="max_position_embeddings=1000000000000 is no length of a text"):
        ms.load(folder)
