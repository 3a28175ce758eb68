"""IFEval's public JSONL file, and where the instruction stands in each of its prompts.

One line is one prompt: ``{"key": 1000, "prompt": "...", "instruction_id_list": ["detectable_format:title"], "kwargs":
[{}]}``. The data is not bundled; it is on the hub as ``google/IFEval``. The file is checked when it is read:
instructions, names and values of their arguments (:mod:`mechsteer.tasks.ifeval.arguments`), so that nothing is
generated for a line that cannot be scored.

The public prompts do not say which of their words are the instruction, and attention methods need to know. These say
so, the first that is there:

- GUIDE's tags in the prompt: ``"Write about tea. <!!-> Use no commas. <-!!>"``;
- ``instruction``: its text; where the prompt holds it, it is marked there, otherwise it goes before the prompt;
- ``prompt_without_instruction``, as in the files of the instruction-vector paper (arXiv 2410.12877): what the prompt
  says beyond it, word by word. A rewording can say as much as the prompt; then the whole prompt is the instruction.

The last one is also the other half of a pair for instruction vectors.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, one_of, positive_int, shown
from mechsteer.files import as_path, is_there, json_value, read_text
from mechsteer.tasks.ifeval import MAX_NEW_TOKENS, IFEval, IFEvalPrompt
from mechsteer.tasks.ifeval.arguments import problem
from mechsteer.tasks.own_samples import OwnSample, read_sample
from mechsteer.tasks.spans import is_tagged, mark

HUB = "google/IFEval"
HUB_FILE = "ifeval_input_data.jsonl"
FIELDS = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}
BASE = "prompt_without_instruction"


def ifeval(
    path: str | os.PathLike[str] = HUB,
    *,
    n: int | None = None,
    kinds: Iterable[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> IFEval:
    """IFEval from its JSONL file.

    Args:
        path: The file, e.g. ``ifeval_input_data.jsonl``; or ``google/IFEval``, which is downloaded once (its prompts do
            not say where their instructions stand).
        n: So many prompts only, the first ones. Default: all.
        kinds: Prompts with at least one of these instructions only, e.g. ``["punctuation:no_comma"]``.
        max_new_tokens: The most new tokens for an answer. Default: lm-eval's limit.

    Raises:
        MechsteerError: if the file is missing or empty, or has a broken line, which is named: one that is no JSON, has
            an instruction that lm-eval has no checker for, an argument that is missing, misspelt or impossible, or is
            there twice; if no prompt is of these kinds; or if the hub cannot be reached.
    """
    positive_int("max_new_tokens", max_new_tokens)
    source = as_path(path)
    source = _downloaded() if str(source) == HUB and not is_there(source) else source
    lines = read_text(source, "JSONL").split("\n")
    read = {number: _sample(source, number, line) for number, line in enumerate(lines, 1) if line.strip()}
    if not read:
        raise MechsteerError(f"{source} has no prompts.")
    _refuse_repeated(source, read)
    return selected(IFEval(f"ifeval:{source.name}", tuple(read.values()), max_new_tokens), n, kinds)


def selected(task: IFEval, n: int | None, kinds: Iterable[str] | None) -> IFEval:
    """The first ``n`` prompts with at least one of the instructions ``kinds``; None for all.

    Raises:
        MechsteerError: for an instruction that no prompt has, or no positive number.
    """
    samples = task.samples
    if kinds is not None:
        wanted = [kinds] if isinstance(kinds, str) else list(kinds)
        known = dict.fromkeys(name for sample in samples for name in sample.instructions)
        for kind in wanted:
            one_of("kind", kind, known)
        samples = tuple(s for s in samples if set(wanted) & set(s.instructions))
    if n is not None:
        positive_int("n", n)
    return replace(task, samples=samples[:n])


def _downloaded() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB, HUB_FILE, repo_type="dataset"))
    except Exception as error:  # of whichever library it reaches the network with
        raise MechsteerError(
            f"{HUB} could not be had from the hub ({type(error).__name__}); download its {HUB_FILE} and give the file."
        ) from None


def _refuse_repeated(path: Path, read: Mapping[int, IFEvalPrompt]) -> None:
    """Refuse a key and prompt that two lines have: answers are told apart by them."""
    first: dict[tuple[int, str], int] = {}
    for number, sample in read.items():
        if (line := first.setdefault((sample.key, sample.prompt), number)) != number:
            raise MechsteerError(f"{path}, line {number}: repeats line {line}, so its prompt would count twice.")


def _sample(path: Path, number: int, line: str) -> IFEvalPrompt:
    def broken(why: str) -> MechsteerError:
        return MechsteerError(f"{path}, line {number}: {why}")

    try:
        row = json_value(line, once=True)
    except ValueError as error:
        raise broken(f"not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise broken("not a JSON object.")
    for name, kind in FIELDS.items():
        if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
            raise broken(f"{name!r} must be a {kind.__name__}, got {shown(row.get(name))}.")
    if abs(row["key"]) >= 2**63:
        raise broken("'key' must fit 64 bits.")
    ids, kwargs = row["instruction_id_list"], row["kwargs"]
    if not row["prompt"].strip() or not ids:
        raise broken("the prompt or the list of instructions is empty.")
    if not all(isinstance(i, str) for i in ids):
        raise broken(f"instruction_id_list must be a list of names, got {shown(ids)}.")
    if len(ids) != len(kwargs):
        raise broken(f"{len(ids)} instructions, but {len(kwargs)} kwargs; there must be one of each.")
    if not all(isinstance(k, dict) for k in kwargs):
        raise broken("each of the kwargs must be an object.")
    for found in filter(None, map(problem, ids, kwargs)):
        raise broken(found)
    asked = _asked(f"{path}, line {number}", row)
    return IFEvalPrompt(row["key"], row["prompt"] if asked is None else asked.text, tuple(ids), tuple(kwargs), asked)


def _asked(where: str, row: dict[str, Any]) -> OwnSample | None:
    """The prompt with its instruction marked; None where the line does not say where it stands."""
    given = {"instruction": row.get("instruction"), "base": row.get(BASE)}
    if given == {"instruction": None, "base": None} and not is_tagged(row["prompt"]):
        return None
    made = read_sample({"prompt": row["prompt"], **{k: v for k, v in given.items() if v is not None}}, where)
    if not made.instruction and isinstance(made.asked, str) and not is_tagged(made.asked):
        return replace(made, asked=mark(made.asked, [(0, len(made.asked))]), marked=True)
    return made
