"""The policies that an experiment can judge: what they are, and what has to be there for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["baseline", "trained"]
Role = Literal["train", "val", "test"]
_ALL: Final[tuple[Role, ...]] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class JudgedPolicy:
    """One policy.

    Attributes:
        kind: a baseline to be beaten, or a policy that is trained on sensors.
        checkpoint: below the folder of a seed, of what a stage trains; None if nothing is.
        splits: roles of the splits whose scenes it needs.
        is_best_of: the learned reward chooses among its plans; False takes the deterministic one.
    """

    kind: Kind
    checkpoint: str | None = None
    splits: tuple[Role, ...] = ("test",)
    is_best_of: bool = False

    @property
    def stage(self) -> str | None:
        """The stage that trains it."""
        return None if self.checkpoint is None else self.checkpoint.partition("/")[0]


#: By name, in the order of the tables. "control" is imitated on instead of fine-tuned.
POLICIES: Final[Mapping[str, JudgedPolicy]] = {
    "constant_velocity": JudgedPolicy("baseline"),
    "constant_acceleration": JudgedPolicy("baseline", splits=("train", "test")),
    "human": JudgedPolicy("baseline"),
    "ego_mlp": JudgedPolicy("baseline", "pretrain/ego_mlp", _ALL),
    "reference": JudgedPolicy("baseline"),
    "imitation": JudgedPolicy("trained", "pretrain/policy", _ALL),
    "control": JudgedPolicy("trained", "finetune/control/checkpoint", _ALL),
    "finetuned": JudgedPolicy("trained", "finetune/checkpoint", _ALL),
    "imitation_best_of": JudgedPolicy("trained", "pretrain/policy", _ALL, is_best_of=True),
    "finetuned_best_of": JudgedPolicy("trained", "finetune/checkpoint", _ALL, is_best_of=True),
}
#: What is judged unless others are asked for: every policy with its one deterministic plan.
DETERMINISTIC: Final = tuple(name for name, policy in POLICIES.items() if not policy.is_best_of)
