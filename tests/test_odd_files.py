"""What lies where a file should, and names that no file has: pipes, folders, links, names that are twice in a file."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import mechsteer as ms
from mechsteer import plots
from mechsteer.analysis.bootstrap import resamples
from mechsteer.analysis.propagation.table import _deltas
from mechsteer.comparison import Comparison
from mechsteer.errors import LONGEST
from mechsteer.files import read_record, writable_dir, write_record, write_table
from mechsteer.html_report import Report, write
from mechsteer.organisms.training import written_whole
from mechsteer.plots.base import thumbnail
from mechsteer.resumable import Parts
from mechsteer.scoring import read_responses
from mechsteer.studies.core import cells
from mechsteer.studies.core.result import Result
from mechsteer.studies.questions import bench as questions
from mechsteer.studies.sweep import grid, sweep
from mechsteer.studies.sweep.grids import read_grid
from mechsteer.tensors import read_tensors
from tests.fuzz.kinds import KINDS

READ_ALONE = [
    name for name in KINDS if name.startswith(tuple("MemoTrap opinion rules IFEval task sweep cell study".split()))
]
READ_ALONE += ["direction", "intervention", "control vector", "tokenizer.json", "safetensors", "SAE cfg.json"]


@contextmanager
def within_seconds(seconds: int) -> Iterator[None]:
    """Fail where reading waits for ever."""

    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Linux, macOS")
@pytest.mark.parametrize("name", READ_ALONE)
def test_nobody_waits_at_a_pipe_or_a_device(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = kind.prepare(tmp_path)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)):
        path.unlink()
        make(path)
        with within_seconds(60), pytest.raises(ms.MechsteerError):
            kind.read(tmp_path)


READERS: dict[str, Callable[[Any], Any]] = {
    "load": ms.load,
    "load_sae": ms.load_sae,
    "Direction.load": ms.Direction.load,
    "Intervention.load": ms.Intervention.load,
    "from_gguf": ms.Direction.from_gguf,
    "ActivationStore.open": ms.ActivationStore.open,
    "task": lambda name: ms.task(f"{name}.jsonl"),
    "ifeval": ms.tasks.ifeval,
    "memotrap": ms.tasks.memotrap,
    "opinion": ms.tasks.opinion,
    "rules": lambda name: ms.tasks.rules(f"{name}.json"),
    "sweep": lambda name: read_grid(f"{name}.toml"),
    "Result": Result.load,
    "thumbnail": lambda name: thumbnail(Path(name)),
    "responses": lambda name: read_responses(SimpleNamespace(samples=()), name),
}


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-of-this-name/x", "./" + "y/" * 3000, "\ud800"])
@pytest.mark.parametrize("reader", READERS)
def test_names_that_no_file_has(reader: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ms.MechsteerError):
        READERS[reader](name)


def _figure(path: Any) -> Any:
    from matplotlib.figure import Figure

    return plots.save(Figure(), path)


WRITERS: dict[str, Callable[[Any], Any]] = {
    "Direction.save": lambda path: DIRECTION.save(path),
    "Intervention.save": lambda path: ms.add(DIRECTION, 1.0).save(path),
    "to_gguf": lambda path: DIRECTION.to_gguf(path),
    "create": lambda path: ms.ActivationStore.create(path),
    "page": lambda path: write(Report("x", (), {}), path),
    "figure": _figure,
    "table": lambda path: write_table(pd.DataFrame({"x": [1]}), path),
    "folder": writable_dir,
    "Comparison.save": lambda path: Comparison(pd.DataFrame(), pd.DataFrame(), "x").save(path),
    "sweep": lambda path: sweep(grid(a=[1]), path, run="tests.faults.jobs:cell", progress=False),
}
DIRECTION = ms.Direction(torch.ones(4), "blocks.1.hook_resid_post", "x")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", [*WRITERS, *READERS])
def test_a_path_that_is_none_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").write_text("x")
    texts, others = ["a\0b", "\ud800", "x" * 300, "file/below"], [3, b"x", ["x"]]
    for path in texts + ([] if name in ("table", "thumbnail") else others):  # theirs are made by their callers
        with pytest.raises(ms.MechsteerError):
            (WRITERS | READERS)[name](path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("read", [ms.load, ms.load_sae, ms.ActivationStore.open, Result.load])
def test_a_folder_that_may_not_be_read_is_one_line(
    read: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, *_: Any, **__: Any) -> Any:  # root may read all
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "closed").mkdir()
    with monkeypatch.context() as patch:
        for name in ("is_file", "iterdir", "read_bytes"):
            patch.setattr(Path, name, denied)
        with pytest.raises(ms.MechsteerError, match="closed"):
            read(tmp_path / "closed")


def test_what_has_no_size_that_fits_is_refused_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=r"n_boot=1,000,000,000,000 resamples of 2 are 2,000,000,000,000 num"):
        resamples(2, samples=10**12)
    with pytest.raises(ms.MechsteerError, match="delta has more than 10,000 values"):
        _deltas(range(10**12))
    with pytest.raises(ms.MechsteerError, match=r"shard_mb must be above 0 and at most 1,000,000, got 1e\+305"):
        ms.ActivationStore.create(tmp_path, shard_mb=1e305)
    edit = ms.Intervention.of("add", DIRECTION.site, 1.0, direction=DIRECTION, options={"x": object()})
    with pytest.raises(ms.MechsteerError, match="options are JSON values"):
        edit.save(tmp_path / "i.safetensors")
    assert not list(tmp_path.iterdir())


def test_long_messages_keep_their_ends() -> None:
    said = str(ms.MechsteerError(f"begins {'x' * 5000} ends"))
    assert len(said) == LONGEST and said.startswith("begins x") and said.endswith("x ends") and " … " in said


TWICE = {
    "t.jsonl": '{"prompt": "a", "check": "lowercase", "prompt": "b"}',
    "t.csv": "prompt,check,prompt\na,lowercase,b\n",
    "s.json": '{"grid": {"layer": [0], "layer": [1]}}',
    "r.json": '[{"input": "a", "output": "b", "output": "c"}]',
    "o.csv": "group,prompt,answer,probability,answer\nw,q,a,1,b\n",
    "m.csv": "prompt,classes,answer_index,prompt\np,\"['a', 'b']\",0,q\n",
}


@pytest.mark.parametrize("name", TWICE)
def test_a_name_that_is_there_twice_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(TWICE[name])
    read = {"t": ms.task, "s": read_grid, "r": ms.tasks.rules, "o": ms.tasks.opinion, "m": ms.tasks.memotrap}[name[0]]
    with pytest.raises(ms.MechsteerError, match=r"'(prompt|layer|output|answer)'.* twice"):
        read(path)


def test_a_checkpoints_configuration_is_read_as_hugging_face_reads_it(tmp_path: Path) -> None:
    path = KINDS["config.json (llama)"].prepare(tmp_path)
    path.write_text(path.read_text().replace("{", '{"vocab_size": 5,', 1))
    assert ms.load(tmp_path).cfg.d_vocab > 5


def test_a_line_of_a_csv_file_ends_where_an_editor_says(tmp_path: Path) -> None:
    odd = "one\u2028two\x0cthree\x85four\x1cfive"
    (tmp_path / "t.csv").write_text(f"prompt,check\n{odd},lowercase\nsix,lowercase\n", encoding="utf-8")
    assert [sample.text for sample in ms.task(tmp_path / "t.csv").samples] == [odd, "six"]


def test_half_a_character_in_a_trap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("prompt,classes,answer_index\np,\"['a', '\\ud800']\",0\n")
    with pytest.raises(ms.MechsteerError, match="line 2: classes must be a list of two or more words"):
        ms.tasks.memotrap(tmp_path / "m.csv")


def test_what_is_left_of_a_checksum_is_one(tmp_path: Path) -> None:
    path = write_record(tmp_path / "study.json", {"study": "guide", "tables": ["a"]})
    text = path.read_text().replace("checksum", "chgcksum").replace("tables", "uables")
    for start in ("mechsteer-sha256:", "echsteer-sha256:", "mechsteer-sha2S6:"):
        path.write_text(text.replace("mechsteer-sha256:", start))
        with pytest.raises(ms.MechsteerError, match=r"has no checksum|damaged"):
            read_record(path, "record of a study")


def test_a_changed_byte_in_kept_states_is_found(tmp_path: Path) -> None:
    made = [torch.ones(2, 3), torch.zeros(2, 3)]
    one: Any = SimpleNamespace(model=None, layers=[0], bench=SimpleNamespace(folder=tmp_path, batch_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "site", lambda *_, **__: "here")
        patch.setattr(questions, "cell_key", lambda *_, **__: "key")
        patch.setattr(questions, "Instructions", lambda *_: SimpleNamespace(prompts=lambda *_, **__: []))
        patch.setattr(questions, "last_states", lambda *_, **__: {"here": made.pop()})
        first = questions.Setup._computed(one, (), True)["here"]
        path = tmp_path / "states" / "key.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert read_tensors(path).tensors["here"].ne(first).any()
        assert questions.Setup._computed(one, (), True)["here"].eq(1).all()


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "cells" / "a.parquet").mkdir(parents=True)
    with pytest.raises(ms.MechsteerError, match=r"Cannot remove .*a\.parquet"):
        cells.cell(tmp_path, "a", lambda: pd.DataFrame({"x": [1]}))
    (tmp_path / "parts" / "000000-000001.parquet").mkdir(parents=True)
    with pytest.raises(ms.MechsteerError, match=r"Cannot remove .*000000-000001\.parquet"):
        Parts(tmp_path / "parts", 1).found()


RECORDS = ("study.json", "comparison.json", "tuning.json", "diagnosis.json")


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "value", [[], {}, 5, None, {"study": "guide"}, {"tables": ["../x"]}, {"tables": 3, "score": 1}]
)
def test_a_page_of_an_odd_record_is_refused_in_one_line(name: str, value: Any, tmp_path: Path, mechsteer: Any) -> None:
    (tmp_path / name).write_text(json.dumps(value))
    code, _, said = mechsteer("report", tmp_path)
    assert code == 2 and said.startswith("mechsteer: ") and said.count("\n") == 1


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ms.MechsteerError, match=r"a\.png is no readable picture"):
        thumbnail(tmp_path / "a.png")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space")])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(ms.MechsteerError, match=r"Cannot write .*model: .*[nN]o space"),
        written_whole(tmp_path / "model"),
    ):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_what_cannot_be_printed_is_one_line_and_a_reader_that_stops_none() -> None:
    command = [sys.executable, "-c", "from mechsteer.cli import main; main(['organisms', 'list'])"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        made = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert made.returncode == 2 and made.stderr == "mechsteer: [Errno 28] No space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    made = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert made.returncode == 2 and made.stderr == ""


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999}", "(a"])
def test_a_pattern_that_python_refuses_is_named(pattern: str) -> None:
    with pytest.raises(ms.MechsteerError, match="regex needs a regular expression of Python"):
        ms.task([{"prompt": "a"}], check=f"regex:{pattern}")


FORGED: list[tuple[str, Any]] = [
    *(("options", value) for value in (None, [], 3, {})),
    *(("spans", value) for value in ("", "instruction", [], [""], [3])),
    *(("strength", value) for value in (-1, 0, 7, None)),
    ("options", {"compat": "papr"}),
    *(
        ("options", {"compat": "paper", "heads": value})
        for value in (None, 3, "x", [0], [[0, None]], [[0, 1.5]], [[0, -1]])
    ),
    *(("site", {"kinds": value, "layers": None}) for value in ([[[], "x"]], [["blocks"]], 3)),
    *(("site", {"kinds": [["blocks", "attn_scores"]], "layers": value}) for value in ("x", [], [-99], [None], 3)),
]


@pytest.mark.parametrize(("name", "value"), FORGED)
def test_an_edit_that_no_method_makes_is_refused_before_it_is_used(
    name: str, value: Any, tiny: Callable, tmp_path: Path
) -> None:
    model = tiny("llama")
    path = ms.pasta(heads=[(0, 0)]).save(tmp_path / "i.safetensors")
    header = dict(read_tensors(path).header)
    (edit,) = json.loads(header["edits"])
    forged = json.dumps([edit | {name: value}])
    save_file({}, path, metadata={"format": header["format"], "edits": forged})  # as the first versions, unverified
    made = ms.prompt(model, "the cat sat", instruction="a dog")
    with warnings.catch_warnings(), pytest.raises(ms.MechsteerError):
        warnings.simplefilter("ignore")
        ms.generate(model, [made], steer=ms.Intervention.load(path), max_new_tokens=1)


@pytest.mark.parametrize("change", [{"stacks": {}}, {"widths": {}}, {"key": {}}, {"key": {"dtype": "int3"}}])
def test_a_manifest_of_other_sites_than_its_shards_is_damaged(change: Any, tiny: Callable, tmp_path: Path) -> None:
    ms.capture(tiny("llama"), ["the cat"], sites="resid_post", store=tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    value = json.loads(path.read_text()) | change
    value.pop("checksum")  # as the first versions wrote
    path.write_text(json.dumps(value))
    with pytest.raises(ms.MechsteerError, match="is damaged"):
        ms.ActivationStore.open(tmp_path / "store")


def test_a_terminal_without_some_characters_and_names_that_are_no_text(tmp_path: Path) -> None:
    given = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", "from mechsteer.cli import main; main()"]
    made = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, env=given)
    assert made.returncode == 0 and "reproduce" in made.stdout and made.stderr == ""
    name = os.fsdecode(b"no\xff.jsonl")
    made = subprocess.run([*command, "score", name, name], capture_output=True, text=True, check=False, env=given)
    assert made.returncode == 2 and made.stderr == "mechsteer: No such file: no\\udcff.jsonl.\n"
