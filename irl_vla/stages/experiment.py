"""An experiment: one YAML file with a section a stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from irl_vla.config import Config, load_values, parse_overrides, validated
from irl_vla.dataset.config import DataConfig, ViewConfig
from irl_vla.epdms.config import ScorerConfig
from irl_vla.judge.policies import DETERMINISTIC
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.ledger.storage import Location
from irl_vla.ledger.tracking import TrackingConfig
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.reward.config import CandidateConfig, LabelConfig, RewardTrainConfig
from irl_vla.rl.config import FinetuneConfig, SweepConfig
from irl_vla.stages.session import RayConfig
from irl_vla.train.config import ImitationConfig
from irl_vla.world.config import WorldConfig

#: The names of ``irl_vla.judge.policies.POLICIES``; written out, so that the message about a wrong one lists them.
PolicyName = Literal[
    "constant_velocity",
    "constant_acceleration",
    "human",
    "ego_mlp",
    "reference",
    "imitation",
    "control",
    "finetuned",
    "imitation_best_of",
    "finetuned_best_of",
]


class GenerateConfig(WorldConfig):
    """The generated world, and which of its scenes are worth judging.

    Attributes:
        selection: how scenes are chosen once the world is there; None keeps every window in the splits.
        replace: another generated data set in the folder is removed, and results that were made from it are given up.
    """

    selection: SelectionConfig | None = SelectionConfig()
    replace: bool = False

    @property
    def world(self) -> WorldConfig:
        """The world alone, of which the data set's record tells."""
        return WorldConfig(**{name: getattr(self, name) for name in WorldConfig.model_fields})


class EvaluateConfig(Config):
    """Which policies are judged, and how sure the intervals are.

    Attributes:
        policies: any of ``irl_vla.judge.policies.POLICIES``; by default all but those that choose among plans.
        against: policies to whose scores all others are compared, frame by frame.
        training_scenes: about how many training scenes are judged, too, if a trained policy is: what is gained only
            there was learned by heart. None: as many as are judged of the test split; 0: none.
        bootstrap_samples: draws of the bootstrap over layouts (real data: over logs).
        scorer: how the true scorer scores.
        candidates: how ``imitation_best_of`` and ``finetuned_best_of`` choose.
        incomplete: as ``pretrain.samples.incomplete``, for the split that is judged on: a finished policy may be judged
            where it does not see everything (second stages of NAVSIM have no LiDAR).
    """

    policies: tuple[PolicyName, ...] = Field(DETERMINISTIC, min_length=1)  # type: ignore[arg-type]
    against: tuple[PolicyName, ...] = ("constant_velocity", "constant_acceleration", "ego_mlp", "imitation")
    training_scenes: int | None = Field(None, ge=0)
    bootstrap_samples: int = Field(2000, ge=100)
    scorer: ScorerConfig = ScorerConfig()
    candidates: CandidateConfig = CandidateConfig()
    incomplete: Literal["error", "leave_out", "blank"] = "error"


class ReportConfig(Config):
    """Pictures of the report: scenes where the trained policies differ most, half gained and half lost."""

    scenes: int = Field(8, ge=0)


class Experiment(Config):
    """All settings of an experiment; a YAML file holds only departures from these defaults.

    Attributes:
        name: of the experiment and its folder.
        seed: of training; several seeds of one experiment share the data.
        data_seed: of the generated world and of shifted views.
        runs: folder of all experiments: a path, or a URI such as ``s3://bucket/runs``.
        generate: the generated world, or None if the data is there already (real data).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    seed: int = Field(0, ge=0)
    data_seed: int = Field(0, ge=0)
    runs: str = "runs"
    data: DataConfig = DataConfig()
    views: ViewConfig = ViewConfig()
    model: PolicyConfig = PolicyConfig()
    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    generate: GenerateConfig | None = GenerateConfig()
    pretrain: ImitationConfig = ImitationConfig()
    label: LabelConfig = LabelConfig()
    train_reward: RewardTrainConfig = RewardTrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    sweep: SweepConfig = SweepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("runs", mode="before")
    @classmethod
    def _text(cls, runs: object) -> object:
        return str(runs) if isinstance(runs, Path) else runs

    @property
    def root(self) -> Location:
        """Folder of all seeds, absolute: workers have other working directories."""
        return Location.of(self.runs) / self.name

    @property
    def folder(self) -> Location:
        """Folder of this seed."""
        return self.root / f"seed-{self.seed}"

    @property
    def shared(self) -> Location:
        """What does not depend on the training seed."""
        return self.root / "shared"


def load_experiment(path: Path, overrides: Sequence[str]) -> Experiment:
    """Reads an experiment and applies ``key=value`` overrides.

    Raises:
        ConfigError: for a missing file, an unknown key (the nearest is named) or an unfit value.
    """
    values = {"name": path.stem, **load_values(path)}
    experiment = validated(Experiment, values, source=str(path))
    return experiment.with_overrides(parse_overrides(overrides, Experiment))
