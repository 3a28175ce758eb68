"""Activations: capturing them at named sites, their moments, and a store on disk."""

from mechsteer.activations.capture import Activations, capture
from mechsteer.activations.moments import Moments, moments
from mechsteer.activations.store import ActivationStore

__all__ = ["ActivationStore", "Activations", "Moments", "capture", "moments"]
