"""A running mean of a planner's weights: what is judged and kept, because a few updates shake the policy itself."""

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from irl_vla.policy.diffusion import DenoisingChain


def running_mean(chain: DenoisingChain, keep: float) -> AveragedModel:
    """The mean, which begins with the first update; ``keep`` in [0, 1] of it stays in every further one."""
    return AveragedModel(chain, multi_avg_fn=get_ema_multi_avg_fn(keep))  # type: ignore[no-untyped-call]


def mean_policy(average: AveragedModel) -> DenoisingChain:
    """The policy with the averaged weights."""
    chain = average.module
    assert isinstance(chain, DenoisingChain)
    return chain
