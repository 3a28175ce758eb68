"""What to steer with: directions and how they are estimated."""

from mechsteer.directions.contrast import difference_in_means, differences_in_means
from mechsteer.directions.direction import Direction
from mechsteer.directions.gradient import TrapExample, gradient_direction
from mechsteer.directions.random import random_direction

__all__ = [
    "Direction",
    "TrapExample",
    "difference_in_means",
    "differences_in_means",
    "gradient_direction",
    "random_direction",
]
