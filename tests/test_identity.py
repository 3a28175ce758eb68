"""The key of a result changes with everything that decides the result, and with nothing else."""

import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from torch import Tensor

import mechsteer as ms
from mechsteer import identity
from mechsteer.directions import random_direction
from mechsteer.models import taken_once, weights_digest
from mechsteer.steering import Edit, Intervention, make_scope
from mechsteer.tasks.answers import Answers, Question
from tests.tiny import write_checkpoint

FAMILIES = ["llama-gqa", "gpt2", "t5", "gemma2"]
TASK = Answers("small", (Question("the cat", "sat"), Question("a dog", "on")))


def own(edit: Any, x: Tensor, where: Any) -> Tensor:
    return x + 0.0


def mine(function: Callable) -> Intervention:
    return Intervention((Edit("mine", "blocks.0.hook_resid_post", make_scope("all"), 1.0, function),))


def named(name: str, version: str) -> Callable:
    def function(edit: Any, x: Tensor, where: Any) -> Tensor:
        return x

    function.name, function.version = name, version  # type: ignore[attr-defined]
    return function


def steer(model: Any, **more: Any) -> Intervention:
    return ms.add(random_direction(model, seed=more.pop("seed", 0), layer=1), more.pop("scale", 2.0), **more)


def key(model: Any, task: Any = TASK, edit: Any = None, strategy: Any = None, options: Any = None) -> str:
    return ms.cell_key(model, task, steer(model) if edit is None else edit, strategy or ms.Sample(seed=1), options)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_element_of_any_tensor_changes_it(family: str, tiny: Callable) -> None:
    model, seen = tiny(family), set()
    before = ms.cell_key(model)
    tensors = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if buffer.numel()}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        place = tuple(int(torch.randint(n, (1,), generator=generator)) for n in tensor.shape)
        kept = tensor.data[place].clone()
        up = torch.tensor(torch.inf if kept.isfinite() else 0.0)
        tensor.data[place] = torch.nextafter(kept, up)  # .data: no version counter is told
        changed = ms.cell_key(model)
        assert changed != before, name
        seen.add(changed)
        tensor.data[place] = kept
    assert ms.cell_key(model) == before
    tied = {t.data_ptr() for t in tensors.values()}
    assert len(seen) >= len(tied) > 10


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_hooks_on_the_model_are_refused(family: str, dtype: str, checkpoint: Callable, tmp_path: Path) -> None:
    model = ms.load(checkpoint(family), dtype=dtype)
    before = ms.cell_key(model)
    site = ms.site(model, "resid_post", 1)

    def ablation(x: Any, hook: Any) -> Any:
        return x * 0

    with model.hooks(fwd_hooks=[(site, ablation)]), pytest.raises(ms.MechsteerError, match=f"a hook on it, at '{site}"):
        ms.evaluate(model, ms.task(["the cat"], "lowercase"), out=tmp_path / "kept")
    model.add_perma_hook(site, ablation)
    with pytest.raises(ms.MechsteerError, match="including_permanent=True"):
        ms.cell_key(model)
    model.reset_hooks(including_permanent=True)
    handle = model.unembed.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(ms.MechsteerError, match="at 'unembed'"):
        ms.cell_key(model)
    handle.remove()
    assert ms.cell_key(model) == before


def test_a_template_that_writes_the_date_makes_other_prompts_every_day(
    checkpoint: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ms.load(checkpoint("llama-gqa", chat=True), check=False)
    dated = "{{ strftime_now('%d %b %Y') }} " + model.tokenizer.chat_template
    keys = []
    for template in (model.tokenizer.chat_template, dated):
        model.tokenizer.chat_template = template
        for day in ("2026-11-28", "2026-11-29", "2026-11-28"):
            monkeypatch.setattr("mechsteer.models.identity.today", lambda day=day: day)
            keys.append(ms.cell_key(model))
    assert keys[0] == keys[1] == keys[2] and keys[3] == keys[5] and len(set(keys)) == 3


def test_a_replaced_forward_is_refused(tiny: Callable) -> None:
    model = deepcopy(tiny("llama-gqa"))
    model.blocks[1].mlp.forward = lambda x: x * 0
    with pytest.raises(ms.MechsteerError, match=r"forward at 'blocks\.1\.mlp' was replaced"):
        ms.cell_key(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.blocks[1].attn, "attn_scale", 9.0),
        lambda m: setattr(m.blocks[1].ln1, "eps", 0.5),
        lambda m: setattr(m.blocks[1].mlp, "act_fn", torch.relu),
        lambda m: setattr(m.blocks[1].attn, "attn_type", "local"),
    ],
    ids=["scale", "epsilon", "activation", "kind of attention"],
)
def test_a_setting_of_one_module_changes_it(change: Callable, tiny: Callable) -> None:
    model = deepcopy(tiny("llama-gqa"))
    before = ms.cell_key(model)
    assert before == ms.cell_key(tiny("llama-gqa"))
    change(model)
    assert ms.cell_key(model) != before


def test_a_sign_a_swap_and_a_zeroed_head_change_it(tiny: Callable) -> None:
    model = deepcopy(tiny("llama-gqa"))
    seen = {weights_digest(model)}
    weight = model.blocks[1].attn.W_O.data
    for change in (
        lambda w: w[0].neg_(),
        lambda w: w.copy_(w.flip(0)),
        lambda w: w[2].zero_(),
        lambda w: w[0, :2].neg_(),
    ):
        change(weight)
        seen.add(weights_digest(model))
    assert len(seen) == 5


@pytest.fixture
def folder(checkpoint: Callable, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint("llama-gqa", chat=True), tmp_path / "model")


def edit_json(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more), encoding="utf-8")


def special_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token="cat")


def token_of_the_vocabulary(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"w50"', '"v50"'))


def template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def generation(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=7)


def configuration(folder: Path) -> None:
    edit_json(folder / "config.json", rms_norm_eps=1e-4)


@pytest.mark.parametrize("change", [special_token, token_of_the_vocabulary, template, generation, configuration])
def test_every_file_of_a_checkpoint_that_decides_results_changes_it(change: Callable, folder: Path) -> None:
    before = ms.cell_key(ms.load(folder, check=False), TASK)
    assert ms.cell_key(ms.load(folder, check=False), TASK) == before
    change(folder)
    assert ms.cell_key(ms.load(folder, check=False), TASK) != before


def test_the_dtype_changes_it(checkpoint: Callable) -> None:
    keys = {ms.cell_key(ms.load(checkpoint("llama-gqa"), dtype=dtype)) for dtype in ("float32", "bfloat16", "float16")}
    assert len(keys) == 3


def test_task_edits_strategy_options_and_versions_change_it(tiny: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama-gqa")
    vector = random_direction(model, seed=0, layer=1)
    changed = replace(TASK, samples=(TASK.samples[0], replace(TASK.samples[1], answer="off")))
    first, second = ms.add(vector, 1.0), ms.pasta(alpha=0.1)
    variants: dict[str, dict[str, Any]] = {
        "nothing": {},
        "row": {"task": changed},
        "order of rows": {"task": replace(TASK, samples=TASK.samples[::-1])},
        "fewer rows": {"task": replace(TASK, samples=TASK.samples[:1])},
        "task option": {"task": replace(TASK, max_new_tokens=9)},
        "task name": {"task": replace(TASK, name="other")},
        "no task": {"task": None},
        "unsteered": {"edit": Intervention()},
        "strength": {"edit": steer(model, scale=2.0 + 1e-12)},
        "scope": {"edit": steer(model, scope="generated")},
        "positions": {"edit": steer(model, scope=[0, 2])},
        "rows": {"edit": steer(model, rows=[0])},
        "vector": {"edit": steer(model, seed=3)},
        "method": {"edit": ms.project(vector, target=2.0)},
        "site": {"edit": ms.add(random_direction(model, seed=0, layer=2), 2.0)},
        "two edits": {"edit": first + second},
        "their order": {"edit": second + first},
        "own edit": {"edit": mine(named("mine", "1"))},
        "its version": {"edit": mine(named("mine", "2"))},
        "its name": {"edit": mine(named("yours", "1"))},
        "span": {"edit": ms.pasta("task", alpha=0.1)},
        "option of an edit": {"edit": ms.pasta(alpha=0.1, heads=[(0, 1)])},
        "strategy": {"strategy": ms.DoLa()},
        "seed": {"strategy": ms.Sample(seed=2)},
        "top_p": {"strategy": ms.Sample(seed=1, top_p=0.9)},
        "beta": {"strategy": ms.Gated([first], beta=0.4)},
        "other beta": {"strategy": ms.Gated([first], beta=0.5)},
        "schedule": {"strategy": ms.Gated([second], beta=0.5)},
        "option": {"options": {"layers": [1, 2]}},
        "other option": {"options": {"layers": [1, 3]}},
        "an array": {"options": {"layers": np.array([1, 2])}},
    }
    keys = {name: key(model, **given) for name, given in variants.items()}
    assert len(set(keys.values())) == len(keys)
    monkeypatch.setattr(identity, "versions", lambda: {"torch": "0.0"})
    assert key(model) not in keys.values()


@pytest.mark.parametrize(
    "strategy",
    [ms.Greedy(), ms.Sample(), ms.DoLa(), ms.Directer()],
    ids=lambda strategy: type(strategy).__name__,
)
def test_every_field_of_a_strategy_changes_it(strategy: Any) -> None:
    changed = [strategy]
    for field in fields(strategy):
        other = deepcopy(strategy)
        object.__setattr__(other, field.name, "something else")
        changed.append(other)
    assert len({ms.cell_key(None, strategy=one) for one in changed}) == len(fields(strategy)) + 1


def test_nothing_else_changes_it(checkpoint: Callable, tmp_path: Path) -> None:
    folder = checkpoint("llama-gqa", chat=True)
    model = ms.load(folder)
    moved = ms.load(shutil.copytree(folder, tmp_path / "another" / "place"))
    one, other = {"a": 1, "b": {"c": [2], "d": None}}, {"b": {"d": None, "c": [2]}, "a": 1}
    before = key(model, options=one)
    assert key(moved, options=other) == before
    assert ms.cell_key(model) == ms.cell_key(model, None, Intervention(), ms.Greedy(), None)
    moved.cfg.device = "cuda"
    moved.set_use_attn_result(True)
    moved.tokenizer(["the cat", "a"], padding=True, truncation=True, max_length=3)  # its backend remembers how
    assert key(moved, options=one) == before
    for name, p in moved.named_parameters():
        p.data = p.data.clone(memory_format=torch.contiguous_format if "bias" in name else torch.preserve_format)
    assert key(moved, options=one) == before
    assert key(deepcopy(model), options=one) == before


def test_where_a_file_of_prompts_lies_does_not_change_it(tmp_path: Path) -> None:
    found = []
    for place, text in (("a", "the cat"), ("b/c", "the cat"), ("d", "the dog")):
        (tmp_path / place).mkdir(parents=True)
        path = tmp_path / place / "own.jsonl"
        path.write_text(json.dumps({"prompt": text, "instruction": "answer in capitals"}))
        found.append(ms.cell_key(None, ms.task(path, "uppercase")))
    assert found[0] == found[1] != found[2]
    assert "own.jsonl" in ms.task(path, "uppercase").samples[0].where


def test_prompts_of_any_length_do_not_change_it(checkpoint: Callable) -> None:
    model = ms.load(checkpoint("llama-gqa"), check=False)
    direction, before, rows = random_direction(model, seed=0, layer=1), key(model), len(model.blocks[0].attn.rotary_cos)
    ms.score(model, " ".join(["the cat"] * 50), " sat")
    model.blocks[0].attn._extend_rotary_embeddings(rows + 7)  # as for a prompt that is longer than its tables
    assert len(model.blocks[0].attn.rotary_cos) > rows and key(model) == before
    ms.add(direction, 1.0).check(model)


def test_a_model_that_was_not_loaded_here_is_known_by_its_weights() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with pytest.warns(DeprecationWarning):
        cfg = HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=8, d_head=4, act_fn="relu", d_vocab=9, seed=1)
        models = [HookedTransformer(cfg) for _ in range(2)]
    assert ms.cell_key(models[0]) == ms.cell_key(models[1])
    prints = ms.model_info(models[0]).fingerprint
    assert prints == ms.model_info(models[1]).fingerprint != "unknown"
    models[1].embed.W_E.data[0, 0] += 1
    assert ms.cell_key(models[0]) != ms.cell_key(models[1])
    assert ms.model_info(models[1]).fingerprint != prints
    vector = random_direction(models[0], seed=0, layer=0)
    ms.add(vector, 1.0).check(models[0])
    with pytest.raises(ms.MechsteerError, match="transfer=True"):
        ms.add(vector, 1.0).check(models[1])


def test_functions_of_ones_own_must_say_which_they_are(unchecked: None) -> None:
    for function in (own, lambda edit, x, where: x, SimpleNamespace(name="a"), named("a", ""), named("", "1")):
        with pytest.raises(ms.MechsteerError, match=r"The function of the edit 'mine' .* is your own.* f\.version = "):
            ms.cell_key(None, steer=mine(function))
    # a name that belongs to one of ours is no way round
    edit = replace(mine(own).edits[0], method="add")
    with pytest.raises(ms.MechsteerError, match="is your own"):
        ms.cell_key(None, steer=Intervention((edit,)))
    assert ms.cell_key(None, task={"check": named("a", "1")}) != ms.cell_key(None, task={"check": named("a", "2")})


def test_other_functions_of_ones_own_count_by_their_code(tmp_path: Path) -> None:
    def made(text: str) -> Any:
        path = tmp_path / "checks.py"
        path.write_text(text)
        names: dict[str, Any] = {"__name__": "checks"}
        exec(compile(text, str(path), "exec"), names)
        return ms.cell_key(None, task={"check": names["check"]})

    one = "def check(text, sample):\n    return len(text) > 3\n"
    keys = [made(text) for text in (one, one.replace("3", "4"), one + "# a helper may stand here\n", one)]
    assert len(set(keys)) == 3 and keys[0] == keys[3]
    least = [lambda text, sample, n=n: len(text) > n for n in (3, 4)]

    def captured(n: int) -> Callable:
        return lambda text, sample: len(text) > n

    stated = [lambda text, sample: True for _ in range(2)]
    stated[0].name, stated[0].version = "good", "1"  # type: ignore[attr-defined]
    stated[1].name, stated[1].version = "good", "2"  # type: ignore[attr-defined]
    assert len({ms.cell_key(None, ms.task(["a"], check, name="one")) for check in stated}) == 2
    checks = [lambda text, sample: "a" in text, lambda text, sample: "b" in text, captured(3), captured(4), *least]
    assert len({ms.cell_key(None, task={"check": check}) for check in checks}) == len(checks)


@dataclass
class Counted:
    samples: list[str]


def test_objects_are_told_apart_by_class_and_content() -> None:
    @dataclass
    class Other:
        samples: list[str]

    keys = [ms.cell_key(None, task) for task in (Counted(["a"]), Counted(["b"]), Other(["a"]), ["a"], "a", {"a"})]
    assert len(set(keys)) == 6 and ms.cell_key(None, Counted(["a"])) == keys[0]
    assert ms.cell_key(None, {1: "a"}) != ms.cell_key(None, {"1": "a"})
    assert ms.cell_key(None, 1) != ms.cell_key(None, 1.0) != ms.cell_key(None, True)
    with pytest.raises(ms.MechsteerError, match="has no description"):
        ms.cell_key(None, object())


def test_a_digest_is_taken_once_where_that_was_asked_for(tiny: Callable) -> None:
    model = deepcopy(tiny("llama-gqa"))
    with taken_once():
        before = weights_digest(model)
        model.embed.W_E.data[0, 0] += 1
        with taken_once():
            assert weights_digest(model) == before
        assert weights_digest(model) == before != weights_digest(tiny("gpt2"))
    assert weights_digest(model) != before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_digest_stays_what_kept_results_know(family: str, tiny: Callable) -> None:
    """Written out: by name, the dimensions as they lie in memory and a hash over dtype, shape and bytes."""
    model = deepcopy(tiny(family))
    weight = next(p for p in model.parameters() if p.ndim > 1)
    weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    for name, buffer in {
        "scalar": torch.tensor(2.5),
        "none_of_it": torch.empty(0, 3),
        "in_half": torch.ones(3).half(),
    }.items():
        model.register_buffer(name, buffer, persistent=False)
    model.register_buffer("without", None)
    whole = xxhash.xxh3_128()
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(named, key=lambda item: item[0]):
        kept = tensor.detach()[:256] if name.endswith(("rotary_cos", "rotary_sin")) else tensor.detach()
        order = tuple(sorted(range(kept.ndim), key=lambda d: -kept.stride(d)))
        there = kept.permute(order)
        one = xxhash.xxh3_128(repr((str(there.dtype), list(there.shape))).encode() + there.numpy().tobytes())
        whole.update(repr((name, order, one.hexdigest())).encode())
    assert weights_digest(model) == whole.hexdigest()


@pytest.fixture
def half(checkpoint: Callable) -> Iterator[Any]:
    yield ms.load(checkpoint("llama-gqa"), dtype="bfloat16")


def test_directions_fit_the_checkpoint_in_every_dtype_but_not_after_an_ablation(tiny: Callable, half: Any) -> None:
    model = deepcopy(tiny("llama-gqa"))
    of_the_model, of_the_half = (random_direction(m, seed=0, layer=1) for m in (model, half))
    for direction in (of_the_model, of_the_half):
        for other in (model, half):
            ms.add(direction, 1.0).check(other)
    model.blocks[1].attn.W_O.data[2] = 0
    ablated = random_direction(model, seed=0, layer=1)
    ms.add(ablated, 1.0).check(model)
    for direction, other in ((of_the_model, model), (ablated, half), (ablated, tiny("llama-gqa"))):
        with pytest.raises(ms.MechsteerError, match=r"not on '.*' as it is now .* Pass transfer=True"):
            ms.add(direction, 1.0).check(other)
        ms.add(direction, 1.0, transfer=True).check(other)


def test_the_fingerprint_reads_every_byte_of_the_weights(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-gqa", tmp_path / "m")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    seen = {ms.model_info(ms.load(folder, check=False)).fingerprint}
    generator = np.random.default_rng(0)
    start = 8 + int.from_bytes(content[:8], "little")
    for place in generator.integers(start, len(content), size=12):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        seen.add(ms.model_info(ms.load(folder, check=False)).fingerprint)
    assert len(seen) == 13
