"""What the command line prints of the study :mod:`mechsteer.studies.ifeval`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

_COLUMNS = ("name", "settings", "n", "prompt_strict_percent", "prompt_loose_percent", "prompt_loose_low")
_MORE = ("prompt_loose_high", "instruction_loose_percent", "repaired", "broken", "p_adjusted", "collapsed", "n_tokens")


def report(result: Result) -> str:
    """The tables that say most, as text."""
    table = result.summary
    summary = table[[*_COLUMNS, *_MORE]].rename(columns=lambda name: name.removesuffix("_percent"))
    title = f"IFEval on {table['model_name'].iloc[0]}; settings chosen on the other half of the prompts (percent)"
    chosen = result.tables["validation"]
    edge = chosen[chosen["chosen"] & chosen["edge"]]
    parts = [titled(title, summary)]
    if len(edge):
        names = ", ".join(
            f"{row.name_} ({row.setting:g})" for row in edge.rename(columns={"name": "name_"}).itertuples()
        )
        parts.append(f"Chosen at the strongest end of their ladder, beyond which nothing was tried: {names}.")
    left = int(table["n_left_out"].iloc[0])
    if left:
        parts.append(f"{left} prompts are left out: with their answers they do not fit the model's context.")
    return "\n".join(parts)
