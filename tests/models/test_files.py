"""Files that are no checkpoint of a language model, or a damaged one: one clear error each, and never foreign code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from tests.hub import CONFIGS, VOCAB, sharpen, tokenizer, write

Change = Callable[..., Path]


@pytest.fixture
def changed(tmp_path: Path) -> Change:
    """A function that writes a tiny Llama and then changes its files: to text, to JSON, or (None) away."""

    def get(**files: object) -> Path:
        write(CONFIGS["Llama 2"], tmp_path)
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            if content is None:
                path.unlink()
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return get


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message) as caught:
        ms.load(str(folder))
    assert "\n" not in str(caught.value).strip() or "transformers" in str(caught.value)


def test_an_adapter_says_how_to_merge_it(changed: Change) -> None:
    folder = changed(adapter_config__json={"base_model_name_or_path": "someone/base", "peft_type": "LORA"})
    refused(folder, r"adapter of 'someone/base' .*AutoPeftModelForCausalLM.from_pretrained\(.*merge_and_unload\(\)")


@pytest.mark.parametrize(
    "architecture", ["LlamaForSequenceClassification", "LlamaModel", "LlamaForTokenClassification"]
)
def test_a_model_without_a_head_for_tokens_is_refused(architecture: str, changed: Change) -> None:
    folder = changed(config__json=CONFIGS["Llama 2"] | {"architectures": [architecture]})
    refused(folder, f"architectures={architecture}; must predict tokens")


def test_quantised_weights_are_refused_by_their_method(changed: Change) -> None:
    config = CONFIGS["Llama 2"] | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    refused(changed(config__json=config), "quantization_config=awq; must be absent: .*dequantise")


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "model.bin", "sub/model.safetensors"])
def test_an_index_may_name_safetensors_of_its_folder_alone(shard: str, changed: Change) -> None:
    folder = changed(model__safetensors__index__json={"weight_map": {"lm_head.weight": shard}})
    refused(folder, f"names '{shard}'; it may name")


@pytest.mark.parametrize("index", [[], {"weight_map": ["a"]}, {"weight_map": {"a": 3}}, {}])
def test_an_index_without_a_map_is_refused(index: object, changed: Change) -> None:
    refused(changed(model__safetensors__index__json=index), "has no weight_map")


@pytest.mark.parametrize("model_type", ["internlm2", "llama"])
def test_code_of_a_repository_is_never_run_nor_asked_about(
    model_type: str, changed: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt reached the user"))
    named = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.T", None]}
    config = CONFIGS["Llama 2"] | {"model_type": model_type, "auto_map": named}
    folder = changed(config__json=config, code__py="raise SystemExit('foreign code ran')")
    if model_type == "llama":
        ms.load(str(folder))  # transformers has this family itself
    else:
        refused(folder, r"'internlm2' of .* is code in its repository \(auto_map\), which is never run")


def test_pickled_weights_name_the_ways_out(changed: Change) -> None:
    folder = changed(model__safetensors=None, pytorch_model__bin="")
    refused(folder, r"only pickled weights \(pytorch_model.bin\).*refs/pr/N.*save_pretrained")


@pytest.mark.parametrize(
    "name", ["hidden_size", "num_attention_heads", "rope_parameters", "hidden_act", "num_hidden_layers"]
)
@pytest.mark.parametrize("value", ["x", -1, [], {"a": 1}, None])
def test_a_value_of_the_wrong_type_is_one_error(name: str, value: object, changed: Change) -> None:
    folder = changed(config__json=CONFIGS["Llama 2"] | {name: value})
    try:
        ms.load(str(folder))
    except ms.MechsteerError as error:
        assert str(folder) in str(error) or name in str(error) or isinstance(error, ms.ParityError)


@pytest.mark.parametrize("content", ["", "{", '{"model": 3}', "[]"])
def test_a_damaged_tokenizer_is_one_error(content: str, changed: Change) -> None:
    refused(changed(tokenizer__json=content), "has no readable tokenizer")


def gemma3_with_vision(folder: Path) -> Any:
    """A multimodal Gemma 3, as its checkpoints from 4b on are."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {name: value for name, value in CONFIGS["Gemma 3 1B"].items() if name != "model_type"}
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    config = Gemma3Config(
        text_config=text, vision_config=vision | {"patch_size": 14}, mm_tokens_per_image=4, eos_token_id=1
    )
    config.image_token_index = VOCAB - 1
    model = sharpen(Gemma3ForConditionalGeneration(config)).eval()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def test_the_text_part_of_a_multimodal_model_is_loaded(tmp_path: Path) -> None:
    hf = gemma3_with_vision(tmp_path)
    model = ms.load(str(tmp_path))
    tokens = torch.randint(4, VOCAB - 2, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = hf(input_ids=tokens).logits.log_softmax(-1)
        ours = model(tokens, prepend_bos=False).log_softmax(-1)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert ms.model_info(model).family == "gemma3_text" and ms.verify(model)["ok"].all()


def test_spans_of_byt5_are_counted_in_bytes(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    write(CONFIGS["ByT5"] | {"vocab_size": 384}, tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    ByT5Tokenizer().save_pretrained(tmp_path)
    model = ms.load(str(tmp_path))
    instruction, task = "Antworte höflich 😀.", "Über <extra_id_0> Käse"
    made = ms.prompt(model, task, instruction=instruction)
    ids = made.tokens.tolist()
    assert ids == model.tokenizer(made.text)["input_ids"]
    ((start, end),) = made.spans["instruction"]
    assert bytes(i - 3 for i in ids[start:end]).decode() == instruction
    assert made.tokens[made.positions("task")[-1]] == 3 + ord("e") and ids[-1] == 1  # the end token is in no span
    assert ms.generate(model, made, steer=ms.attention_bias(delta=1.0), max_new_tokens=2).lengths[0] >= 1


def test_a_damaged_gguf_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("nonsense")
    with pytest.raises(ms.MechsteerError, match=r"transformers cannot read .*model\.gguf"):
        ms.load(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("content", ["{", "[]", '{"repetition_penalty": 2.0', "\x00", "[" * 3000])
def test_a_damaged_generation_config_is_not_left_out(content: str, changed: Change) -> None:
    refused(changed(generation_config__json=content), r"generation_config\.json is no(t a| JSON)")


@pytest.mark.parametrize("value", ["x", [1, "x"], [None], {}, True, 1.5, -7])
def test_end_tokens_that_are_none_are_refused(value: object, changed: Change) -> None:
    refused(changed(generation_config__json={"eos_token_id": value}), "eos_token_id|transformers cannot read")
