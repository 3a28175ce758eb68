"""The command line. Thin over the library: every command is one call of a public function.

Nothing heavy is imported until a command runs, so ``--help`` is instant. Bad input ends with one line and exit code 2.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mechsteer.errors import MechsteerError

Positional = tyro.conf.Positional


def _shown_as(metavar: str) -> Any:
    """What stands for the value in the help text."""
    return tyro.conf.arg(metavar=metavar)


Device = Annotated[str | None, _shown_as("DEVICE")]


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Regenerate a paper's tables and figures: on the bundled model by default, on any other with --model.

    A run that was stopped continues where it was when it is started again with the same --out.
    """

    study: Positional[
        Literal[
            "t5-dola",
            "dola-decoding",
            "inside",
            "steer-instruct",
            "steering",
            "guide",
            "directer",
            "layerwise",
            "compose",
            "all",
        ]
    ]
    """Which study."""
    model: Annotated[str | None, _shown_as("MODEL")] = None
    """organism:NAME, a local directory, or an id on the Hugging Face hub. Default: the study's bundled models."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results")
    """Folder for results; with "all", each study gets a folder of its own in it."""
    data: Annotated[Path | None, _shown_as("FILE")] = None
    """For t5-dola and inside, traps in MemoTrap's CSV format; for dola-decoding, IFEval's JSONL; for layerwise, a rule
    in the function-vectors JSON format. Default: bundled."""
    device: Device = None
    """cpu, cuda, cuda:1, mps. Default: cuda where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    batch_size: int = 128
    """Prompts computed together; does not change the results."""
    base: Annotated[str | None, _shown_as("MODEL")] = None
    """For steer-instruct, the model that MODEL was tuned from: MODEL's vectors are tried on it."""
    perplexity_model: Annotated[str | None, _shown_as("MODEL")] = None
    """For steer-instruct, a second language model that finds collapsed outputs. Default: by repetition."""
    sae: Annotated[str | None, _shown_as("SAE")] = None
    """For compose, a directory that SAELens wrote, or organism:NAME. Default: the bundled one of MODEL."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Draw a study's figures again, from the tables in its folder alone."""

    folder: Positional[Annotated[Path, _shown_as("FOLDER")]]
    """A folder that `mechsteer reproduce` has written."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Compute a grid of models, methods, layers, strengths and seeds, cell by cell.

    A sweep that was stopped or killed goes on where it was when the same command is given again. A cell that fails does
    not stop the others; then the exit code is 1.
    """

    grid: Positional[Annotated[Path, _shown_as("GRID")]]
    """A .toml or .json file with a table [grid] of axes, e.g. model = "organism:trap-t5", task = "memotrap", method
    = "add", layer = [1, 2, 3], strength = [0.5, 1.0]; or several [[grid]], one after another. The names are explained
    in mechsteer.studies.sweep.steering. With run = "module:function" before the first table, that function computes the
    cells, and the names are its own."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/sweep")
    """Folder for the cells, results.parquet and summary.csv."""
    executor: Literal["serial", "processes", "ray"] = "serial"
    """This process, worker processes on this machine, or a Ray cluster (needs mechsteer[ray])."""
    workers: Annotated[int | None, _shown_as("INT")] = None
    """Worker processes, each with a model of its own. Default: 2."""
    retries: Annotated[int | None, _shown_as("INT")] = None
    """How often a cell is tried again whose worker died. Default: 2."""
    resume: bool = True
    """Skip finished cells; --no-resume refuses a folder that has any."""
    address: Annotated[str | None, _shown_as("ADDRESS")] = None
    """Ray: a running cluster, e.g. auto. Default: RAY_ADDRESS, else one on this machine for the time of the sweep."""
    num_cpus: Annotated[float | None, _shown_as("NUMBER")] = None
    """Ray: CPUs of each worker. Default: 1."""
    num_gpus: Annotated[float | None, _shown_as("NUMBER")] = None
    """Ray: GPUs of each worker; below 1 to share one. Default: 0."""
    device: Device = None
    """cpu, cuda, cuda:1, mps. Default: cuda where there is one."""
    batch_size: int = 64
    """Prompts computed together; does not change the results."""


@dataclasses.dataclass(frozen=True)
class Generate:
    """Generate an answer, unsteered or steered with a saved direction or intervention."""

    prompt: Positional[Annotated[str, _shown_as("PROMPT")]]
    """The prompt; GUIDE's tags mark its instruction: <!!-> Answer in capitals. <-!!>"""
    model: Annotated[str, _shown_as("MODEL")] = "organism:trap-t5"
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    direction: Annotated[Path | None, _shown_as("FILE")] = None
    """A direction saved as safetensors; it is added at its own site."""
    scale: float = 1.0
    """How many times the unit direction."""
    relative: bool = False
    """Take --scale in units of the mean activation norm at the direction's site."""
    transfer: bool = False
    """Allow a direction that was made on another model."""
    intervention: Annotated[Path | None, _shown_as("FILE")] = None
    """An intervention saved as safetensors; acts before --direction where both are given."""
    strategy: Literal["greedy", "sample", "dola", "directer"] = "greedy"
    """How tokens are chosen, with the papers' settings; directer needs a marked instruction."""
    max_new_tokens: int = 40
    """The most new tokens."""
    temperature: float = 0.0
    """0 is greedy; above 0 samples."""
    seed: int = 0
    """Seed of the sampler."""
    device: Device = None
    """cpu, cuda, mps."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare ways to steer on the same prompts: adherence with its interval, what was repaired and broken, quality.

    A comparison that was stopped continues where it was when it is started again with the same --out.
    """

    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, IFEval's file, or a bundled task: memotrap, instructions,
    recall, copying."""
    methods: Annotated[tuple[str, ...], _shown_as("METHOD ...")] = ("guide:1", "directer")
    """Beside the unsteered model: guide:DELTA, spotlight:TARGET, pasta:ALPHA, scale_keys:ALPHA, directer,
    directer:BETA, dola, or a saved intervention, FILE.safetensors."""
    model: Annotated[str, _shown_as("MODEL")] = "organism:instruct-llama"
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30, sentences:1, language:fr, contains:TEXT ... Default: as
    its lines say."""
    score: Annotated[str | None, _shown_as("COLUMN")] = None
    """The score that counts. Default: the task's first."""
    max_new_tokens: Annotated[int | None, _shown_as("INT")] = None
    """For a file of one's own, the most new tokens. Default: 128."""
    n: Annotated[int | None, _shown_as("INT")] = None
    """The most prompts. Default: all."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/comparison")
    """Folder for rows, summary, page and figure."""
    batch_size: int = 16
    """Prompts computed together; does not change the results."""
    device: Device = None
    """cpu, cuda, mps."""


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say why a model ignores an instruction: how often, is it attended to, decodable, what happens when it is cut.

    A diagnosis that was stopped continues where it was when it is started again with the same --out.
    """

    model: Positional[Annotated[str, _shown_as("MODEL")]]
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, or the bundled task instructions."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30, sentences:1, language:fr, contains:TEXT ... Default: as
    its lines say."""
    score: Annotated[str | None, _shown_as("COLUMN")] = None
    """The score that says whether a prompt is followed. Default: the task's first."""
    max_new_tokens: Annotated[int | None, _shown_as("INT")] = None
    """For a file of one's own, the most new tokens. Default: 128."""
    n: Annotated[int | None, _shown_as("INT")] = None
    """The most prompts. Default: all."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/diagnosis")
    """Folder for tables and page."""
    batch_size: int = 16
    """Prompts computed together; does not change the results."""
    device: Device = None
    """cpu, cuda, mps."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Score answers that something else wrote: of IFEval, prompt and instruction level, strict and loose."""

    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts, IFEval's file, or a bundled task: memotrap, instructions, recall, copying."""
    outputs: Positional[Annotated[Path, _shown_as("OUTPUTS")]]
    """A JSONL file with the texts "prompt" and "response" in each line."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30 ... Default: as its lines say."""
    out: Annotated[Path | None, _shown_as("FILE")] = None
    """A CSV file for the rows. Default: none is written."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Load a model, compare it with Hugging Face's, and list its hook points."""

    model: Positional[Annotated[str, _shown_as("MODEL")]]
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    layer: int = 0
    """The layer whose hook points are listed."""
    device: Device = None
    """cpu, cuda, mps."""
    plan: bool = False
    """Instead: how much memory and time generating takes, for as many prompts as the next four say."""
    prompts: int = 100
    """With --plan, how many prompts."""
    length: int = 256
    """With --plan, tokens of each prompt."""
    new_tokens: int = 64
    """With --plan, new tokens after each."""
    batch_size: int = 32
    """With --plan, prompts computed together."""


@dataclasses.dataclass(frozen=True)
class ListOrganisms:
    """List the bundled models."""


@dataclasses.dataclass(frozen=True)
class TrainOrganism:
    """Train a bundled model again from its seed."""

    name: Positional[Annotated[str, _shown_as("NAME")]]
    """Its name, e.g. trap-t5."""
    out: Annotated[Path | None, _shown_as("FOLDER")] = None
    """A new folder for the checkpoint. Default: results/organisms/NAME."""
    seed: Annotated[int | None, _shown_as("INT")] = None
    """Another seed than the bundled model's."""


@dataclasses.dataclass(frozen=True)
class TrainSae:
    """Train the sparse autoencoder of a bundled model again from its seed."""

    name: Positional[Annotated[str, _shown_as("NAME")]]
    """The name of the model, e.g. instruct-llama."""
    out: Annotated[Path | None, _shown_as("FOLDER")] = None
    """A new folder for the SAE. Default: results/saes/NAME."""
    seed: Annotated[int | None, _shown_as("INT")] = None
    """Another seed than the bundled SAE's."""


@dataclasses.dataclass(frozen=True)
class OrganismsCommand:
    """The bundled models: list them, or train one, or its sparse autoencoder, again."""

    command: (
        Annotated[ListOrganisms, tyro.conf.subcommand("list")]
        | Annotated[TrainOrganism, tyro.conf.subcommand("train")]
        | Annotated[TrainSae, tyro.conf.subcommand("train-sae")]
    )


Command = (
    Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[OrganismsCommand, tyro.conf.subcommand("organisms")]
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 on bad input and 130 on Ctrl-C."""
    command: Any = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="mechsteer",
        description="Find out why a language model ignores an instruction, and fix it without training.",
        args=args,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        _run(command)
    except MechsteerError as error:
        print(f"mechsteer: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mechsteer: stopped; what was finished is kept, the same command continues.", file=sys.stderr)
        sys.exit(130)


def _run(command: Any) -> None:
    if isinstance(command, OrganismsCommand):
        command = command.command
    actions = {
        Reproduce: _reproduce,
        Figures: _figures,
        Sweep: _sweep,
        Generate: _generate,
        Compare: _compare,
        Diagnose: _diagnose,
        Score: _score,
        Inspect: _inspect,
        ListOrganisms: _list_organisms,
        TrainOrganism: _train_organism,
        TrainSae: _train_sae,
    }
    actions[type(command)](command)


def _threads(model: str) -> None:
    """One thread for the bundled models: they are so small that sharing the work costs more than it saves."""
    if model.startswith("organism:") and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)


def _reproduce(c: Reproduce) -> None:
    from mechsteer.files import writable_dir
    from mechsteer.tasks import ifeval, memotrap, rules

    if c.data is not None and c.study in ("steering", "steer-instruct", "guide", "directer", "compose"):
        raise MechsteerError(
            f"--data is for t5-dola, dola-decoding, inside and layerwise; {c.study} has prompts of its own."
        )
    if c.study != "steer-instruct" and (c.base or c.perplexity_model):
        raise MechsteerError(f"--base and --perplexity-model are for steer-instruct, not {c.study}.")
    if c.study != "compose" and c.sae:
        raise MechsteerError(f"--sae is for compose, not {c.study}.")
    if c.data is not None:  # a broken file is named before a model is fetched
        {"dola-decoding": ifeval, "layerwise": rules}.get(c.study, memotrap)(c.data)
    actions = {
        "t5-dola": (("organism:trap-t5",), _t5_dola),
        "dola-decoding": (("organism:trap-t5", "organism:instruct-llama"), _dola_decoding),
        "inside": (("organism:trap-t5",), _inside),
        "steer-instruct": (("organism:instruct-llama",), _steer_instruct),
        "steering": (("organism:instruct-llama",), _steering),
        "guide": (("organism:instruct-llama",), _guide),
        "directer": (("organism:instruct-llama",), _directer),
        "layerwise": (("organism:rules-gpt2",), _layerwise),
        "compose": (("organism:instruct-llama",), _compose),
    }
    for study in actions if c.study == "all" else (c.study,):
        bundled, action = actions[study]
        names = (c.model,) if c.model else bundled
        out = writable_dir(c.out / study if c.study == "all" else c.out)
        _threads(names[0])
        action(c, [_loaded(c, name) for name in names], out)
        print(f"\nTables and figures are in {out}/ and {out}/figures/")


def _loaded(c: Reproduce, name: str) -> Any:
    from mechsteer.models import load

    return load(name, device=c.device, dtype=c.dtype)


def _t5_dola(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.dola_decoding import study as dola_decoding
    from mechsteer.studies.t5_dola import study as t5_dola

    (model,) = models
    result = t5_dola.run(model, out, data=c.data, batch_size=c.batch_size)
    print(f"\nMemoTrap on {model_info(model).name}, gradient steering (percent of evaluation traps)\n")
    print(show(result.summary))
    print("\nSide effects (percent right), by strength in mean residual norms\n")
    side = result.tables["side_effects"].pivot(index="task", columns="strength", values="percent").reset_index()
    print(show(side))
    if "published" in result.tables:
        print("\nPublished improvement of greedy success (percentage points), for this model\n")
        paper = result.tables["published"].pivot(index="layer", columns="strength", values="improvement_pp")
        print(show(paper.reset_index()))
    if c.study == "t5-dola":  # "all" runs it as a study of its own
        _show_decoding(dola_decoding.run(model, out / "decoding", traps=c.data, batch_size=c.batch_size))


def _dola_decoding(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.studies.dola_decoding import study as dola_decoding

    data = c.data if c.study == "dola-decoding" else None
    _show_decoding(dola_decoding.run(models, out, data=data, batch_size=c.batch_size))


def _show_decoding(result: Any) -> None:
    """Print the summary: its tasks and categories, a column a way of decoding."""
    from mechsteer.report import show

    summary = result.summary[result.summary["level"] != "instruction"]
    keys = ["task", "group", "scoring"]
    for model, part in summary.groupby("model_name", sort=False):
        shown = part.pivot(index=keys, columns="method", values="percent")
        shown = shown.reindex(index=list(dict.fromkeys(zip(*(part[k] for k in keys), strict=True))))
        print(f"\nDecoding with DoLa on {model} (percent)\n")
        print(show(shown[list(dict.fromkeys(part["method"]))].reset_index()))


def _inside(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.inside import study as inside

    (model,) = models
    result = inside.run(model, out, data=c.data, batch_size=c.batch_size)
    print(f"\nWhat the sublayers of {model_info(model).name} add to the target's logit minus the trap's, by group\n")
    means = result.summary.pivot(index=["group", "layer"], columns="sublayer", values="logit_difference")
    print(show(means[["self_attn", "cross_attn", "mlp"]].reset_index(), decimals=2))
    frozen = result.tables["frozen"].assign(percent=lambda table: 100 * table["accuracy"])
    print("\nTarget likelier than trap with cross-attention frozen (percent)\n")
    print(show(frozen.pivot(index="layer", columns="frozen", values="percent").reset_index()))


def _steer_instruct(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.instruction_vectors import study as steer_instruct

    (model,) = models
    result = steer_instruct.run(model, out, batch_size=c.batch_size, base=c.base, perplexity_model=c.perplexity_model)
    print(f"\nInstruction vectors on {model_info(model).name}, test prompts (percent, means over kinds)\n")
    columns = ["over", "kinds", "adherence_unsteered_percent", "adherence_steered_percent"]
    columns += ["fidelity_unsteered_percent", "fidelity_steered_percent", "p_value"]
    shown = result.summary[["setting", *columns]].assign(p_value=result.summary["p_value"].map("{:.2g}".format))
    print(show(shown.rename(columns=lambda name: name.removesuffix("_percent").replace("_", " "))))
    if "weights" in result.tables:
        weights = result.tables["weights"]
        print("\nDynamic weight (projection) and constant ones: prompts that are followed and true\n")
        print(show(weights.loc[weights["verdict"] != "", ["kind", "layer", "verdict"]]))
    both = result.tables["composition"].query("row == 'both'")
    if not both.empty:
        print("\nTwo vectors in one pass: test prompts that follow the first, the second, both (percent)\n")
        columns = ["pair", "setting", "first_percent", "second_percent", "both_percent", "both_and_true_percent"]
        print(show(both[columns].rename(columns=lambda name: name.removesuffix("_percent").replace("_", " "))))
    if "transfer" in result.tables:
        means = result.tables["transfer"].pivot_table(
            index=["setting", "share"], columns="vector", values="adherence_percent", sort=False
        )
        print("\nVectors in the base model (share 0) and between: adherence (percent, mean over formats)\n")
        print(show(means.reset_index(), decimals=2))
    if "published" in result.tables:
        paper = result.tables["published"]
        paper = paper.loc[paper["instruction"] == "all", ["setting", "method", "layer_choice", "accuracy_percent", "n"]]
        print("\nPublished accuracy on IFEval prompts, for this model\n")
        print(show(paper))


def _steering(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.families import study as steering

    (model,) = models
    result = steering.run(model, out, batch_size=c.batch_size)
    print(f"\nSteering families on {model_info(model).name}, mean over kinds of instructions (percent)\n")
    print(show(result.summary, decimals=2))


def _guide(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.guide import study as guide

    (model,) = models
    result = guide.run(model, out, batch_size=c.batch_size)
    print(f"\nGUIDE on {model_info(model).name}, mean over lengths (percent)\n")
    print(show(result.summary.rename(columns=lambda name: name.removesuffix("_percent"))))
    aucs = result.tables["prediction"].pivot(index=["task", "predictor"], columns="within", values="auc")
    print("\nWhat predicts success: AUC over all prompts, and within a length\n")
    print(show(aucs.reset_index(), decimals=3))
    if "choice" in result.tables:
        columns = ["length", "unit", "target", "delta", "score_percent", "unbiased_percent", "best_percent"]
        print("\nThe delta with as much Influence as a target, chosen without generating, and its score (percent)\n")
        print(show(result.tables["choice"].reindex(columns=columns), decimals=2))


def _directer(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.directer import study as directer

    (model,) = models
    result = directer.run(model, out, batch_size=c.batch_size)
    columns = ["notes", "method", "setting", "strength", "adherence_percent", "fidelity_percent", "average_percent"]
    shown = result.summary[columns].assign(p_value=result.summary["p_value"].map("{:.2g}".format))
    prompts = int(result.summary["n"].iloc[0])
    print(f"\nDIRECTER and others on {model_info(model).name}, {prompts} prompts (percent; p of adherence)\n")
    print(show(shown.rename(columns=lambda name: name.removesuffix("_percent").replace("_", " ")), decimals=2))
    changes = result.tables["differences"].query("measure != 'average'")
    print("\nOn the same prompts: percentage points, 95 % interval\n")
    print(show(changes[["method", "against", "measure", "difference_pp", "low_pp", "high_pp", "verdict"]]))
    costs = result.tables["cost"]
    about = f"{costs['device'].iloc[0]}, {costs['threads'].iloc[0]} of {costs['cores'].iloc[0]} cores"
    print(f"\nOne prompt at a time ({about})\n")
    columns = ["method", "first_token_ms", "token_ms", "tokens_per_second", "peak_mb", "first_token_ms_times"]
    print(show(costs[[*columns, "token_ms_times"]], decimals=2))
    paper = result.tables["published"]
    print(f"\nPublished, on {paper['published_model'].iloc[0]}\n")
    print(show(paper[["part", "variant", "published_measure", "published", "unit"]]))


def _layerwise(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info, provenance
    from mechsteer.report import show
    from mechsteer.studies.layerwise import study as layerwise

    (model,) = models
    data = c.data if c.study == "layerwise" else None
    result = layerwise.run(model, out, names=data, batch_size=c.batch_size)
    shown = {"exact_match_percent": "exact match", "exact_match_percent_low": "low", "exact_match_percent_high": "high"}
    layer = int(result.summary["layer"].iloc[0])
    print(f"\nLearned vectors on {model_info(model).name}, layer {layer}: exact match on test words (percent)\n")
    print(show(result.summary.drop(columns=["layer", *provenance(model)])))
    layers = result.tables["layers"]
    print(f"\nBy layer, unregularised, {layers['seeds'].iloc[0]} seeds (percent)\n")
    print(show(layers.pivot(index="layer", columns="rule", values="exact_match_percent").reset_index()))
    every = result.tables["examples"].query("rule == 'mean of the rules'")
    print("\nBy the number of training words, mean of the rules (percent, 95 % interval)\n")
    print(show(every[["method", "examples", *shown]].rename(columns=shown)))
    columns = ["rule", "l1_share", "weight", "heads", "entries", *shown]
    print("\nRegularised: weights as parts of the largest, heads and entries that are not zero (percent)\n")
    print(show(result.tables["tradeoff"][columns].rename(columns=shown), decimals=2))
    if "calculus" in result.tables:
        print("\nComposed rules (percent)\n")
        print(show(result.tables["calculus"][["rule", "method", *shown, "n"]].rename(columns=shown)))
        print("\nOpinions of groups: KL (nats), total variation, probability of the answers\n")
        columns = [name for measure in ("kl", "tv", "mass") for name in (measure, f"{measure}_low", f"{measure}_high")]
        print(show(result.tables["opinions"][["group", "method", *columns]], decimals=3))
    print("\nNo number of the paper could be obtained, so none is beside these.")


def _compose(c: Reproduce, models: list[Any], out: Path) -> None:
    from mechsteer.models import model_info
    from mechsteer.report import show
    from mechsteer.studies.compose import study as compose
    from mechsteer.studies.compose.tables import matrix

    (model,) = models
    result = compose.run(model, out, sae=c.sae, batch_size=c.batch_size)
    summary, apart = result.summary, result.tables["interference"]
    start = summary[summary["first"] == ""].iloc[0]
    print(f"\nPairs of ways to steer {model_info(model).name}, {start['n']} prompts; on the diagonal one way alone")
    for setting in ("chosen", "half"):
        for name in ("adherence", "fidelity", "interference"):
            percent = name != "interference"
            table = summary if percent else apart
            found = matrix(table[table["setting"] == setting], f"{name}_percent" if percent else name)
            unsteered = f" (percent; unsteered {start[f'{name}_percent']:.1f})" if percent else ""
            print(f"\n{name.capitalize()}, {setting} strengths{unsteered}\n")
            print(show(found.reset_index(names=""), decimals=1 if percent else 2))
    gains = result.tables["gains"].query("measure != 'average'")
    told = gains["gain_verdict"] != "not told apart"
    for label, part in (("gain", gains[told]), ("excess", gains[gains["setting"] == "half"])):
        about = {
            "gain": "Pair minus better single, where the interval leaves out 0",
            "excess": "Beyond the sum of gains",
        }
        print(f"\n{about[label]} (percentage points; {len(part)} of {len(gains)} rows)\n")
        columns = ["setting", "first", "second", "measure", f"{label}_pp", f"{label}_low_pp", f"{label}_high_pp"]
        print(show(part[columns].rename(columns=lambda name: name.removesuffix("_pp").replace("_", " "))))
    print("\nOrder at the SAE's hook point: vector first minus features first\n")
    print(show(result.tables["orders"], decimals=3))


def _figures(c: Figures) -> None:
    from mechsteer.errors import one_of
    from mechsteer.files import read_record
    from mechsteer.studies.compose import figures as compose_figures
    from mechsteer.studies.compose import study as compose
    from mechsteer.studies.directer import figures as directer_figures
    from mechsteer.studies.directer import study as directer
    from mechsteer.studies.dola_decoding import figures as dola_decoding_figures
    from mechsteer.studies.dola_decoding import study as dola_decoding
    from mechsteer.studies.families import figures as steering_figures
    from mechsteer.studies.families import study as steering
    from mechsteer.studies.guide import figures as guide_figures
    from mechsteer.studies.guide import study as guide
    from mechsteer.studies.inside import figures as inside_figures
    from mechsteer.studies.inside import study as inside
    from mechsteer.studies.instruction_vectors import figures as instruct_figures
    from mechsteer.studies.instruction_vectors import study as instruct
    from mechsteer.studies.layerwise import figures as layerwise_figures
    from mechsteer.studies.layerwise import study as layerwise
    from mechsteer.studies.t5_dola import figures as t5_figures
    from mechsteer.studies.t5_dola import study as t5_dola

    draw = {
        t5_dola.NAME: t5_figures.figures,
        steering.NAME: steering_figures.figures,
        dola_decoding.NAME: dola_decoding_figures.figures,
        inside.NAME: inside_figures.figures,
        instruct.NAME: instruct_figures.figures,
        guide.NAME: guide_figures.figures,
        directer.NAME: directer_figures.figures,
        compose.NAME: compose_figures.figures,
        layerwise.NAME: layerwise_figures.figures,
    }
    parts = [c.folder, *(path.parent for path in sorted(c.folder.glob("*/study.json")))]
    for folder in parts if (c.folder / "study.json").exists() else [c.folder]:
        study = read_record(folder / "study.json", "record of a study")
        name = one_of("study", str(study.get("study")) if isinstance(study, dict) else str(study), draw)
        for path in draw[name](folder):
            print(path)


def _sweep(c: Sweep) -> None:
    from mechsteer.report import show
    from mechsteer.studies.sweep import read_grid, sweep

    executor = _executor(c)
    cells, run = read_grid(c.grid)
    own: dict[str, Any] = {} if run is None else {"run": run}
    if own:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: functions of one's own are found where one is
    _threads(str(cells[0].get("model")))
    result = sweep(cells, c.out, executor=executor, resume=c.resume, device=c.device, batch_size=c.batch_size, **own)
    summary = result.summary.drop(columns="cell")
    failed = int((summary["state"] == "failed").sum())
    scores = list(summary)[list(summary).index("rows") + 1 :]  # shown also where they are the same in all cells
    told = [name for name in summary if len(summary) == 1 or name in scores or len(set(map(str, summary[name]))) > 1]
    print(show(summary[told], decimals=3))
    print(f"\nAll rows are in {c.out}/results.parquet, and these in {c.out}/summary.csv")
    if failed:
        print(
            f"mechsteer: {failed} of {len(summary)} cells failed; {c.out}/errors/ says how. The same command tries "
            "them again.",
            file=sys.stderr,
        )
        sys.exit(1)


def _executor(c: Sweep) -> Any:
    """The executor with its options; one that is another executor's is refused."""
    from mechsteer.studies.sweep.executors import Processes, Ray, Serial

    kind = {"serial": Serial, "processes": Processes, "ray": Ray}[c.executor]
    given = {name: getattr(c, name) for name in ("workers", "retries", "address", "num_cpus", "num_gpus")}
    options = {name: value for name, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in known:
            raise MechsteerError(f"--{name.replace('_', '-')} has no meaning with --executor {c.executor}.")
    return kind(**options)


def _generate(c: Generate) -> None:
    from mechsteer.decoding import generate
    from mechsteer.models import load

    strategy, steer = _strategy(c), _steer(c)
    _threads(c.model)
    model = load(c.model, device=c.device)
    out = generate(model, c.prompt, steer=steer, strategy=strategy, max_new_tokens=c.max_new_tokens)
    print(out.texts[0])


def _strategy(c: Generate) -> Any:
    from mechsteer.decoding import Directer, DoLa, Greedy, Sample

    if c.strategy in ("dola", "directer"):
        if c.temperature != 0:
            raise MechsteerError(f"--strategy {c.strategy} is greedy, so --temperature must be 0, got {c.temperature}.")
        return DoLa() if c.strategy == "dola" else Directer()
    if c.strategy == "sample" or c.temperature != 0:
        return Sample(temperature=c.temperature or 1.0, seed=c.seed)
    return Greedy()


def _steer(c: Generate) -> Any:
    from mechsteer.directions import Direction
    from mechsteer.errors import finite
    from mechsteer.steering import Intervention, add

    steer = None if c.intervention is None else Intervention.load(c.intervention)
    scale = finite("--scale", c.scale)
    if c.direction is not None:
        direction = Direction.load(c.direction)
        if c.relative:
            scale *= _activation_norm(c.direction, direction)
        added = add(direction, scale, transfer=c.transfer)
        return added if steer is None else steer + added
    if scale != Generate.scale or c.relative or c.transfer:
        raise MechsteerError("--scale, --relative and --transfer say how to steer; --direction FILE is missing.")
    return steer


def _activation_norm(path: Path, direction: Any) -> float:
    if not direction.activation_norm > 0:
        raise MechsteerError(f"{path} records no mean activation norm, so --relative has no unit; give --scale alone.")
    return direction.activation_norm


def _plan(c: Inspect) -> None:
    from mechsteer.models import load, plan
    from mechsteer.report import show

    model = load(c.model, device=c.device)
    table = plan(model, prompts=c.prompts, length=c.length, new_tokens=c.new_tokens, batch_size=c.batch_size)
    print(f"{c.prompts} prompts of {c.length} tokens, {c.new_tokens} new ones, batches of {c.batch_size}\n")
    print(show(table))
    print("\nBeside it, Python and its libraries take about 1,000 megabytes.")


def _compare(c: Compare) -> None:
    from mechsteer.comparison import compare
    from mechsteer.comparison.methods import methods_of
    from mechsteer.errors import positive_int
    from mechsteer.files import writable_dir, write_table
    from mechsteer.models import load
    from mechsteer.plots import save
    from mechsteer.tasks.named import named_task

    task, methods = named_task(c.task, check=c.check, max_new_tokens=c.max_new_tokens), methods_of(c.methods)
    if c.n is not None:
        task = dataclasses.replace(task, samples=task.samples[: positive_int("n", c.n)])
    out = writable_dir(c.out)
    _threads(c.model)
    model = load(c.model, device=c.device)
    found = compare(model, task, methods, score=c.score, batch_size=c.batch_size, out=out / "methods", progress=True)
    write_table(found.summary, out / "summary")
    save(found.plot(), out / "comparison")
    found.to_html(out / "comparison.html")
    print(found)
    print(f"\nThe page is {out}/comparison.html; the figure, the summary and all rows are beside it.")


def _diagnose(c: Diagnose) -> None:
    from mechsteer.diagnosis import diagnose
    from mechsteer.errors import positive_int
    from mechsteer.files import writable_dir
    from mechsteer.models import load
    from mechsteer.tasks.named import named_task

    task = named_task(c.task, check=c.check, max_new_tokens=c.max_new_tokens)
    if c.n is not None:
        task = dataclasses.replace(task, samples=task.samples[: positive_int("n", c.n)])
    out = writable_dir(c.out)
    _threads(c.model)
    model = load(c.model, device=c.device)
    found = diagnose(model, task, score=c.score, batch_size=c.batch_size, out=out, progress=True)
    found.to_html(out / "diagnosis.html")
    print(found)
    print(f"\nThe page is {out}/diagnosis.html; all tables are beside it.")


def _score(c: Score) -> None:
    from mechsteer.report import show
    from mechsteer.scoring import levels, read_responses, score_outputs
    from mechsteer.tasks.named import named_task

    task = named_task(c.task, check=c.check)
    found = read_responses(task, c.outputs)
    rows = score_outputs(found.task, found.texts)
    if c.out is not None:
        from mechsteer.files import atomic_path

        with atomic_path(c.out) as temporary:
            rows.to_csv(temporary, index=False)
    print(f"{len(rows)} of {len(task.samples)} prompts of {task.name} have a response (percent, 95 % interval)\n")
    print(show(levels(rows), decimals=2))
    collapsed = int(rows["collapsed"].sum())
    print(f"\n{collapsed} of {len(rows)} responses collapsed by their text alone (empty, loop, copied prompt).")
    for what, prompts in (
        ("prompts of the task were not found in the file", found.missing),
        ("prompts of the file are not in the task", found.unknown),
        ("prompts are in the file more than once; the first response counts", found.repeated),
    ):
        if prompts:
            print(f"\n{len(prompts)} {what}:")
            print("\n".join(f"  {' '.join(prompt.split())[:110]}" for prompt in prompts))


def _inspect(c: Inspect) -> None:
    from mechsteer.models import load, model_info, sites, stacks, verify
    from mechsteer.report import show

    _threads(c.model)
    if c.plan:
        _plan(c)
        return
    model = load(c.model, device=c.device)
    info, cfg, table = model_info(model), model.cfg, sites(model)
    if not (table["layer"] == c.layer).any():
        raise MechsteerError(f"Layer {c.layer} is out of range: layers 0 to {table['layer'].max()}.")
    layers = ", ".join(f"{count} {name}" for name, count in stacks(model).items())
    print(f"{info.name}: {type(model).__name__}, {info.family}, layers: {layers}, d_model {cfg.d_model}, ", end="")
    print(f"{cfg.n_heads} heads, vocabulary {cfg.d_vocab}, {info.dtype}, fingerprint {info.fingerprint}\n")
    print("Next-token probabilities against Hugging Face's model\n")
    print(show(verify(model), decimals=7))
    print(f"\nHook points of layer {c.layer}\n")
    print(show(table[table["layer"] == c.layer]))


def _list_organisms(_: ListOrganisms) -> None:
    import pandas as pd

    from mechsteer.models import organism_names
    from mechsteer.organisms import ORGANISMS
    from mechsteer.report import show

    bundled = set(organism_names())
    rows = [
        {
            "name": f"organism:{o.name}",
            "bundled": o.name in bundled,
            "minutes to train": o.minutes,
            "what": o.description,
        }
        for o in ORGANISMS.values()
    ]
    print(show(pd.DataFrame(rows)))


def _train_organism(c: TrainOrganism) -> None:
    from mechsteer.errors import unknown
    from mechsteer.organisms import ORGANISMS

    if c.name not in ORGANISMS:
        raise unknown("organism", c.name, ORGANISMS)
    out = c.out or Path("results/organisms") / c.name
    organism = ORGANISMS[c.name]
    print(f"Training {c.name} (about {organism.minutes} minutes on one core) into {out}")
    print(organism.train(out, seed=c.seed))


def _train_sae(c: TrainSae) -> None:
    from mechsteer.errors import one_of
    from mechsteer.organisms.saes import RECIPES, train_sae

    one_of("organism with a sparse autoencoder", c.name, RECIPES)
    out = c.out or Path("results/saes") / c.name
    print(f"Training the sparse autoencoder of {c.name} (about 8 minutes on one core) into {out}")
    print(train_sae(c.name, out, seed=c.seed))
