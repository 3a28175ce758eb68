"""How to steer: interventions, their scopes, and one module for each family of methods."""

from mechsteer.steering.affine import affine
from mechsteer.steering.attention import attention_bias, pasta, spotlight
from mechsteer.steering.batches import begin, run_batches, steps
from mechsteer.steering.explain import explain
from mechsteer.steering.features import features
from mechsteer.steering.heads import heads
from mechsteer.steering.intervention import (
    BoundEdit,
    Edit,
    Intervention,
    Where,
    as_intervention,
    attach,
    check_fired,
    several,
)
from mechsteer.steering.keys import scale_keys
from mechsteer.steering.registry import METHODS, Method, is_own, made_of, method
from mechsteer.steering.saes import bundled_saes, load_sae
from mechsteer.steering.scope import Scope, Step, make_scope
from mechsteer.steering.sinks import SinkWarning
from mechsteer.steering.sites import Sites
from mechsteer.steering.store import describe_edits
from mechsteer.steering.vector import add, project

__all__ = [
    "METHODS",
    "BoundEdit",
    "Edit",
    "Intervention",
    "Method",
    "Scope",
    "SinkWarning",
    "Sites",
    "Step",
    "Where",
    "add",
    "affine",
    "as_intervention",
    "attach",
    "attention_bias",
    "begin",
    "bundled_saes",
    "check_fired",
    "describe_edits",
    "explain",
    "features",
    "heads",
    "is_own",
    "load_sae",
    "made_of",
    "make_scope",
    "method",
    "pasta",
    "project",
    "run_batches",
    "scale_keys",
    "several",
    "spotlight",
    "steps",
]
