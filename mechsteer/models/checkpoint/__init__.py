"""A checkpoint: found, refused where it is not safe or not whole, and read."""
