"""All studies: the command line, ``ms.studies`` and the help texts read this list. Nothing heavy is imported here."""

from mechsteer.studies.core.study import Study

_TRAPS = ("traps in MemoTrap's CSV format", "memotrap")
_IFEVAL = ("IFEval's JSONL", "ifeval")
_ON_PROMPTS = {name: name for name in ("data", "n", "kinds", "max_new_tokens")}
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
            data=_IFEVAL,
        ),
        Study(
            "inside",
            "what the sublayers of a T5 do while it obeys or is trapped",
            folder="t5_sublayers",
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
            on_data="ifeval-vectors",
        ),
        Study("steering", "every steering family by strength", folder="families", models=_INSTRUCT),
        Study(
            "guide",
            "GUIDE and Influence (arXiv 2409.19001)",
            folder="guide",
            models=_INSTRUCT,
            on_data="ifeval",
        ),
        Study(
            "directer",
            "DIRECTER (arXiv 2603.06745)",
            folder="directer",
            models=_INSTRUCT,
            on_data="ifeval",
        ),
        Study(
            "layerwise",
            "learned vectors at one layer (arXiv 2502.06115)",
            folder="layerwise",
            models=("organism:rules-gpt2",),
            options={"data": "names"},
            data=("a rule in the function-vectors JSON format", "rules"),
        ),
        Study(
            "ifeval",
            "the papers' table of IFEval: ways to ask, GUIDE, PASTA, SpotLight and DIRECTER, on any model and --data",
            folder="ifeval",
            models=(),
            options=_ON_PROMPTS,
            data=_IFEVAL,
        ),
        Study(
            "ifeval-vectors",
            "instruction vectors on IFEval's prompts, on any model and --data",
            folder="ifeval_vectors",
            models=(),
            options=_ON_PROMPTS,
            data=_IFEVAL,
        ),
        Study(
            "compose",
            "which ways to steer help each other",
            folder="compose",
            models=_INSTRUCT,
            options={"sae": "sae"},
        ),
        Study(
            "questions",
            "what the instruction-vector paper leaves open: how many pairs, other models, two instructions, linearity",
            folder="questions",
            models=_INSTRUCT,
            options={name: name for name in ("only", "others", "kinds", "n")},
        ),
    )
}
"""By name, in the order in which ``reproduce all`` runs them."""

OPTIONS = tuple(dict.fromkeys(option for study in STUDIES.values() for option in study.options))
"""Options of the command line that only some studies take."""


def names_with(option: str) -> list[str]:
    """The studies that take an option of the command line."""
    return [n for n, study in STUDIES.items() if option in study.options or (option == "data" and study.on_data)]
