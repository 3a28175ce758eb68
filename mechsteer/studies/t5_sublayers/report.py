"""What the command line prints of the study :mod:`mechsteer.studies.t5_sublayers`."""

from mechsteer.report import titled
from mechsteer.studies.core.result import Result


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
