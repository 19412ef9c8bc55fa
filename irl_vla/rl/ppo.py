"""RLlib's PPO algorithm over whole chains: sample, advantages with whole groups present, one update, sync."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.tune.registry import register_env

from irl_vla.errors import ClusterError, ConfigError
from irl_vla.geometry import Floats
from irl_vla.rl.advantages import advantages, explained_variance, scene_ceiling, step_weights
from irl_vla.rl.audit import audit
from irl_vla.rl.chains import Rows, learning_order
from irl_vla.rl.env import ENV_ID, DenoisingVectorEnv, action_space, observation_space
from irl_vla.rl.learner import OLD_MEAN, ChainLearner
from irl_vla.rl.module import ChainModule
from irl_vla.rl.sampler import ChainBatch, ChainEnvRunner, join_parts, runner_part
from irl_vla.rl.task import TaskSpec, open_task
from irl_vla.scene import SUBSCORES


class ChainPPO(PPO):
    """PPO whose training step passes whole chains to the learner, without episodes and connectors.

    Attributes:
        chain_figures: the last iteration's :func:`chain_metrics` and :func:`audit`. Not among RLlib's results, which go
            on naming a figure in iterations that do not have it.
    """

    chain_figures: Mapping[str, float]

    def training_step(self) -> None:
        """One iteration."""
        spec: TaskSpec = self.config.env_config["spec"]
        batch = self._sample(self.iteration)
        values = self._scene_values(batch) if spec.config.advantage != "group" else None
        advantage = advantages(batch.rewards.reward, values, spec.config.advantage)
        order = learning_order(spec.seed, self.iteration, batch.scenes.rows.size)
        rows = learner_rows(batch, advantage, spec.config.denoising_discount, order)
        results = self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: rows}, env_steps=len(rows)),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: (self.iteration + 1) * len(rows)},
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=False,  # rows of one scene stay together, so that they share its keys
        )
        module = self.learned_module()
        module.average.update_parameters(module.chain)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self.chain_figures = chain_metrics(batch, values) | audit(spec, batch, self.iteration)
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, policies=[DEFAULT_MODULE_ID], inference_only=True
        )

    def learned_module(self) -> ChainModule:
        """The policy as the learner has it, with what env runners do not need."""
        module: ChainModule = self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        return module

    def _sample(self, iteration: int) -> ChainBatch:
        runners = self.config.num_env_runners
        if not runners:
            batch: ChainBatch = self.env_runner.sample_chains(iteration)
            return batch
        batches = self.env_runner_group.foreach_env_runner(
            lambda runner: (runner_part(runner.worker_index), runner.sample_chains(iteration)), local_env_runner=False
        )
        if not batches:
            raise ClusterError("all env runners are lost; check the cluster's nodes, then run the command again")
        return join_parts(dict(batches), runners, iteration)

    def _scene_values(self, batch: ChainBatch) -> Floats:
        module = self.learned_module()
        rows = torch.from_numpy(batch.scenes.rows.reshape(-1))
        with torch.no_grad():
            values: Floats = module.critic(module.tokens(rows)).numpy().astype(np.float64)
        return values.reshape(batch.scenes.rows.shape)


def learner_rows(batch: ChainBatch, advantage: Floats, discount: float, order: Rows) -> SampleBatch:
    """All denoising steps of a batch as learner rows: blocks of one bank row, blocks in the given order.

    RLlib does not shuffle the first epoch, and a block must stay together for its rows to share scene keys, so the
    blocks are permuted here.

    Args:
        advantage: (S, M, G).
        order: (S * M,) permutation of the blocks.
    """
    scenes, members, chains, states, _ = batch.x.shape
    steps, blocks = states - 1, scenes * members

    def blockwise(values: NDArray[Any]) -> torch.Tensor:
        """(S, M, G, K, ...) to (blocks * G * K, ...)."""
        flat = values.reshape(blocks, chains * steps, *values.shape[4:])[order]
        return torch.from_numpy(np.ascontiguousarray(flat)).flatten(0, 1)

    shape = (scenes, members, chains, steps)
    k = np.broadcast_to(np.arange(steps, 0, -1, dtype=np.int32), shape)
    rows = np.broadcast_to(batch.scenes.rows[:, :, None, None].astype(np.int32), shape)
    weighted = advantage[..., None] * step_weights(steps, discount)
    returns = np.broadcast_to(batch.rewards.reward[..., None], shape)
    observations = {
        "row": blockwise(rows[..., None]),
        "x": blockwise(batch.x[..., :-1, :]),
        "k": blockwise(k[..., None]),
    }
    return SampleBatch(
        {
            Columns.OBS: observations,
            Columns.ACTIONS: blockwise(batch.x[..., 1:, :]),
            OLD_MEAN: blockwise(batch.mean),
            Postprocessing.ADVANTAGES: blockwise(weighted.astype(np.float32)),
            Postprocessing.VALUE_TARGETS: blockwise(returns.astype(np.float32)),
        }
    )


def chain_metrics(batch: ChainBatch, values: Floats | None) -> dict[str, float]:
    """Scenes, reward, the sub-scores behind it, and how much of the reward a critic explains."""
    reward, subscores = batch.rewards
    metrics = {"scenes": float(len(reward)), "reward": float(reward.mean()), "scene_ceiling": scene_ceiling(reward)}
    for name, column in zip(SUBSCORES, np.moveaxis(subscores, -1, 0), strict=True):
        if not np.isnan(column).all():  # no pair in the batch: no extended comfort to speak of
            metrics[f"predicted_{name}"] = float(np.nanmean(column))
    if values is not None:
        expected = np.broadcast_to(values[..., None], reward.shape)
        metrics["critic_explained_variance"] = explained_variance(expected, reward)
    return metrics


def ppo_config(spec: TaskSpec) -> PPOConfig:
    """The RLlib configuration of fine-tuning.

    Raises:
        ConfigError: if minibatches or env runners do not divide the work.
    """
    config = spec.config
    blocks = config.scenes_per_iteration * (2 if config.pair_frames else 1)
    parts = max(1, config.env_runners)
    if config.scenes_per_iteration % parts or blocks % config.minibatches:
        raise ConfigError(
            f"finetune: {config.scenes_per_iteration} scenes must divide by env_runners={parts}, and {blocks} scene "
            f"rows by minibatches={config.minibatches}"
        )
    task = open_task(spec)
    register_env(ENV_ID, _make_env)
    rows = blocks * config.chains_per_scene * task.steps
    return (
        PPOConfig(algo_class=ChainPPO)
        .environment(
            ENV_ID,
            env_config={"spec": spec},
            observation_space=observation_space(task),
            action_space=action_space(task),
            normalize_actions=False,
            clip_actions=False,
            disable_env_checking=True,
        )
        .env_runners(
            env_runner_cls=ChainEnvRunner,
            num_env_runners=config.env_runners,
            num_envs_per_env_runner=task.chain_count,
            gym_env_vectorize_mode="vector_entry_point",
            rollout_fragment_length=task.steps,
        )
        .learners(
            num_learners=0,
            learner_class=ChainLearner,
            learner_config_dict={"behaviour_cloning": config.behaviour_cloning, "critic_lr": config.critic_lr},
        )
        .training(
            train_batch_size_per_learner=rows,
            minibatch_size=rows // config.minibatches,
            num_epochs=config.epochs,
            lr=config.lr,
            gamma=1.0,
            clip_param=config.clip,
            use_critic=config.advantage != "group",
            use_kl_loss=False,
            entropy_coeff=0.0,
            grad_clip=config.grad_clip,
            grad_clip_by="global_norm",
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=ChainModule,
                model_config={
                    "policy": spec.policy,
                    "bank": spec.bank,
                    "sigma_floor_m": config.sigma_floor_m,
                    "behaviour_cloning": config.behaviour_cloning,
                    "average": config.average,
                    "seed": spec.seed,
                },
            )
        )
        .callbacks(on_environment_created=_number_environment)
        .fault_tolerance(restart_failed_env_runners=True)
        .debugging(seed=spec.seed, log_level="ERROR")
    )


def _make_env(context: Mapping[str, Any]) -> DenoisingVectorEnv:
    """RLlib's entry point: the vector environment of one runner."""
    return DenoisingVectorEnv(open_task(context["spec"]))


def _number_environment(*, env: Any, env_context: Any, **_: Any) -> None:
    """Gives every runner its own part of the iterations: a vector entry point is not told which runner it serves."""
    env.part = runner_part(env_context.worker_index)
