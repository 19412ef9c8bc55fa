"""Reads NAVSIM's logs, maps, sensors and splits; observations, targets and shifted views."""
