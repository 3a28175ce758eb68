"""The public surface: what ``import mechsteer as ms`` offers, and that none of it gets lost."""

import ast
from pathlib import Path

import pytest

import mechsteer as ms

# Adding a name is a decision: write it down here. Taking one away breaks other people's code.
NAMES = """
Batch Direction Generation Greedy Intervention MechsteerError ModelInfo ParityError Prompt Sample
add batch cell_key evaluate generate gradient_direction load model_info prompt score site sites verify
ActivationStore Directer DoLa Gated capture cross_attention_shift influence layer_sensitivity logit_lens match_influence
features instruction_features load_sae sparse_direction sparse_path
task Comparison compare score_outputs Diagnosis diagnose
task Comparison compare Tuning tune score_outputs
rollout separability frozen_cross_attention similarity volatility
sinks SinkWarning
AffineMap affine affine_map
explore
activations analysis directions models organisms plots steering studies tasks
""".split()


def test_no_name_was_lost() -> None:
    assert set(NAMES) <= set(ms.__all__)


@pytest.mark.parametrize("name", ms.__all__)
def test_name_resolves(name: str) -> None:
    assert getattr(ms, name) is not None
    assert name in dir(ms)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(ms.__file__).read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = [
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(seen) == sorted(ms.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ms.no_such_name
