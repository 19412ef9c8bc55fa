"""Cluster entry of the stage `finetune`: `python -m pipelines.finetune CONFIG [key=value ...]`."""

from irl_vla.cli.main import stage_entry

stage_entry("finetune", __name__)
