"""Cluster entry of the stage `evaluate`: `python -m pipelines.evaluate CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("evaluate", __name__)
