"""What to steer with: directions and how they are estimated."""

from mechsteer.directions.affine import AffineMap, affine_map, fit_affine
from mechsteer.directions.contrast import difference_in_means, differences_in_means
from mechsteer.directions.control_vectors import from_gguf, to_gguf
from mechsteer.directions.direction import Direction
from mechsteer.directions.gradient import TrapExample, gradient_direction
from mechsteer.directions.peers import from_peer
from mechsteer.directions.random import random_direction
from mechsteer.directions.sparse import path_table, sparse_direction, sparse_directions, sparse_path
from mechsteer.directions.sparse_fit import SparseFit

__all__ = [
    "AffineMap",
    "Direction",
    "SparseFit",
    "TrapExample",
    "affine_map",
    "difference_in_means",
    "differences_in_means",
    "fit_affine",
    "from_gguf",
    "from_peer",
    "gradient_direction",
    "path_table",
    "random_direction",
    "sparse_direction",
    "sparse_directions",
    "sparse_path",
    "to_gguf",
]
