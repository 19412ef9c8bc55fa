"""Road layouts: drawn from a seed, built into lanes, and written as map rows."""
