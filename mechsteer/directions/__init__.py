"""What to steer with: directions and how they are estimated."""

from mechsteer.directions.contrast import difference_in_means, differences_in_means
from mechsteer.directions.control_vectors import from_gguf, to_gguf
from mechsteer.directions.direction import Direction
from mechsteer.directions.gradient import TrapExample, gradient_direction
from mechsteer.directions.peers import from_peer
from mechsteer.directions.random import random_direction

__all__ = [
    "Direction",
    "TrapExample",
    "difference_in_means",
    "differences_in_means",
    "from_gguf",
    "from_peer",
    "gradient_direction",
    "random_direction",
    "to_gguf",
]
