"""The command line: what it prints, and that bad input ends with one line and exit code 2."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

import mechsteer as ms
from mechsteer import cli
from mechsteer.studies import registry
from mechsteer.studies.dola_decoding import study as dola_decoding
from mechsteer.studies.t5_dola import study as t5_dola
from tests.command_line import CommandLine

COMMANDS = ["reproduce", "figures", "sweep", "generate", "compare", "diagnose", "score", "inspect", "organisms"]
COMMANDS += ["organisms list", "organisms train", "organisms train-sae"]
STUDIES = get_args(get_type_hints(cli.Reproduce)["study"])
PROMPT = ms.tasks.memotrap().samples[0].prompt


@pytest.fixture
def refused(mechsteer: CommandLine) -> Callable[..., str]:
    """A function that runs the command line, wants code 2 and one line, and returns that line."""

    def run(*arguments: object) -> str:
        code, out, err = mechsteer(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("mechsteer: ") and err.endswith("\n") and err.count("\n") == 1, err
        return err

    return run


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, trap_t5: Any) -> Any:
    """The organism, without loading it for every command."""
    original = ms.models.load
    monkeypatch.setattr(
        "mechsteer.models.load", lambda name, **k: trap_t5 if name == "organism:trap-t5" else original(name, **k)
    )
    return trap_t5


@pytest.fixture(scope="session")
def direction(trap_t5: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A direction file mined on a few traps."""
    mined = ms.gradient_direction(trap_t5, ms.tasks.memotrap().mining[:16], layer=2)
    return mined.save(tmp_path_factory.mktemp("direction") / "d.safetensors")


def in_a_shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mechsteer", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


# ------------------------------------------------------------------------------------------------ help


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = f"""
import contextlib, io, sys
from mechsteer.cli import main
for command in {["", *COMMANDS]!r}:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            main([*command.split(), "--help"])
        except SystemExit as stop:
            assert not stop.code, (command, stop.code)
    assert ("mechsteer " + command).strip() in text.getvalue(), text.getvalue()
    heavy = {{"torch", "transformers", "transformer_lens", "pandas", "matplotlib"}} & set(sys.modules)
    assert not heavy, (command, heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("reproduce", cli.Reproduce),
        ("generate", cli.Generate),
        ("figures", cli.Figures),
        ("sweep", cli.Sweep),
        ("compare", cli.Compare),
        ("diagnose", cli.Diagnose),
        ("score", cli.Score),
        ("inspect", cli.Inspect),
        ("organisms train", cli.TrainOrganism),
        ("organisms train-sae", cli.TrainSae),
    ],
)
def test_help_names_and_explains_every_argument(mechsteer: CommandLine, command: str, kind: type) -> None:
    code, out, err = mechsteer(*command.split(), "--help")
    assert (code, err) == (0, "")
    described = {line.split()[0].rstrip(",") for line in out.replace("│", " ").splitlines() if line.strip()}
    for field in dataclasses.fields(kind):
        if field.name == "study":  # its names fill more than a line
            assert f"{{{','.join(STUDIES)}}}" in "".join(out.replace("│", " ").split())
            continue
        wanted = field.name.upper() if field.default is dataclasses.MISSING else f"--{field.name.replace('_', '-')}"
        assert wanted in described
    assert "{None}" not in out


def test_an_unknown_option_exits_with_2_and_names_the_nearest(mechsteer: CommandLine) -> None:
    code, out, err = mechsteer("generate", "x", "--max-new-token", "3")
    assert code == 2
    assert "--max-new-tokens" in out + err


# ------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--methods", ["compare", "own.jsonl", "--methods", "guide:1", "--methods=directer"]),
        ("--methods", ["tune", "MODEL", "own.jsonl", "--methods", "guide", "--methods", "vector"]),
        ("--format", ["figures", "results", "--format", "pdf", "--format", "svg"]),
    ],
)
def test_a_list_that_is_given_in_two_parts_is_refused(
    option: str, given: list[str], refused: Callable[..., str]
) -> None:
    assert f"{option} is given 2 times: give all its values behind one, {option} A B." in refused(*given)


def test_the_installed_command_is_this_function() -> None:
    done = in_a_shell("organisms", "list")
    assert (done.returncode, done.stderr) == (0, "")
    name, bundled, minutes = done.stdout.splitlines()[2].split()[:3]
    assert (name, bundled) == ("organism:trap-t5", "True") and int(minutes) > 0


def test_inspect_compares_and_lists_the_hook_points(mechsteer: CommandLine, loaded: Any) -> None:
    code, out, _ = mechsteer("inspect", "organism:trap-t5", "--layer", 3)
    assert code == 0
    assert f"fingerprint {ms.model_info(loaded).fingerprint}" in out.splitlines()[0]
    table = ms.sites(loaded).query("layer == 3")
    shown = {line.split()[0] for line in out.split("Hook points of layer 3\n\n")[1].splitlines()[2:]}
    assert shown == set(table["site"])
    assert "False" not in out.split("Hook points")[0], "every comparison with Hugging Face is ok"


def test_generate_prints_what_the_library_generates(mechsteer: CommandLine, loaded: Any, direction: Path) -> None:
    plain = ms.generate(loaded, PROMPT, max_new_tokens=12).texts[0]
    assert mechsteer("generate", PROMPT, "--max-new-tokens", 12) == (0, plain + "\n", "")
    d = ms.Direction.load(direction)
    steered = ms.generate(loaded, PROMPT, steer=ms.add(d, -30.0), max_new_tokens=12).texts[0]
    assert steered != plain
    common = ("generate", PROMPT, "--max-new-tokens", 12, "--direction", direction)
    assert mechsteer(*common, "--scale", -30.0) == (0, steered + "\n", "")
    relative = ms.generate(loaded, PROMPT, steer=ms.add(d, -2 * d.activation_norm), max_new_tokens=12).texts[0]
    assert mechsteer(*common, "--scale", -2.0, "--relative") == (0, relative + "\n", "")


def test_generate_samples_with_a_seed(mechsteer: CommandLine, loaded: Any) -> None:
    sampled = ms.generate(loaded, PROMPT, strategy=ms.Sample(temperature=3.0, seed=4), max_new_tokens=12).texts[0]
    arguments = ("generate", PROMPT, "--max-new-tokens", 12, "--temperature", 3.0, "--seed")
    assert mechsteer(*arguments, 4)[1] == sampled + "\n"
    assert mechsteer(*arguments, 5)[1] != sampled + "\n"


def test_generate_takes_an_intervention_and_a_strategy(
    mechsteer: CommandLine, loaded: Any, direction: Path, tmp_path: Path
) -> None:
    marked = PROMPT.replace(PROMPT.split()[0], f"<!!-> {PROMPT.split()[0]} <-!!>", 1)
    prompt = ms.prompt(loaded, marked)
    steer = ms.attention_bias(delta=4.0)
    steer.save(tmp_path / "steer.safetensors")
    common = ("generate", marked, "--max-new-tokens", 12)
    expected = ms.generate(loaded, prompt, steer=steer, max_new_tokens=12).texts[0]
    assert mechsteer(*common, "--intervention", tmp_path / "steer.safetensors")[1] == expected + "\n"
    both = steer + ms.add(ms.Direction.load(direction), -30.0)
    expected = ms.generate(loaded, prompt, steer=both, max_new_tokens=12).texts[0]
    given = ("--intervention", tmp_path / "steer.safetensors", "--direction", direction, "--scale", -30.0)
    assert mechsteer(*common, *given)[1] == expected + "\n"
    for name, strategy in (("directer", ms.Directer()), ("dola", ms.DoLa())):
        expected = ms.generate(loaded, prompt, strategy=strategy, max_new_tokens=12).texts[0]
        assert mechsteer(*common, "--strategy", name) == (0, expected + "\n", "")


def test_organisms_train_calls_the_trainer(
    mechsteer: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, Any]] = []

    def train(organism: Any, out: Path, *, seed: int | None = None) -> Path:
        seen.append((out, seed))
        return out

    monkeypatch.setattr(ms.organisms.Organism, "train", train)
    code, out, _ = mechsteer("organisms", "train", "trap-t5", "--out", tmp_path / "new", "--seed", 3)
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "new")
    assert mechsteer("organisms", "train", "trap-t5")[0] == 0
    assert seen == [(tmp_path / "new", 3), (Path("results/organisms/trap-t5"), None)]


def test_organisms_train_sae_calls_the_trainer(
    mechsteer: CommandLine, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Path, Any]] = []

    def train(name: str, out: Path, *, seed: int | None = None) -> Path:
        seen.append((name, out, seed))
        return out

    monkeypatch.setattr("mechsteer.organisms.saes.train_sae", train)
    code, out, _ = mechsteer("organisms", "train-sae", "trap-t5", "--out", tmp_path / "new", "--seed", 3)
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "new")
    assert mechsteer("organisms", "train-sae", "instruct-llama")[0] == 0
    assert seen == [("trap-t5", tmp_path / "new", 3), ("instruct-llama", Path("results/saes/instruct-llama"), None)]
    assert "'instruct-llama'" in refused("organisms", "train-sae", "instruct-lama")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes the study small; the path of its traps."""
    task = ms.tasks.memotrap()
    rows = [(t.prompt, repr(list(t.classes)), t.answer_index, t.split) for t in task.mining[:6] + task.samples[:6]]
    path = tmp_path / "small.csv"
    pd.DataFrame(rows, columns=["prompt", "classes", "answer_index", "split"]).to_csv(path, index=False)
    original = t5_dola.run
    monkeypatch.setattr(
        t5_dola, "_SIDE_TASKS", (lambda: replace(ms.tasks.recall(), samples=ms.tasks.recall().samples[:3]),)
    )
    monkeypatch.setattr(
        t5_dola, "run",
        lambda *a, **k: original(*a, layers=[2], strengths=[1.0], absolute=[20.0], n_random=1, draw=False, **k),
    )  # fmt: skip
    decoding = dola_decoding.run
    monkeypatch.setattr(dola_decoding, "run", lambda *a, **k: decoding(*a, n=2, **k))
    return path


@pytest.mark.usefixtures("unchecked")
def test_reproduce_prints_its_tables_and_figures_draws_from_them(
    mechsteer: CommandLine, loaded: Any, small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    code, printed, _ = mechsteer("reproduce", "t5-dola", "--out", folder, "--data", small)
    assert code == 0
    assert f"Tables and figures are in {folder}/" in printed
    printed, decoding = printed.split("Decoding with DoLa on organism:trap-t5")
    assert "dola, paper's equations" in decoding
    summary = pd.read_parquet(folder / "summary.parquet")
    for row in summary.itertuples():
        line = next(line for line in printed.splitlines() if line.startswith(str(row.row)))
        assert f"{row.correct_percent:.1f}" in line.split()
    assert "Side effects" in printed and "recall" in printed

    assert not (folder / "figures").exists(), "left out above, to be drawn here"
    code, printed, err = mechsteer("figures", folder)
    assert (code, err) == (0, "")
    drawn = [Path(line) for line in printed.splitlines()]
    assert sorted(drawn) == sorted([*(folder / "figures").iterdir(), *(folder / "decoding" / "figures").iterdir()])
    assert {path.name for path in drawn} >= {"heatmap_relative.pdf", "controls.png", "side_effects.pdf"}

    code, printed, err = mechsteer("figures", folder / "decoding")
    assert (code, err) == (0, "") and "bars_trap-t5.pdf" in printed

    (folder / "grid.parquet").write_bytes(b"PAR1")
    code, _, err = mechsteer("figures", folder)
    assert code == 2 and "grid.parquet is not a readable parquet table" in err


def test_reproduce_all_runs_each_study_in_a_folder_of_its_own(
    mechsteer: CommandLine, loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechsteer.models.load", lambda name, **_: name)
    ran = {}

    def run(name: str, models: Any, out: Path, **_: Any) -> str:
        ran[name] = ([models] if isinstance(models, str) else models, out)
        return name

    bundled = [name for name, study in registry.STUDIES.items() if study.models]
    for name, study in registry.STUDIES.items():
        monkeypatch.setattr(study.module("study"), "run", partial(run, name))
        monkeypatch.setattr(study.module("report"), "report", lambda result: f"Report of {result}.")
    code, printed, _ = mechsteer("reproduce", "all", "--out", tmp_path)
    assert code == 0 and STUDIES[-1] == "all"
    assert list(ran) == bundled and set(STUDIES[:-1]) - set(bundled) == {"ifeval", "ifeval-vectors"}, (
        "in the order of the help text"
    )
    assert all(
        folder == tmp_path / study and f"Report of {study}." in printed and f"are in {folder}/" in printed
        for study, (_, folder) in ran.items()
    )
    assert all(name.startswith("organism:") for names, _ in ran.values() for name in names)


def test_all_studies_on_a_model_of_ones_own_are_all_that_it_can_do(
    mechsteer: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, ran = [], []
    monkeypatch.setattr("mechsteer.models.load", lambda name, **_: loads.append(name) or name)

    def run(name: str, model: Any, out: Path, **_: Any) -> str:
        if name in ("inside", "compose"):
            raise ms.MechsteerError(f"No {name} of {model}.")
        ran.append(name)
        return name

    for name, study in registry.STUDIES.items():
        monkeypatch.setattr(study.module("study"), "run", partial(run, name))
        monkeypatch.setattr(study.module("report"), "report", lambda result: f"Report of {result}.")
    code, printed, err = mechsteer("reproduce", "all", "--model", "mine", "--out", tmp_path)
    assert ran == [n for n, s in registry.STUDIES.items() if s.models and n not in ("inside", "compose")]
    assert code == 2 and loads == ["mine"] and "Report of questions." in printed
    assert err.endswith("these could not run. inside: No inside of mine. compose: No compose of mine.\n")


def test_an_option_of_0_is_one_that_was_given(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "--n and --kinds are for" in refused("reproduce", "steering", "--n", "0", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("study", "runs"),
    [("guide", "ifeval"), ("directer", "ifeval"), ("ifeval", "ifeval"), ("steer-instruct", "ifeval-vectors")],
)
def test_studies_that_take_prompts_of_ifeval(
    study: str, runs: str, mechsteer: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"key": 1, "prompt": "Write. No commas.", "prompt_without_instruction": "Write.", "kwargs": [{}]}
    data = tmp_path / "ifeval.jsonl"
    data.write_text(json.dumps(line | {"instruction_id_list": ["punctuation:no_comma"]}), encoding="utf-8")
    code, _, err = mechsteer("reproduce", "ifeval", "--data", data)
    assert code == 2 and "needs --model and --data" in err
    monkeypatch.setattr("mechsteer.models.load", lambda name, **_: name)
    module, given = registry.STUDIES[runs].module("study"), []
    monkeypatch.setattr(module, "run", lambda model, out, **options: given.append((model, options)))
    monkeypatch.setattr(registry.STUDIES[runs].module("report"), "report", lambda result: "Printed.")
    options = ("--n", 5, "--kinds", "punctuation:no_comma", "--max-new-tokens", 9)
    code, printed, _ = mechsteer("reproduce", study, "--model", "x", "--data", data, "--out", tmp_path / "o", *options)
    assert code == 0 and "Printed." in printed and given[0][0] == "x"
    wanted = {
        "batch_size": 128,
        "executor": None,
        "data": data,
        "n": 5,
        "kinds": ("punctuation:no_comma",),
        "max_new_tokens": 9,
    }
    assert given[0][1] == wanted


# ------------------------------------------------------------------------------------------------ bad input


def test_a_sweep_prints_its_summary_and_continues_and_failures_exit_with_1(
    mechsteer: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "repaired"))
    grid, out = tmp_path / "grid.toml", tmp_path / "out"
    grid.write_text('run = "tests.studies.sweep_runs:failing"\n[grid]\na = [0, 1, 2]\nb = [0, 3]\n', encoding="utf-8")
    code, text, err = mechsteer("sweep", grid, "--out", out)
    assert code == 1 and "1 of 6 cells failed" in err and "KeyError: 'no such thing'" in text
    assert len(pd.read_parquet(out / "results.parquet")) == 5 * 3
    (tmp_path / "repaired").touch()
    code, text, err = mechsteer("sweep", grid, "--out", out, "--executor", "processes", "--workers", "1")
    assert code == 0 and "failed" not in text + err and str(out / "results.parquet") in text
    assert len(pd.read_parquet(out / "results.parquet")) == 6 * 3


def test_a_sweeps_table_keeps_scores_that_are_the_same_in_all_cells(mechsteer: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('run = "tests.studies.sweep_runs:constant"\n[grid]\na = [0, 1]\nb = 7\n', encoding="utf-8")
    code, text, _ = mechsteer("sweep", path, "--out", tmp_path / "out")
    header, _, *rows = text.splitlines()
    assert code == 0 and header.split() == ["a", "score"]  # b and the state are the same everywhere, and no scores
    assert [row.split() for row in rows[:2]] == [["0", "0.500"], ["1", "0.500"]]


def test_a_steering_sweep_runs_from_a_file(mechsteer: CommandLine, tmp_path: Path) -> None:
    axes = {"model": "organism:trap-t5", "task": "memotrap", "n": 4, "method": ["none", "add"], "layer": 2}
    (tmp_path / "grid.json").write_text(json.dumps({"grid": axes | {"strength": 1.0}}), encoding="utf-8")
    code, text, _ = mechsteer("sweep", tmp_path / "grid.json", "--out", tmp_path / "out")
    assert code == 0 and "gradient" in text
    assert len(pd.read_csv(tmp_path / "out" / "summary.csv")) == 2


def test_bad_sweeps_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    grid, out = tmp_path / "grid.toml", tmp_path / "out"
    refused_with = lambda *more: refused("sweep", grid, "--out", out, *more)  # noqa: E731
    assert "No such file" in refused_with()
    grid.write_text('[grid]\nmodel = "organism:trap-t5"\ntask = "memotrap"\nstength = 1\n', encoding="utf-8")
    assert "'stength'. Did you mean 'strength'" in refused_with()
    grid.write_text('run = "tests.studies.sweep_runs:rows"\n[grid]\na = 1\nb = 2\n', encoding="utf-8")
    assert "--address has no meaning with --executor processes" in refused_with(
        "--executor", "processes", "--address", "auto"
    )
    assert "--workers has no meaning with --executor serial. Give --executor processes" in refused_with(
        "--workers", "3"
    )
    assert "workers must be an integer of at least 1, got 0" in refused_with("--executor", "ray", "--workers", "0")
    assert not out.exists()


def test_an_unknown_organism_is_one_line_in_a_shell_too(tmp_path: Path) -> None:
    done = in_a_shell("reproduce", "t5-dola", "--model", "organism:trap-t6", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mechsteer: Unknown organism 'trap-t6'. Did you mean 'trap-t5'?\n"
    assert list(tmp_path.rglob("*.*")) == []


def test_models_that_cannot_be_loaded_are_refused(
    refused: Callable[..., str], tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    assert "'trap-t5'" in refused("inspect", "organism:trap5")
    assert "'trap-t5'" in refused("organisms", "train", "trap5")
    assert "no config.json" in refused("inspect", tmp_path)
    assert "No such model directory" in refused("generate", "x", "--model", tmp_path / "nosuch")
    pickled = shutil.copytree(checkpoint("t5"), tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin), which are never loaded" in refused("inspect", pickled)
    assert "device" in refused("inspect", "organism:trap-t5", "--device", "tpuu")


def test_a_layer_out_of_range_is_refused(refused: Callable[..., str], loaded: Any) -> None:
    for layer in (8, -1):
        assert f"Layer {layer} is out of range: layers 0 to 7" in refused(
            "inspect", "organism:trap-t5", "--layer", layer
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "nan", "--direction", "DIRECTION"], "--scale must be finite, got nan"),
        (["--scale", "nan"], "--scale must be finite, got nan"),
        (["--scale", "2"], "--direction FILE is missing"),
        (["--relative"], "--direction FILE is missing"),
        (["--temperature", "nan"], "temperature must be finite, got nan"),
        (["--temperature", "-1"], "temperature must be above 0"),
        (["--strategy", "directer", "--temperature", "0.7"], "--temperature must be 0, got 0.7"),
        (["--strategy", "directer"], "Unknown span (in the prompt 'x') 'instruction'"),
        (["--intervention", "nosuch.safetensors"], "No such file: nosuch.safetensors"),
        (["--max-new-tokens", "0"], "max_new_tokens must be an integer of at least 1, got 0"),
        (["--direction", "nosuch.safetensors"], "No such file: nosuch.safetensors"),
        (["--direction", str(Path(__file__))], "is not a readable safetensors file"),
    ],
)
def test_bad_steering_is_refused(
    refused: Callable[..., str], loaded: Any, direction: Path, arguments: list[str], message: str
) -> None:
    given = [str(direction) if a == "DIRECTION" else a for a in arguments]
    assert message in refused("generate", "x", *given)


def test_directions_that_do_not_fit_are_refused(refused: Callable[..., str], loaded: Any, tmp_path: Path) -> None:
    random = ms.random_direction(loaded, seed=0, layer=1)
    path = random.save(tmp_path / "random.safetensors")
    assert "records no mean activation norm" in refused("generate", "x", "--direction", path, "--relative")
    path = replace(random, site="decoder.1.hook_resid_pots").save(tmp_path / "site.safetensors")
    assert "decoder.1.hook_resid_post" in refused("generate", "x", "--direction", path)
    path = replace(random, meta={"model_fingerprint": "other"}).save(tmp_path / "other.safetensors")
    assert "Pass transfer=True" in refused("generate", "x", "--direction", path)


def test_broken_traps_are_named_by_their_line_before_a_model_is_loaded(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "traps.csv"
    path.write_text("prompt,classes,answer_index\nA: b,\"[' c', ' d']\",0\nA: b,\"[' c', ' d']\",7\n")
    line = refused("reproduce", "t5-dola", "--data", path, "--out", tmp_path / "out", "--model", "organism:nosuch")
    assert f"{path}, line 3: answer_index must be 0 to 1, got '7'" in line
    assert [p.name for p in tmp_path.iterdir()] == ["traps.csv"]


def test_data_of_the_wrong_study_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "ifeval.jsonl"
    path.write_text('{"key": 1}\n')
    assert "'prompt' must be a str" in refused("reproduce", "dola-decoding", "--data", path, "--out", tmp_path / "out")
    assert (
        "--data is for t5-dola, dola-decoding, inside, steer-instruct, guide, directer, layerwise, ifeval and"
        in refused("reproduce", "steering", "--data", path)
    )
    assert "--base and --perplexity-model are for" in refused("reproduce", "steering", "--base", "organism:trap-t5")
    assert [p.name for p in tmp_path.iterdir()] == ["ifeval.jsonl"]


def test_a_folder_that_cannot_be_written_to_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for study in ("t5-dola", "all"):
        assert "is not writable" in refused("reproduce", study, "--out", tmp_path / "file" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_bad_batch_size_is_refused(refused: Callable[..., str], loaded: Any, tmp_path: Path, batch_size: int) -> None:
    assert "batch_size" in refused("reproduce", "t5-dola", "--out", tmp_path / "out", "--batch-size", batch_size)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_folder_without_a_study_has_no_figures(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "study.json" in refused("figures", tmp_path)
    record = tmp_path / "study.json"
    for text, message in (
        ("{", "is not a JSON file"),
        ("[]", "Unknown study '[]'"),
        (json.dumps({"study": "t5-dolla"}), "Did you mean 't5-dola'"),
        (json.dumps({"study": "t5-dola"}), "No such table"),
    ):
        record.write_text(text)
        assert message in refused("figures", tmp_path)
    assert "study.json" in refused("figures", record)


def test_a_folder_beside_studies_names_them(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "study.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    near = f"Studies near it: {tmp_path / 'guide'}."
    assert f"is not the folder of a finished study: it has no study.json. {near}" in refused("figures", tmp_path)
    assert f"No such folder: {str(tmp_path / 'gude')!r}; " in (line := refused("figures", tmp_path / "gude"))
    assert near in line
    assert "`mechsteer reproduce STUDY --out FOLDER` makes one" in refused("figures", tmp_path / "mine")


def test_ctrl_c_exits_with_130_and_says_what_happens_next(
    mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mechsteer.models.load", stop)
    code, out, err = mechsteer("inspect", "organism:trap-t5")
    assert (code, out) == (130, "")
    assert err == "mechsteer: stopped; what was finished is kept, the same command continues.\n"


def test_other_errors_keep_their_traceback(mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mechsteer.models.load", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        mechsteer("inspect", "organism:trap-t5")
