"""What every study stands on: its result, its cells, and the papers' own numbers."""
