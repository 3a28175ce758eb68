"""What the command line prints of the study :mod:`mechsteer.studies.t5_sublayers`."""

from typing import TYPE_CHECKING, Any

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"self_attn": "self-attention", "cross_attn": "cross-attention", "mlp": "MLP"}


def report(result: Result) -> str:
    """The tables that say most, as text."""
    name = result.summary["model_name"].iloc[0]
    means = result.summary.pivot(index=["group", "layer"], columns="sublayer", values="logit_difference")
    means = means[["self_attn", "cross_attn", "mlp"]].reset_index()
    frozen = result.tables["frozen"].assign(percent=lambda table: 100 * table["accuracy"])
    frozen = frozen.pivot(index="layer", columns="frozen", values="percent").reset_index()
    title = f"What the sublayers of {name} add to the target's logit minus the trap's, by group"
    return "\n".join(
        [
            titled(title, means, decimals=2),
            titled("Target likelier than trap with cross-attention frozen (percent)", frozen),
        ]
    )


def found(summary: "pd.DataFrame") -> dict[str, list[str]]:
    """The sublayers that speak most for the target and for the trap, by group of prompts."""
    said = []
    for group, part in summary.groupby("group", sort=False):
        rows = part.sort_values("logit_difference").to_dict("records")
        said.append(
            f"{str(group).capitalize()} ({rows[0]['n']} prompts): the lead of the target's logit over the trap's grows "
            f"most by {_change(rows[-1])}, and falls most by {_change(rows[0])}."
        )
    return {"": said}


def _change(row: dict[Any, Any]) -> str:
    mean, low, high = (row[f"logit_difference{end}"] for end in ("", "_low", "_high"))
    where = f"in the {NAMES.get(row['sublayer'], row['sublayer'])} of block {row['layer']}"
    said = f" (95 % interval {low:+.2f} to {high:+.2f})" if low == low else ""  # one prompt has none
    return f"{mean:+.2f}{said} {where}"
