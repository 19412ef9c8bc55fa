"""Stage 3: PPO on the learned reward, or imitation of what that reward chooses."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS

from irl_vla.errors import ClusterError
from irl_vla.ledger.storage import Location
from irl_vla.policy.averaging import mean_policy
from irl_vla.policy.diffusion import DenoisingChain
from irl_vla.reward.backends import scorer_actors
from irl_vla.rl.config import FinetuneConfig
from irl_vla.rl.job import FinetuneJob, run_job
from irl_vla.rl.ppo import ChainPPO, ppo_config
from irl_vla.rl.ranked import train_ranked
from irl_vla.train.loop import threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PpoTraining:
    """RLlib's algorithm as a :class:`irl_vla.rl.job.Training`."""

    algorithm: ChainPPO

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self.algorithm.iteration)

    def train(self) -> dict[str, float]:
        """Does one iteration.

        Raises:
            ClusterError: if sampling broke down and returned nothing.
        """
        self.algorithm.chain_figures = {}
        result = self.algorithm.train()
        if not self.algorithm.chain_figures:
            raise ClusterError("an iteration returned no chains: all env runners are lost; run the command again")
        learner = result[LEARNER_RESULTS][DEFAULT_MODULE_ID]
        metrics = {f"finetune/{name}": value for name, value in self.algorithm.chain_figures.items()}
        for name in ("policy_loss", "clip_fraction", "kl_to_imitation", "critic_loss"):
            if name in learner:
                metrics[f"finetune/{name}"] = float(learner[name])
        return metrics

    def policy(self) -> DenoisingChain:
        """The running average of what the learner has had, which a few updates hardly shake."""
        return mean_policy(self.algorithm.learned_module().average)

    def save(self, folder: Path) -> None:
        """Writes RLlib's state."""
        self.algorithm.save_to_path(str(folder))

    def restore(self, folder: Path) -> None:
        """Reads RLlib's state."""
        self.algorithm.restore_from_path(str(folder))


def finetune(job: FinetuneJob) -> Location:
    """Fine-tunes the planner by the configured method; a run that was interrupted goes on from its last state.

    Scorer actors, if the configuration asks for them, run for as long as this function does.

    Returns:
        Folder of the best checkpoint, see :func:`irl_vla.rl.job.run_job`.

    Raises:
        ClusterError: if sampling broke down and returned nothing.
    """
    spec = job.spec
    _warn_of_few_cpus(spec.config)
    with threads(1), scorer_actors(spec.config.backend, spec.bank, spec.prepared, spec.scorer) as actors:
        scored = replace(spec, actors=actors)
        if spec.config.method == "ranked":
            return train_ranked(replace(job, spec=scored))
        algorithm = ppo_config(scored).build_algo()
        try:
            return run_job(job, PpoTraining(algorithm))
        finally:
            algorithm.stop()


def _warn_of_few_cpus(config: FinetuneConfig) -> None:
    """Says what is being waited for: Ray starts what does not fit only when CPUs become free."""
    runners = config.env_runners if config.method == "ppo" else 0
    wanted = runners + config.backend.scorer_actors
    found = ray.cluster_resources().get("CPU", 0.0) if wanted else 0.0
    if wanted > found:
        log.warning(
            "finetune: expected a CPU for each of %d env runners and %d scorer actors, found %g; waiting for more "
            "(lower finetune.env_runners or finetune.backend.actors, or add machines)",
            runners,
            config.backend.scorer_actors,
            found,
        )
