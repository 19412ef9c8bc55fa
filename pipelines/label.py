"""Cluster entry of the stage `label`: `python -m pipelines.label CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("label", __name__)
