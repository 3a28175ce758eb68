"""From a name to a local directory with a checkpoint that is safe to read."""

import importlib.util
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, foreign, nearest, shown, unknown
from mechsteer.files import data_path, digest, file_at, home, is_there, printable, read_json
from mechsteer.models.checkpoint.gguf_header import tensor_shapes
from mechsteer.models.digest import file_digest

ORGANISM = "organism:"
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def locate(name_or_path: str, *, revision: str | None = None) -> tuple[Path, str]:
    """Find the checkpoint directory for a name.

    Args:
        name_or_path: ``"organism:NAME"`` for a bundled model, a local directory, or a model id on the Hugging Face hub.
        revision: A branch, tag or commit; hub models only.

    Returns:
        The directory and the hub's commit (empty for local checkpoints). The network is used for hub ids alone.

    Raises:
        MechsteerError: for an unknown organism, a directory that holds no readable checkpoint, or a hub id that cannot
            be fetched.
    """
    with foreign(f"Cannot read the checkpoint {shown(name_or_path)}"):  # in a folder that may not be read, say
        if name_or_path.startswith(ORGANISM):
            directory, commit = _organism(name_or_path.removeprefix(ORGANISM)), ""
        elif _looks_local(name_or_path):
            directory, commit = _local(home(name_or_path)), ""
        else:
            directory, commit = _hub(name_or_path, revision)
        if not commit and revision is not None:
            raise MechsteerError(f"revision={revision!r} is for hub models; {name_or_path!r} is local.")
        _check_files(directory)
    return directory, commit


def organism_names() -> list[str]:
    """The names of the bundled models."""
    return sorted(path.name for path in data_path("organisms").iterdir() if (path / "config.json").is_file())


def _organism(name: str) -> Path:
    names = organism_names()
    if name not in names:
        raise unknown("organism", name, names)
    return data_path("organisms", name)


def _looks_local(name: str) -> bool:
    return is_there(home(name)) or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or not name


def _local(path: Path) -> Path:
    if not is_there(path):
        raise MechsteerError(f"No such model directory: {shown(str(path), 400)}.{_near(path)}")
    if not path.is_dir() and path.suffix != ".gguf":
        raise MechsteerError(
            f"{str(path)!r} is a file; expected a directory with config.json and *.safetensors, or a .gguf file."
        )
    if printable(str(path)) != str(path):
        raise MechsteerError(
            f"The path {shown(str(path), 400)} is not UTF-8, and what reads weights and tokenizers cannot open it: "
            "rename it, or make a link to it."
        )
    return path


def _near(path: Path) -> str:
    """A hint for a path that is not there: a folder of nearly its name, or the checkpoints beside it."""
    beside = sorted(path.parent.iterdir()) if is_there(path.parent) and path.parent.is_dir() else []
    if path.suffix == ".gguf":
        return nearest(path.name, [p.name for p in beside if p.suffix == ".gguf"])
    folders = [p for p in beside if p.is_dir() and not p.name.startswith(".")]
    hint = nearest(path.name, [p.name for p in folders])
    if hint.startswith(" Did you mean"):
        return hint
    return nearest(path.name, [p.name for p in folders if (p / "config.json").is_file()])


def _hub(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            name,
            revision=revision,
            allow_patterns=_HUB_FILES,
            ignore_patterns=["*/*", "consolidated*"],  # other formats of the same weights
        )
    except Exception as error:  # of whichever library it reaches the network with
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MechsteerError(
            f"Cannot get {name!r} from the Hugging Face hub ({reason}). It is no local directory either; "
            f"bundled models are {', '.join(ORGANISM + n for n in organism_names())}."
        ) from error
    return Path(path), Path(path).name


def _check_files(directory: Path) -> None:
    if is_gguf(directory):
        return
    for pattern in _HUB_FILES if directory.is_dir() else []:
        for path in directory.glob(pattern):
            if path.exists() and not path.is_dir():  # a link to nothing, or a folder, is left to who needs it
                file_at(path)
    if (directory / "adapter_config.json").is_file():
        raise MechsteerError(_adapter(directory))
    if not (directory / "config.json").is_file():
        raise MechsteerError(f"{str(directory)!r} has no config.json: not a Hugging Face checkpoint directory.")
    if not weight_files(directory):
        pickled = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        found = (
            f"only pickled weights ({', '.join(pickled)})" if pickled else "no *.safetensors weights, and *.bin files"
        )
        raise MechsteerError(
            f"{str(directory)!r} has {found}, which are never loaded: unpickling runs code. On the hub, a pull request "
            "often has them as safetensors: load(name, revision='refs/pr/N'). Or convert them once, where you trust "
            "their source: AutoModelForCausalLM.from_pretrained(name).save_pretrained(folder)."
        )
    _check_index(directory)


def _check_index(directory: Path) -> None:
    """The index of a sharded checkpoint names files of this folder, all safetensors, all there."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return
    read = read_json(index)
    shards = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise MechsteerError(f"{index} has no weight_map from the names of weights to the names of files.")
    outside = sorted({s for s in shards.values() if Path(s).name != s or not s.endswith(".safetensors")})
    if outside:
        raise MechsteerError(
            f"{index} names {', '.join(map(shown, outside[:3]))}; it may name *.safetensors files of its folder alone."
        )
    absent = sorted({s for s in shards.values() if not (directory / s).is_file()})
    if absent:
        names = ", ".join(shown(name)[1:-1] for name in absent[:5])
        raise MechsteerError(f"{str(directory)!r} lacks the weight shards {names} named in {index.name}.")


def _adapter(directory: Path) -> str:
    """What to do with an adapter (LoRA and the like) instead of a model."""
    read = read_json(directory / "adapter_config.json")
    base = read.get("base_model_name_or_path") if isinstance(read, dict) else None
    return (
        f"{str(directory)!r} is an adapter of {base!r} (PEFT, e.g. LoRA), not a model. Merge it first, with the peft "
        f"package: AutoPeftModelForCausalLM.from_pretrained({str(directory)!r}).merge_and_unload().save_pretrained("
        "folder), and save the tokenizer into the same folder."
    )


def is_gguf(path: Path) -> bool:
    """Whether a checkpoint is one GGUF file instead of a directory."""
    return path.suffix == ".gguf" and path.is_file()


def source(path: Path) -> tuple[Path, dict[str, Any]]:
    """The directory and the arguments that make transformers read a checkpoint: nothing is fetched, no code is run."""
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    return (path.parent, safe | {"gguf_file": path.name}) if is_gguf(path) else (path, safe)


def weight_files(directory: Path) -> list[Path]:
    """The checkpoint's weight files, sorted by name: safetensors, or the one GGUF file."""
    if is_gguf(directory):
        return [directory]
    return sorted(p for p in directory.glob("*.safetensors") if not p.name.startswith("."))


def config_file(directory: Path) -> Path:
    """Where a checkpoint's configuration is: a GGUF file has it inside."""
    return directory if is_gguf(directory) else directory / "config.json"


def read_config(directory: Path) -> Any:
    """The checkpoint's Hugging Face configuration.

    Raises:
        MechsteerError: if config.json is not JSON, names no known model type or has values that cannot be used, or its
            classes are code in the repository.
    """
    from transformers import AutoConfig

    path = directory / "config.json"
    raw = {"model_type": "of a GGUF file"} if is_gguf(directory) else read_json(path)
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise MechsteerError(f"{path} names no model_type: not a Hugging Face configuration.")
    folder, arguments = source(directory)
    _check_for_gguf(directory)
    try:
        with foreign(f"transformers cannot read {config_file(directory)}"):
            return AutoConfig.from_pretrained(folder, **arguments)
    except MechsteerError as error:
        if "auto_map" in raw:
            raise MechsteerError(
                f"The model family {shown(raw['model_type'])} of {str(directory)!r} is code in its repository "
                "(auto_map), which is never run here."
            ) from error
        raise


def _check_for_gguf(path: Path) -> None:
    """Say what is missing to read a GGUF file, and refuse one whose header claims more than it holds."""
    if not is_gguf(path):
        return
    if importlib.util.find_spec("gguf") is None:
        raise MechsteerError("To read a GGUF file the gguf package is needed: pip install 'mechsteer[gguf]'.")
    tensor_shapes(path)


def fingerprint(directory: Path) -> str:
    """A hash over the configuration and all bytes of the weight files."""
    read = {} if is_gguf(directory) else read_json(directory / "config.json")
    config = {k: v for k, v in read.items() if k not in _NOT_THE_MODEL}
    return digest([config, [file_digest(path) for path in weight_files(directory)]])


def checkpoint_digest(name: str) -> str:
    """A hash over all files of a checkpoint that loading reads: weights, configurations, tokenizer, template.

    Raises:
        MechsteerError: as :func:`resolve` does.
    """
    directory = locate(name)[0]
    files = {path.name: path for pattern in _HUB_FILES for path in directory.glob(pattern)}
    files |= {path.name: path for path in weight_files(directory)}
    return digest({name: file_digest(path) for name, path in files.items()})
