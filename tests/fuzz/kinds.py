"""The kinds of files that mechsteer reads: a good one of each, and how it is read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mechsteer as ms
from tests.fuzz import mutate
from tests.fuzz.mutate import Change

QUESTION = [{"role": "user", "content": "the cat sat"}]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: Its name.
        prepare: Makes what is needed in an empty folder, and returns the file to be changed.
        read: Reads what is in the folder, as a user would, and returns what a good file gives.
        changes: What is done to the file.
        ours: Whether mechsteer wrote it: then whatever is read of a changed file must be what was in the good one.
    """

    name: str
    prepare: Callable[[Path], Path]
    read: Callable[[Path], Any]
    changes: tuple[Change, ...]
    ours: bool = False


def _model(family: str, file: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        from tests.tiny import write_checkpoint

        write_checkpoint(family, folder, chat=family != "qwen2")
        return folder / file

    return prepare


def _sharded(folder: Path) -> Path:
    from tests.tiny import hf_model

    _model("llama", "")(folder)
    (folder / "model.safetensors").unlink()
    hf_model("llama").save_pretrained(folder, max_shard_size="20KB")
    return folder / "model.safetensors.index.json"


def _load(folder: Path) -> Any:
    """Load, make a prompt, and generate."""
    model = ms.load(folder)
    chat = bool(model.tokenizer.chat_template)
    made = ms.prompt(model, QUESTION if chat else "the cat sat")
    return ms.generate(model, made, max_new_tokens=2).texts


def _template(folder: Path) -> Any:
    from types import SimpleNamespace

    from mechsteer.models.checkpoint.hf import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return ms.prompt(SimpleNamespace(tokenizer=tokenizer), QUESTION).text


def _gguf_model(folder: Path) -> Path:
    from tests.fuzz.gguf_model import write

    return write(folder / "model.gguf")


def _store(name: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        from contextlib import redirect_stdout
        from io import StringIO

        checkpoint = folder / "checkpoint"
        _model("llama", "")(checkpoint)
        with redirect_stdout(StringIO()):
            ms.capture(ms.load(checkpoint), ["the cat", "a dog sat"], sites="resid_post", store=folder / "store")
        shutil.rmtree(checkpoint)
        return folder / "store" / name

    return prepare


def _open(folder: Path) -> Any:
    store = ms.ActivationStore.open(folder / "store")
    rows = {site: rows[:].tolist() for site, rows in store.items()}
    return rows, store.index.values.tolist(), store.groups, [p.text for p in store.prompts()], repr(store.key)


def _cell(folder: Path) -> Path:
    from mechsteer.studies.core import cells

    cells.write(folder, "cell", _table())
    return cells.path_of(folder, "cell")


def _table() -> Any:
    import pandas as pd

    return pd.DataFrame({"sample": [0, 1], "output": ["a", "ä"], "score": [0.5, float("inf")], "seed": [None, None]})


def _read_cell(folder: Path) -> Any:
    from mechsteer.files import read_table

    return repr(read_table(folder / "cells" / "cell.parquet").to_dict())


def _study(folder: Path) -> Path:
    from mechsteer.studies.core.result import finish

    finish(folder, {"study": "guide", "model": "x"}, {"results": _table(), "summary": _table()})
    return folder / "study.json"


def _result(folder: Path) -> Any:
    from mechsteer.studies.core.result import Result

    return {name: repr(table.to_dict()) for name, table in Result.load(folder).tables.items()}


def _direction() -> ms.Direction:
    import torch

    return ms.Direction(torch.tensor([3.0, 0.0, -4.0]), "blocks.1.hook_resid_post", "gradient", 0.5, 20.0, {"a": "b"})


def _saved_direction(folder: Path) -> Path:
    return _direction().save(folder / "direction.safetensors")


def _read_direction(folder: Path) -> Any:
    found = ms.Direction.load(folder / "direction.safetensors")
    return found.vector.tolist(), found.site, found.method, found.mean_projection, found.meta


def _intervention(folder: Path) -> Path:
    both = ms.add(_direction(), 2.0, scope="generated") + ms.attention_bias("instruction", 1.5)
    return both.save(folder / "intervention.safetensors")


def _read_intervention(folder: Path) -> Any:
    return [
        (e.method, str(e.site), str(e.scope), e.strength, e.spans, dict(e.options), e.direction and e.direction.meta)
        for e in ms.Intervention.load(folder / "intervention.safetensors").edits
    ]


def _sae(name: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        from mechsteer.files import data_path

        for file in ("cfg.json", "sae_weights.safetensors"):
            shutil.copy(data_path("saes", "trap-t5", file), folder)
        return folder / name

    return prepare


def _read_sae(folder: Path) -> Any:
    from mechsteer.steering.saes import as_sae

    return as_sae(ms.load_sae(folder)).cfg.architecture()


def _control_vector(folder: Path) -> Path:
    return _direction().to_gguf(folder / "vector.gguf")


def _read_control_vector(folder: Path) -> Any:
    return {n: (d.vector.tolist(), d.site, d.meta) for n, d in ms.Direction.from_gguf(folder / "vector.gguf").items()}


def _text(name: str, content: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        path = folder / name
        path.write_text(content, encoding="utf-8")
        return path

    return prepare


MEMOTRAP = """prompt,classes,answer_index
"Write a quote that ends in the word ""queen"": A chain is only as strong as its weakest","[' link', ' queen']",1
"Write a quote that ends in the word ""red"": Music soothes the savage","[' beast', ' red']",1
"Write a quote that ends in the word ""trout"": Hope springs eternal in the human","[' breast', ' trout']",1
"""
OPINION = """group,prompt,answer,probability,split
west,"Q: cat
A:", le chat,0.694,train
west,"Q: cat
A:", dog,0.306,train
east,Q: hot A:, cold,1,test
"""
RULES = json.dumps([{"input": w, "output": w.upper()} for w in "hot cold cat dog red blue one two".split()])
IFEVAL = """{"key": 1, "prompt": "Write about tea. Use no commas.", "instruction_id_list": ["punctuation:no_comma"], \
"kwargs": [{}], "prompt_without_instruction": "Write about tea."}
{"key": 2, "prompt": "Say it twice.", "instruction_id_list": ["keywords:frequency"], "kwargs": [{"keyword": "tea", \
"frequency": 2, "relation": "at least"}]}
"""
OWN = """{"prompt": "Why is the sky blue?", "instruction": "Answer in one sentence.", "check": "sentences:1"}
{"prompt": [{"role": "user", "content": "Who wrote it?"}], "context": "Notes.", "kind": "who", "check": "lowercase"}
{"prompt": "<!!-> In capitals. <-!!> Why?", "base": "Why?", "check": "lowercase", "extra": [1, 2]}
"""
OWN_CSV = """prompt,instruction,check,words
"Why is the sky blue?",Answer in one sentence.,sentences:1,3
Who wrote it?,,lowercase,"[1, 2]"
"""
SWEEP = """run = "mechsteer.studies.sweep.steering:run"

[[grid]]
model = "organism:trap-t5"
layer = [0, 1, 2]
strength = [0.5, 1.0]
method = "add"

[[grid]]
layer = [3]
span = "instruction"
"""


def _tasks() -> list[Kind]:
    from mechsteer.studies.sweep.grids import read_grid

    def opinion(folder: Path) -> Any:
        return ms.tasks.opinion(folder / "o.csv", split="train").samples

    def own(name: str) -> Callable[[Path], Any]:
        return lambda folder: ms.task(folder / name).data_hash

    grid = json.dumps({"grid": {"layer": [0, 1], "method": "add"}, "run": "a:b"})
    return [
        Kind("MemoTrap CSV", _text("m.csv", MEMOTRAP), lambda f: ms.tasks.memotrap(f / "m.csv").samples, mutate.TEXT),
        Kind("opinion CSV", _text("o.csv", OPINION), opinion, mutate.TEXT),
        Kind("rules", _text("r.json", RULES), lambda f: ms.tasks.rules(f / "r.json", split="train").name, mutate.JSON),
        Kind("IFEval", _text("i.jsonl", IFEVAL), lambda f: ms.tasks.ifeval(f / "i.jsonl").data_hash, mutate.LINES),
        Kind("task JSONL", _text("t.jsonl", OWN), own("t.jsonl"), mutate.LINES),
        Kind("task CSV", _text("t.csv", OWN_CSV), own("t.csv"), mutate.TEXT),
        Kind("sweep TOML", _text("s.toml", SWEEP), lambda f: len(read_grid(f / "s.toml")[0]), mutate.TEXT),
        Kind("sweep JSON", _text("s.json", grid), lambda f: len(read_grid(f / "s.json")[0]), mutate.JSON),
    ]


def _own_files() -> list[Kind]:
    shard = "shard-000000"
    return [
        Kind("store manifest", _store("manifest.json"), _open, mutate.JSON, ours=True),
        Kind("store index", _store(f"{shard}.parquet"), _open, mutate.BYTES, ours=True),
        Kind("store shard", _store(f"{shard}.safetensors"), _open, mutate.SAFETENSORS, ours=True),
        Kind("cell", _cell, _read_cell, mutate.BYTES, ours=True),
        Kind("study.json", _study, _result, mutate.JSON, ours=True),
        Kind("direction", _saved_direction, _read_direction, mutate.SAFETENSORS, ours=True),
        Kind("intervention", _intervention, _read_intervention, mutate.SAFETENSORS, ours=True),
        Kind("control vector", _control_vector, _read_control_vector, mutate.BYTES, ours=True),
    ]


def _foreign() -> list[Kind]:
    return [
        *(Kind(f"config.json ({f})", _model(f, "config.json"), _load, mutate.JSON) for f in ("llama", "gpt2", "t5")),
        Kind("generation_config.json", _model("llama", "generation_config.json"), _load, mutate.JSON),
        Kind("tokenizer.json", _model("llama", "tokenizer.json"), _load, mutate.JSON),
        Kind("tokenizer.json (BPE)", _model("qwen2", "tokenizer.json"), _load, mutate.JSON),
        Kind("tokenizer_config.json", _model("llama", "tokenizer_config.json"), _load, mutate.JSON),
        Kind("chat template", _model("llama", "chat_template.jinja"), _template, mutate.TEMPLATE),
        Kind("safetensors", _model("llama", "model.safetensors"), _load, mutate.SAFETENSORS),
        Kind("sharded index", _sharded, _load, mutate.JSON),
        Kind("GGUF model", _gguf_model, lambda f: ms.load(f / "model.gguf").cfg.n_layers, mutate.BYTES),
        Kind("SAE cfg.json", _sae("cfg.json"), _read_sae, mutate.JSON),
        Kind("SAE weights", _sae("sae_weights.safetensors"), _read_sae, mutate.SAFETENSORS),
    ]


KINDS: dict[str, Kind] = {kind.name: kind for kind in (*_foreign(), *_own_files(), *_tasks())}
