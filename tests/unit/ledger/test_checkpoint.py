import json
from pathlib import Path

import pytest
import torch
from torch import nn

from irl_vla.config import Config
from irl_vla.errors import CheckpointError
from irl_vla.ledger.checkpoint import Provenance, load_checkpoint, save_checkpoint
from irl_vla.ledger.storage import Location


class Size(Config):
    width: int = 3


def save(folder: Path | Location, stage: str = "pretrain") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = nn.Linear(3, 2).state_dict()
    save_checkpoint(
        folder, stage, {"policy": state}, Size(), Provenance(seed=4, inputs={"data": "abc"}, extra={"x": 1})
    )
    return state


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    state = save(tmp_path)
    loaded = load_checkpoint(tmp_path, "pretrain")
    torch.testing.assert_close(dict(loaded.state_dicts["policy"]), dict(state))
    assert loaded.config == {"width": 3}
    assert (loaded.provenance.seed, loaded.provenance.inputs, loaded.provenance.extra) == (4, {"data": "abc"}, {"x": 1})
    save(tmp_path / "again")
    assert load_checkpoint(tmp_path / "again", "pretrain").fingerprint == loaded.fingerprint


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    weight = torch.ones(2, 2)
    save_checkpoint(tmp_path, "pretrain", {"m": {"a": weight, "b": weight}}, Size(), Provenance(seed=0))
    torch.testing.assert_close(load_checkpoint(tmp_path, "pretrain").state_dicts["m"]["b"], weight)


def test_wrong_stage_names_both(tmp_path: Path) -> None:
    save(tmp_path, "train_reward")
    with pytest.raises(CheckpointError, match=r"'pretrain'.*'train_reward'.*run `irl-vla pretrain`"):
        load_checkpoint(tmp_path, "pretrain")


def test_missing_changed_or_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found no artefact\.json"):
        load_checkpoint(tmp_path / "nowhere", "pretrain")
    save(tmp_path / "a")
    (tmp_path / "a" / "policy.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="file changed"):
        load_checkpoint(tmp_path / "a", "pretrain")
    (tmp_path / "a" / "policy.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no file"):
        load_checkpoint(tmp_path / "a", "pretrain")
    save(tmp_path / "b")
    record = tmp_path / "b" / "artefact.json"
    values = json.loads(record.read_text())
    values["identity"]["schema"] = 99
    record.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="expected schema 2 of checkpoint, found 99"):
        load_checkpoint(tmp_path / "b", "pretrain")


def test_checkpoints_live_in_an_object_store_too(bucket: Location, tmp_path: Path) -> None:
    folder = bucket / tmp_path.name
    save(folder)
    save(folder)  # replaced
    loaded = load_checkpoint(folder, "pretrain")
    save(tmp_path / "local")
    assert loaded.fingerprint == load_checkpoint(tmp_path / "local", "pretrain").fingerprint
    assert set(folder.children()) == {"artefact.json", "policy.safetensors"}
