"""RLlib's PPO learner with the clip on whole denoising steps and a pull towards the imitation policy."""

from typing import Any, Final

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from irl_vla.policy.diffusion import step_divergence, step_log_ratio

#: Batch column: means of the sampling policy, from which the old log-probabilities follow.
OLD_MEAN: Final = "old_mean"
#: Forward column of the frozen imitation policy's means.
CLONED_MEAN: Final = "cloned_mean"
_LOG_RATIO_LIMIT: Final = 8.0


class ChainLearner(PPOTorchLearner):
    """Loss = clipped surrogate + c_bc * KL(policy || imitation) + squared error of the scene critic.

    A step's action is a whole plan, so its log-ratio is summed over the plan's dimensions before clipping. Both
    Gaussians of a step share one standard deviation, which makes ratio and KL functions of the means alone.
    """

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """One optimiser for the planner, one with its own rate for the critic (if the module has one)."""
        module = self._module[module_id]
        settings = config.learner_config_dict
        policy = [parameter for parameter in module.chain.parameters() if parameter.requires_grad]
        self.register_optimizer(
            module_id=module_id,
            optimizer_name="policy",
            optimizer=torch.optim.Adam(policy),
            params=policy,
            lr_or_lr_schedule=config.lr,
        )
        if config.use_critic:
            critic = list(module.critic.parameters())
            self.register_optimizer(
                module_id=module_id,
                optimizer_name="critic",
                optimizer=torch.optim.Adam(critic),
                params=critic,
                lr_or_lr_schedule=settings["critic_lr"],
            )

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """The loss of one minibatch of denoising steps."""
        mean, log_std = fwd_out[Columns.ACTION_DIST_INPUTS].chunk(2, dim=-1)
        ratio = step_ratio(mean, batch[OLD_MEAN], log_std, batch[Columns.ACTIONS])
        loss = clipped_surrogate(ratio, batch[Postprocessing.ADVANTAGES], config.clip_param)
        metrics = {"policy_loss": loss.detach(), "clip_fraction": clip_fraction(ratio, config.clip_param)}
        pull = config.learner_config_dict["behaviour_cloning"]
        if pull > 0:
            divergence = step_divergence(mean, fwd_out[CLONED_MEAN], log_std).mean()
            loss = loss + pull * divergence
            metrics["kl_to_imitation"] = divergence.detach()
        if config.use_critic:
            values = self.module[module_id].unwrapped().compute_values(batch)
            error = torch.nn.functional.mse_loss(values, batch[Postprocessing.VALUE_TARGETS])
            loss = loss + error
            metrics["critic_loss"] = error.detach()
        minibatches = config.num_epochs * config.train_batch_size_per_learner // config.minibatch_size
        for name, value in metrics.items():
            self.metrics.log_value((module_id, name), value, window=minibatches)  # the mean over one iteration
        return loss


def step_ratio(mean: torch.Tensor, old_mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Probability ratio of whole denoising steps, (N,) from (N, D) Gaussians of equal deviation."""
    log_ratio = step_log_ratio(action, mean, old_mean, log_std)
    return log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def clipped_surrogate(ratio: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """PPO's pessimistic objective, to be minimised."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def clip_fraction(ratio: torch.Tensor, clip: float) -> torch.Tensor:
    """Share of steps whose ratio left the trust region."""
    return ((ratio - 1).abs() > clip).float().mean().detach()
