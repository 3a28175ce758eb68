"""How to steer: interventions, their scopes, and one module for each family of methods."""

from mechsteer.steering.explain import explain
from mechsteer.steering.intervention import BoundEdit, Edit, Intervention, check_fired
from mechsteer.steering.scope import Scope, Step, make_scope
from mechsteer.steering.vector import add

__all__ = ["BoundEdit", "Edit", "Intervention", "Scope", "Step", "add", "check_fired", "explain", "make_scope"]
