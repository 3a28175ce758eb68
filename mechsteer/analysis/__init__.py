"""What the activations say: measurements that return tidy tables, for both model families, under any intervention."""
