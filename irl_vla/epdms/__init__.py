"""The score: NAVSIM v2's EPDMS, exact and compiled, usable alone."""
