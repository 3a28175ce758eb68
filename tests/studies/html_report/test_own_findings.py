"""What studies say of themselves on their page, where a summary is no table of percentages."""

import pandas as pd

from mechsteer.studies.dola_decoding.report import found as dola
from mechsteer.studies.layerwise.report import found as layerwise
from mechsteer.studies.t5_sublayers.report import found as sublayers


def test_dola_beside_the_baseline() -> None:
    same = {"task": "memotrap", "level": "task", "group": "memotrap", "scoring": "strict", "model_name": "tiny"}
    plain = {**same, "method": "baseline", "percent": 49.5, "increased": 0, "decreased": 0, "p_value": float("nan")}
    other = {**same, "method": "dola", "percent": 51.25, "increased": 9, "decreased": 2, "p_value": 0.0654}
    left_out = {**other, "level": "category"}, {**other, "scoring": "success"}
    said = "memotrap, strict: 49.5 % baseline; 51.2 % dola (9 gained, 2 lost, p = 0.065)."
    assert dola(pd.DataFrame([plain, other, *left_out])) == {"tiny": [said]}


def test_the_sublayers_that_decide() -> None:
    rows = [("mlp", 3, -1.5), ("cross_attn", 2, 2.5), ("self_attn", 1, 0.0)]
    table = pd.DataFrame(
        {"group": "trapped", "sublayer": s, "layer": at, "n": 7, "logit_difference": x,
         "logit_difference_low": x - 0.25, "logit_difference_high": x + 0.25}
        for s, at, x in rows
    )  # fmt: skip
    (said,) = sublayers(table)[""]
    assert said.startswith("Trapped (7 prompts)")
    assert "grows most by +2.50 (95 % interval +2.25 to +2.75) in the cross-attention of block 2" in said
    assert said.endswith("and falls most by -1.50 (95 % interval -1.75 to -1.25) in the MLP of block 3.")


def test_every_way_to_say_a_rule() -> None:
    table = pd.DataFrame(
        {"rule": ["plural"], "layer": [5], "zero-shot": [12.5], "learned": [90.0], "learned_low": [80.0],
         "learned_high": [95.0], "sparse": [85.0], "sparse_low": [70.0], "sparse_high": [91.0], "sparse_heads": [2.0],
         "n": [8]}
    )  # fmt: skip
    learned = "learned 90.0 % (95 % interval 80.0 to 95.0), sparse in 2 heads 85.0 % (95 % interval 70.0 to 91.0)"
    assert layerwise(table) == {"Exact match on test words": [f"plural: zero-shot 12.5 %, {learned}."]}
