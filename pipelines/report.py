"""Cluster entry of the stage `report`: `python -m pipelines.report CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("report", __name__)
