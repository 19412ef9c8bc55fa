"""An experiment: one YAML file with a section a stage, the folders it fills, and the record of what is whole.

runs/<name>/shared/             prepared scenes and encoded samples, the same for all seeds
runs/<name>/seed-<seed>/<stage> what a stage makes, with `stage.json` (begun) and `finished.json` (whole)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from irl_vla.config import Config, load_values, parse_overrides, validated
from irl_vla.dataset.config import DataConfig, ViewConfig
from irl_vla.epdms.config import ScorerConfig
from irl_vla.errors import CheckpointError, ConfigError
from irl_vla.judge.selection_config import SelectionConfig
from irl_vla.ledger.files import content_hash, write_text
from irl_vla.ledger.tracking import TrackingConfig, flatten
from irl_vla.policy.planner_config import PolicyConfig
from irl_vla.reward.config import LabelConfig, RewardTrainConfig
from irl_vla.rl.config import FinetuneConfig, SweepConfig
from irl_vla.stages.session import RayConfig
from irl_vla.train.config import ImitationConfig
from irl_vla.world.config import WorldConfig

_BEGUN: Final = "stage.json"
_FINISHED: Final = "finished.json"
PolicyName = Literal[
    "constant_velocity",
    "constant_acceleration",
    "human",
    "ego_mlp",
    "reference",
    "imitation",
    "control",
    "finetuned",
]
#: Baselines that `evaluate` knows by name; "imitation", "control" and "finetuned" are the trained policies.
BASELINES: Final[tuple[PolicyName, ...]] = (
    "constant_velocity",
    "constant_acceleration",
    "human",
    "ego_mlp",
    "reference",
)


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
        """The world alone, of which the data set's manifest tells."""
        return WorldConfig(**{name: getattr(self, name) for name in WorldConfig.model_fields})


class EvaluateConfig(Config):
    """Which policies are judged, and how sure the intervals are.

    Attributes:
        policies: any of ``BASELINES``, "imitation", "control" (imitated on instead of fine-tuned) and "finetuned".
        against: policies to whose scores all others are compared, frame by frame.
        bootstrap_samples: draws of the bootstrap over layouts (real data: over logs).
        scorer: how the true scorer scores.
    """

    policies: tuple[PolicyName, ...] = Field((*BASELINES, "imitation", "control", "finetuned"), min_length=1)
    against: tuple[PolicyName, ...] = ("constant_velocity", "constant_acceleration", "ego_mlp", "imitation")
    bootstrap_samples: int = Field(2000, ge=100)
    scorer: ScorerConfig = ScorerConfig()


class ReportConfig(Config):
    """Pictures of the report: scenes where the trained policies differ most, half gained and half lost."""

    scenes: int = Field(8, ge=0)


class Experiment(Config):
    """All settings of an experiment; a YAML file holds only departures from these defaults.

    Attributes:
        name: of the experiment and its folder.
        seed: of training; several seeds of one experiment share the data.
        data_seed: of the generated world and of shifted views.
        runs: folder of all experiments.
        generate: the generated world, or None if the data is there already (real data).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    seed: int = Field(0, ge=0)
    data_seed: int = Field(0, ge=0)
    runs: Path = Path("runs")
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

    @property
    def root(self) -> Path:
        """Folder of all seeds, absolute: workers have other working directories."""
        return self.runs.resolve() / self.name

    @property
    def folder(self) -> Path:
        """Folder of this seed."""
        return self.root / f"seed-{self.seed}"

    @property
    def shared(self) -> Path:
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


class StageFolder:
    """A stage's folder with the record of its settings and inputs.

    Args:
        sections: the settings that its result depends on.
        inputs: stage name to fingerprint of what it is made from.
    """

    def __init__(self, folder: Path, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        self.path = folder
        self._record = json.loads(json.dumps({"config": dict(sections), "inputs": dict(inputs)}, default=str))

    @property
    def fingerprint(self) -> str:
        """Hash of settings and inputs."""
        return content_hash(self._record)

    @property
    def is_whole(self) -> bool:
        """True if the stage finished with these very settings and inputs.

        Raises:
            ConfigError: if the folder was begun with others; the differing keys are named.
        """
        self._check()
        return (self.path / _FINISHED).exists()

    def begin(self) -> Path:
        """Notes the settings before any work, so that a resumed run cannot mix two of them; returns the folder."""
        self._check()
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / _BEGUN, json.dumps(self._record, indent=1, sort_keys=True))
        return self.path

    def finish(self) -> None:
        """Marks the stage as whole."""
        write_text(self.path / _FINISHED, json.dumps({"fingerprint": self.fingerprint}))

    def require(self, stage: str) -> str:
        """Fingerprint of a finished stage.

        Raises:
            CheckpointError: if it is not whole.
        """
        if not self.is_whole:
            raise CheckpointError(
                f"{self.path}: expected the finished stage {stage!r}; run `irl-vla {stage.replace('_', '-')}` first"
            )
        return self.fingerprint

    def _check(self) -> None:
        path = self.path / _BEGUN
        if not path.exists() or list(self.path.iterdir()) == [path]:  # begun, but stopped before it made anything
            return
        before, now = _keys(json.loads(path.read_text())), _keys(self._record)
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            shown = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed[:5])
            raise ConfigError(
                f"{self.path} was made with other settings ({len(changed)} differ: {shown}); "
                "choose another name= or seed=, or delete the folder"
            )


def _keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the keys with which they are set, and what went in."""
    return flatten({**record["config"], "inputs": record["inputs"]})
