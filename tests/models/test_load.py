"""Loading: what is accepted, what is refused and why, and what is known about a loaded model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.models import organism_names
from tests.tiny import ENCODER_DECODERS, FAMILIES, hf_model


@pytest.fixture
def copy_of(checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A function that copies a tiny checkpoint and changes entries of its config.json."""

    def get(family: str, **changes: object) -> Path:
        directory = tmp_path / family
        shutil.copytree(checkpoint(family), directory)
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))
        return directory

    return get


def refused(directory: Path | str, message: str, **arguments: Any) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.load(str(directory), **arguments)


@pytest.mark.parametrize(
    ("family", "feature", "changes"),
    [
        ("llama", "mlp_bias=True", {"mlp_bias": True}),
        ("llama", "quantization_config=gptq", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        ("gpt2", "scale_attn_weights=false", {"scale_attn_weights": False}),
        ("gpt2", "add_cross_attention=True", {"add_cross_attention": True}),
        ("gemma2", "use_bidirectional_attention=True", {"use_bidirectional_attention": True}),
        ("t5", "is_encoder_decoder=false", {"is_encoder_decoder": False}),
    ],
)
def test_an_unsupported_feature_is_refused_by_its_name(
    family: str, feature: str, changes: dict[str, object], copy_of: Callable[..., Path]
) -> None:
    refused(copy_of(family, **changes), f"Unsupported configuration of {family}: {feature};")


@pytest.mark.parametrize("family", ["bert", "bloom", "mamba", "qwen3_next"])
def test_an_unsupported_family_is_refused_by_its_name(family: str, copy_of: Callable[..., Path]) -> None:
    refused(copy_of("llama", model_type=family), f"Unknown model family '{family}'")


def test_a_family_that_transformers_does_not_know_is_refused(copy_of: Callable[..., Path]) -> None:
    refused(copy_of("llama", model_type="llamba"), "transformers cannot read .*llamba")


def test_an_unknown_organism_names_the_bundled_ones() -> None:
    assert "trap-t5" in organism_names()
    refused("organism:trap-t6", "Unknown organism 'trap-t6'.*'trap-t5'")


def test_a_directory_that_is_not_there_names_its_nearest_sibling(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    refused(tmp_path / "my-modle", "No such model directory: .*my-modle.*Did you mean 'my-model'")


@pytest.mark.parametrize("name", ["my-modle", "notes", "README"])
def test_what_is_no_folder_is_not_named_as_one(name: str, tmp_path: Path) -> None:
    for file in ("notes.txt", "my-model.txt", "README.md", "my-model.gguf"):
        (tmp_path / file).write_bytes(b"")
    refused(tmp_path / name, f"No such model directory: {str(tmp_path / name)!r}[.]$")
    for folder in ("src", ".git", "llama"):
        (tmp_path / folder).mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    refused(tmp_path / name, f"No such model directory: {str(tmp_path / name)!r}[.] Valid: llama[.]$")


def test_a_file_of_weights_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "my-model.gguf").write_bytes(b"")
    (tmp_path / "my-modle").mkdir()
    refused(tmp_path / "my-modle.gguf", "Did you mean 'my-model.gguf'[?]$")


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"has no config\.json")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path / "model.safetensors", "is a file; expected a directory")


def test_a_broken_config_is_refused(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("llama")
    (directory / "config.json").write_text('{"model_type": ')
    refused(directory, r"config\.json is not a JSON file")
    (directory / "config.json").write_text('{"hidden_size": 4}')
    refused(directory, r"config\.json names no model_type")


def test_pickled_weights_are_never_loaded(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("llama")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    refused(directory, r"only pickled weights \(pytorch_model\.bin\), which are never loaded")


def test_a_checkpoint_without_weights_is_refused(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("llama")
    (directory / "model.safetensors").unlink()
    refused(directory, r"has no \*\.safetensors weights")


@pytest.mark.parametrize("keep", [0, 6, 500, -1000])
def test_truncated_weights_are_refused(keep: int, copy_of: Callable[..., Path]) -> None:
    weights = copy_of("llama") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refused(weights.parent, "Cannot read the weights in .*damaged or truncated")


@pytest.mark.parametrize(
    ("family", "weight"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("llama", "model.norm.weight"),
        ("t5", "decoder.block.1.layer.1.EncDecAttention.k.weight"),
    ],
)
def test_a_missing_weight_is_refused_by_its_name(family: str, weight: str, copy_of: Callable[..., Path]) -> None:
    path = copy_of(family) / "model.safetensors"
    weights = load_file(path)
    del weights[weight]
    save_file(weights, path, metadata={"format": "pt"})
    refused(path.parent, f"lacks weights: {weight}")


def test_a_weight_of_another_shape_is_refused(copy_of: Callable[..., Path]) -> None:
    refused(copy_of("llama", intermediate_size=64), r"Cannot read the weights|lacks weights")


def test_a_checkpoint_without_a_tokenizer_is_refused(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    refused(directory, "has no readable tokenizer")


def test_a_hub_id_that_cannot_be_fetched_is_explained() -> None:
    refused("no-such-org/no-such-model", r"Cannot get 'no-such-org/no-such-model'.*organism:trap-t5")


def test_a_name_that_is_no_hub_id_is_explained() -> None:
    refused("not a name!", "Cannot get 'not a name!' from the Hugging Face hub")


def test_an_empty_name_is_refused() -> None:
    refused("", r"config\.json|No such model directory")


def test_a_revision_of_a_local_model_is_refused(checkpoint: Callable[..., Path]) -> None:
    refused(checkpoint("llama"), "revision='main' is for hub models", revision="main")
    refused("organism:trap-t5", "revision='main' is for hub models", revision="main")


def test_an_unknown_dtype_or_device_is_refused_before_reading_anything() -> None:
    refused("nowhere", "Unknown dtype 'flaot32'.*'float32'", dtype="flaot32")
    refused("nowhere", "Unknown dtype 'int8'", dtype=torch.int8)
    refused("nowhere", "Unknown device 'cupu'.*'cpu'", device="cupu")
    refused("nowhere", "Device 'meta' is not available here", device="meta")


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_sharded_weights_load_and_give_the_same_logits(
    family: str, copy_of: Callable[..., Path], tiny: Callable
) -> None:
    directory = copy_of(family)
    (directory / "model.safetensors").unlink()
    hf_model(family).save_pretrained(directory, max_shard_size="30KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    sharded, whole = ms.load(str(directory)), tiny(family)
    assert ms.generate(sharded, "the cat").tokens.equal(ms.generate(whole, "the cat").tokens)
    shard = sorted(directory.glob("*.safetensors"))[1]
    shard.unlink()
    refused(directory, f"lacks the weight shards {shard.name} named in")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_is_hugging_faces(family: str, tiny: Callable, checkpoint: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    model, text = tiny(family), "the cat sat on mat, one two."
    expected = AutoTokenizer.from_pretrained(checkpoint(family))(text)["input_ids"]
    assert len(set(expected)) > 5, "the tokenizer knows none of the words"
    assert ms.prompt(model, text).tokens.tolist() == expected
    if family not in ENCODER_DECODERS:  # there the library would add a start token to the encoder's input
        assert model.to_tokens(text)[0].tolist() == expected


def test_a_pad_token_is_set_where_the_tokenizer_has_none(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("gpt2")
    config = json.loads((directory / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = ms.load(str(directory)).tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token


def fingerprint(directory: Path, **arguments: Any) -> str:
    return ms.model_info(ms.load(str(directory), **arguments)).fingerprint


def test_the_fingerprint_is_the_weights_not_the_place_or_the_dtype(
    copy_of: Callable[..., Path], checkpoint: Callable[..., Path]
) -> None:
    original = checkpoint("llama")
    copied = copy_of("llama")
    assert copied != original
    assert fingerprint(original) == fingerprint(copied) == fingerprint(copied, dtype="bfloat16")
    assert len(fingerprint(original)) == 16


def test_the_fingerprint_changes_with_one_weight(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("llama")
    before = fingerprint(directory)
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"][3, 5] += 1e-3
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(directory) != before


def test_model_info_tells_where_a_model_came_from(checkpoint: Callable[..., Path]) -> None:
    info = ms.model_info(ms.load(str(checkpoint("t5")), dtype="bfloat16"))
    assert (info.name, info.path, info.family) == (str(checkpoint("t5")), str(checkpoint("t5")), "t5")
    assert (info.revision, info.dtype, info.eos_ids) == ("", "bfloat16", (1,))


def test_several_end_tokens_are_read_from_the_generation_config(copy_of: Callable[..., Path]) -> None:
    directory = copy_of("llama")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 17]}))
    assert ms.model_info(ms.load(str(directory))).eos_ids == (1, 17)


def test_a_local_path_may_be_relative_or_below_home(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = checkpoint("llama")
    monkeypatch.chdir(directory.parent)
    monkeypatch.setenv("HOME", str(directory.parent))
    for name in (f"./{directory.name}", directory.name, f"~/{directory.name}"):
        assert ms.model_info(ms.load(name)).path.endswith(directory.name)
