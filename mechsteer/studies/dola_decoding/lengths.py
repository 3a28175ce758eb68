"""How long answers are under each way to decode, beside the paper's (its authors' outputs, for IFEval)."""

from typing import TYPE_CHECKING

from mechsteer.stats import student_interval
from mechsteer.studies.core.published import published

if TYPE_CHECKING:
    import pandas as pd


def lengths(outputs: "pd.DataFrame", model: str) -> "pd.DataFrame":
    """Mean length of the answers.

    Args:
        outputs: One row an answer: task, decoding, output.
        model: The model's name, for the published numbers.

    Returns:
        One row a task and method: mean_characters with low and high (95 %, Student's t), mean_words, n, and
        published_characters, which are of IFEval's prompts alone.
    """
    import pandas as pd

    paper = published("t5_dola_response_length")
    known = paper[paper["model"] == model].set_index("method")["mean_characters"]
    rows = []
    for (task, method), part in outputs.groupby(["task", "decoding"], sort=False):
        counts = part["output"].astype(str).str.len()
        low, high = student_interval(counts.tolist())
        rows.append(
            {
                "task": task,
                "method": method,
                "mean_characters": float(counts.mean()),
                "low_characters": low,
                "high_characters": high,
                "mean_words": float(part["output"].map(lambda text: len(str(text).split())).mean()),
                "n": len(part),
                "published_characters": known.get(str(method)) if str(task).startswith("ifeval") else None,
            }
        )
    return pd.DataFrame(rows).astype({"published_characters": float})
