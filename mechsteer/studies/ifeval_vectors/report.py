"""What the command line prints of the study :mod:`mechsteer.studies.ifeval_vectors`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

_COLUMNS = ("setting", "steered", "n", "n_with_vector", "loose_percent", "loose_low", "loose_high", "strict_percent")
_MORE = ("repaired", "broken", "p_adjusted", "collapsed_percent", "n_tokens")


def report(result: Result) -> str:
    """The tables that say most, as text."""
    table = result.summary
    title = f"Instruction vectors on IFEval, {table['model_name'].iloc[0]}; layers chosen on the other half (percent)"
    kinds = result.tables["by_kind"]
    wide = kinds.pivot_table(index="kind", columns=["setting", "steered"], values="loose_percent", sort=False)
    wide.columns = [f"{setting}{', steered' if steered else ''}" for setting, steered in wide.columns]
    parts = [
        titled(title, table[[*_COLUMNS, *_MORE]].rename(columns=lambda name: name.removesuffix("_percent"))),
        titled("Followed (loose) by kind of instruction (percent)", wide.reset_index()),
    ]
    several = result.tables["by_instruction"]
    if len(several):
        columns = ["setting", "steered", "instruction", "n", "loose_percent", "loose_low", "loose_high"]
        shown = several[columns].rename(columns=lambda name: name.removesuffix("_percent"))
        parts.append(titled("Each instruction of prompts with several (percent)", shown))
    return "\n".join(parts)
