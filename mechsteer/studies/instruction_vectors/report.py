"""What the command line prints of the study :mod:`mechsteer.studies.instruction_vectors`."""

from mechsteer.report import titled, worded
from mechsteer.studies.core.result import Result


def report(result: Result) -> str:
    """The tables that say most, as text."""
    summary, tables = result.summary, result.tables
    columns = ["setting", "over", "kinds", "adherence_unsteered_percent", "adherence_steered_percent"]
    columns += ["fidelity_unsteered_percent", "fidelity_steered_percent", "p_value"]
    shown = summary[columns].rename(columns=worded)
    name = summary["model_name"].iloc[0]
    parts = [titled(f"Instruction vectors on {name}, test prompts (percent, means over kinds)", shown)]
    if "weights" in tables:
        columns = ["kind", "layer", "verdict", "difference_pp", "difference_low_pp", "difference_high_pp"]
        said = tables["weights"].loc[tables["weights"]["verdict"] != "", columns]
        parts.append(titled("Dynamic weight (projection) and constant ones: prompts that are followed and true", said))
    if "lengths" in tables:
        asked = tables["lengths"].query("setting == 'with instruction'")
        wide = asked.pivot_table(
            index=["unit", "constraint", "count"], columns="vector", values="adherence_percent", sort=False
        )
        title = "As long as the prompt says: by no vector, the conciseness vector and one of each length (percent)"
        parts.append(titled(title, wide.reset_index()))
    both = tables["composition"].query("row == 'both'")
    if not both.empty:
        columns = ["pair", "setting", *(f"{name}_percent" for name in ("first", "second", "both", "both_and_true"))]
        columns += ["beyond_single_pp", "beyond_single_low_pp", "beyond_single_high_pp"]
        title = "Two vectors in one pass: prompts that follow the first, the second, both (percent), beyond the better"
        parts.append(titled(title, both[columns].rename(columns=worded)))
    moved = tables.get("transfer")
    if moved is not None and len(moved):
        shown = moved[(moved["kind"] == "all") & (moved["vector"] != "none")]
        columns = ["share", "setting", "vector", "adherence_percent", "change_pp", "change_low_pp", "change_high_pp"]
        columns += ["fidelity_percent"]
        title = "Vectors in the base model (share 0) and between: adherence, and its change (all formats)"
        parts.append(titled(title, shown[columns].rename(columns=worded), decimals=2))
    if "published" in tables:
        paper = tables["published"]
        paper = paper.loc[paper["instruction"] == "all", ["setting", "method", "layer_choice", "accuracy_percent", "n"]]
        parts.append(titled("Published accuracy on IFEval prompts, for this model", paper))
    return "\n".join(parts)
