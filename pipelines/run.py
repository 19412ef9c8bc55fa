"""Cluster entry of the stage `run`: `python -m pipelines.run CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("run", __name__)
