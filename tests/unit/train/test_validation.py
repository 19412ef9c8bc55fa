"""Which worker validates which logs."""

import numpy as np
import pytest

from irl_vla.train.loop import Rank
from irl_vla.train.validation import own_share


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_every_row_is_judged_by_one_worker_and_logs_stay_whole(workers: int) -> None:
    logs = np.repeat(["c", "a", "d", "b", "a"], [3, 1, 2, 4, 2])
    shares = np.stack([own_share(logs, Rank(worker, workers)) for worker in range(workers)])
    assert shares.sum(axis=0).tolist() == [1] * len(logs)
    for name in np.unique(logs):
        assert len(np.unique(shares[:, logs == name].argmax(axis=0))) == 1
    judged = (shares @ np.ones(len(logs))).tolist()
    assert judged == {1: [12], 2: [6, 6], 3: [5, 4, 3], 7: [3, 4, 3, 2, 0, 0, 0]}[workers]
