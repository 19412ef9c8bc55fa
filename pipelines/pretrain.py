"""Cluster entry of the stage `pretrain`: `python -m pipelines.pretrain CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("pretrain", __name__)
