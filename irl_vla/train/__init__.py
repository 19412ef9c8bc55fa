"""Imitation and reward fitting on Ray Train, their loader and the writer of the token bank."""
