"""All of the doctor's checks, in the order of the table."""

from irl_vla.doctor.data import data_findings, trains
from irl_vla.doctor.finding import Finding
from irl_vla.doctor.installation import installation
from irl_vla.doctor.machine import end_probe, free_memory, free_shared_memory, memory, start_probe
from irl_vla.doctor.storage import disk_findings, needs, tracking_finding, training_rows
from irl_vla.experiment import Experiment
from irl_vla.session import RayConfig


def examine(experiment: Experiment | None, ray_patience_s: float) -> list[Finding]:
    """Looks at the installation and the machine and, with an experiment, at its data and what it will write.

    Nothing is written, and what is started has ended when this returns.

    Args:
        ray_patience_s: after this Ray counts as not answering.
    """
    probe = start_probe(RayConfig() if experiment is None else experiment.ray)  # the slowest check, beside the others
    try:
        findings = installation(experiment)
        rows = 0
        if experiment is not None:
            found, scenes = data_findings(experiment)
            rows = training_rows(experiment, scenes.get("train", 0)) if trains(experiment) else 0
            findings += [*found, *disk_findings(needs(experiment, scenes)), tracking_finding(experiment)]
    finally:
        ray = end_probe(probe, experiment, ray_patience_s)
    return [*findings, memory(experiment, rows, free_memory(), free_shared_memory()), ray]
