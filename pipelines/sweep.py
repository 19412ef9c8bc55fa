"""Cluster entry of the stage `sweep`: `python -m pipelines.sweep CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("sweep", __name__)
