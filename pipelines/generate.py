"""Cluster entry of the stage `generate`: `python -m pipelines.generate CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("generate", __name__)
