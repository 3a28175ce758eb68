"""All studies: the command line, ``ms.studies`` and the help texts read this list. Nothing heavy is imported here."""

from mechsteer.studies.core.study import Study

_TRAPS = ("traps in MemoTrap's CSV format", "memotrap")
_INSTRUCT = ("organism:instruct-llama",)

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "t5-dola",
            "gradient steering against memorisation (arXiv 2512.03803), and DoLa on the same traps",
            folder="t5_dola",
            models=("organism:trap-t5",),
            options={"data": "data"},
            data=_TRAPS,
        ),
        Study(
            "dola-decoding",
            "DoLa against greedy decoding, by category of instruction (arXiv 2512.03803)",
            folder="dola_decoding",
            models=("organism:trap-t5", "organism:instruct-llama"),
            options={"data": "data"},
            data=("IFEval's JSONL", "ifeval"),
        ),
        Study(
            "inside",
            "what the sublayers of a T5 do while it obeys or is trapped",
            folder="inside",
            models=("organism:trap-t5",),
            options={"data": "data"},
            data=_TRAPS,
        ),
        Study(
            "steer-instruct",
            "instruction vectors (arXiv 2410.12877)",
            folder="instruction_vectors",
            models=_INSTRUCT,
            options={"base": "base", "perplexity_model": "perplexity_model"},
        ),
        Study("steering", "every steering family by strength", folder="families", models=_INSTRUCT),
        Study("guide", "GUIDE and Influence (arXiv 2409.19001)", folder="guide", models=_INSTRUCT),
        Study("directer", "DIRECTER (arXiv 2603.06745)", folder="directer", models=_INSTRUCT),
        Study(
            "layerwise",
            "learned vectors at one layer (arXiv 2502.06115)",
            folder="layerwise",
            models=("organism:rules-gpt2",),
            options={"data": "names"},
            data=("a rule in the function-vectors JSON format", "rules"),
        ),
        Study(
            "compose",
            "which ways to steer help each other",
            folder="compose",
            models=_INSTRUCT,
            options={"sae": "sae"},
        ),
    )
}
"""By name, in the order in which ``reproduce all`` runs them."""

OPTIONS = tuple(dict.fromkeys(option for study in STUDIES.values() for option in study.options))
"""Options of the command line that only some studies take."""


def names_with(option: str) -> list[str]:
    """The studies that take an option of the command line."""
    return [name for name, study in STUDIES.items() if option in study.options]
