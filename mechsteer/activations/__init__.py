"""Activations: capturing them at named sites, their moments, and a store on disk."""

from mechsteer.activations.capture import Activations, capture
from mechsteer.activations.moments import Moments, moments
from mechsteer.activations.store import ActivationStore
from mechsteer.sources import Recorded, from_cache

__all__ = ["ActivationStore", "Activations", "Moments", "Recorded", "capture", "from_cache", "moments"]
