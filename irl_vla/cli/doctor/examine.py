"""All of the doctor's checks, in the order of the table."""

from irl_vla.cli.doctor.data import data_findings, trains
from irl_vla.cli.doctor.finding import Finding
from irl_vla.cli.doctor.installation import installation
from irl_vla.cli.doctor.machine import end, free_memory, free_shared_memory, look_at, memory, start_probe
from irl_vla.cli.doctor.storage import disk_findings, needs, tracking_finding
from irl_vla.judge.policies import Role
from irl_vla.stages.experiment import Experiment
from irl_vla.stages.extra import missing_modules
from irl_vla.stages.parts import bank_rows
from irl_vla.stages.session import RayConfig


def examine(experiment: Experiment | None, ray_patience_s: float) -> list[Finding]:
    """Looks at the installation and the machine and, with an experiment, at its data and what it will write.

    Nothing is written, and what is started has ended when this returns.

    Args:
        ray_patience_s: after this Ray counts as not answering.
    """
    config = RayConfig() if experiment is None else experiment.ray
    trained = experiment if experiment is not None and trains(experiment) else None
    if "ray" in missing_modules():
        return _without_machine(experiment)[0]
    probe = start_probe(config)  # the slowest check, beside the others
    try:
        findings, scenes = _without_machine(experiment)
        workers = 0 if trained is None else max(trained.pretrain.workers, trained.label.workers)
        rows = 0 if trained is None else bank_rows(trained, "train", scenes.get("train", 0))
        findings.append(memory(config, workers, rows, free_memory(), free_shared_memory()))
        findings.append(look_at(probe, trained, ray_patience_s))
    finally:
        end(probe.process)
    return findings


def _without_machine(experiment: Experiment | None) -> tuple[list[Finding], dict[Role, int]]:
    """Installation, data, disk and tracking; and the number of scenes by role of the split."""
    findings = installation(experiment)
    if experiment is None:
        return findings, {}
    found, scenes = data_findings(experiment)
    findings += [*found, *disk_findings(needs(experiment, scenes)), tracking_finding(experiment)]
    return findings, scenes
