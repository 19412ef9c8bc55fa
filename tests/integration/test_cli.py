"""The command line from outside: what it prints, its exit statuses, and Ctrl-C."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from irl_vla.cli.main import _STAGES
from irl_vla.stages.experiment import load_experiment
from irl_vla.world.config import SplitSizeConfig, WorldConfig
from irl_vla.world.generate import generate

from .command import PATIENCE_S, PROGRAM, ROOT, SMOKE, call, run, stamps, start

PIPELINES = sorted(path.stem for path in (ROOT / "pipelines").glob("[!_]*.py"))
#: Each costs a second or more to import.
HEAVY = ("ray", "torch", "transformers", "diffusers", "mlflow", "numba", "scipy", "pyarrow", "pandas", "matplotlib")
MODULES = """
import sys
from irl_vla.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
sys.stderr.write(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_after(folder: Path, *arguments: str | Path) -> set[str]:
    """Top-level modules that the command line has imported once it has answered."""
    finished = call(folder, [sys.executable, "-c", MODULES, *arguments])
    assert finished.returncode == 0, finished.stderr
    return set(finished.stderr.split())


def test_help_names_every_stage_and_imports_nothing_else(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help")
    assert shown.returncode == 0
    assert set(_STAGES) == {name.replace("_", "-") for name in PIPELINES}
    assert all(re.search(rf"^ +{name}\b", shown.stdout, re.MULTILINE) for name in _STAGES)
    loaded = modules_after(tmp_path, "--help")
    assert not loaded & {*HEAVY, "numpy", "pydantic", "yaml"}


@pytest.mark.parametrize("stage", _STAGES)
def test_help_of_a_stage(tmp_path: Path, stage: str) -> None:
    shown = run(tmp_path, stage, "--help")
    assert shown.returncode == 0
    assert _STAGES[stage].partition(",")[0].split()[0] in shown.stdout
    assert "key=value" in shown.stdout


def test_print_config_is_the_configuration(tmp_path: Path) -> None:
    shown = run(tmp_path, "finetune", SMOKE, "finetune.weights.safety=2", "seed=3", "--print-config")
    assert shown.returncode == 0
    values = yaml.safe_load(shown.stdout)
    assert (values["name"], values["seed"], values["finetune"]["weights"]["safety"]) == ("smoke", 3, 2.0)
    (tmp_path / "printed.yaml").write_text(shown.stdout)
    expected = load_experiment(SMOKE, ["finetune.weights.safety=2", "seed=3"])
    assert load_experiment(tmp_path / "printed.yaml", []) == expected
    assert list(tmp_path.iterdir()) == [tmp_path / "printed.yaml"], "nothing else is written"
    assert not modules_after(tmp_path, "run", SMOKE, "--print-config") & {*HEAVY, "shapely", "numpy"}


@pytest.mark.parametrize("stage", PIPELINES)
def test_help_of_a_cluster_entry(tmp_path: Path, stage: str) -> None:
    shown = call(tmp_path, [sys.executable, "-m", f"pipelines.{stage}", "--help"])
    assert shown.returncode == 0, shown.stderr
    assert f"python -m pipelines.{stage}" in shown.stdout


def test_a_cluster_entry_has_the_same_exit_status(tmp_path: Path) -> None:
    refused = call(tmp_path, [sys.executable, "-m", "pipelines.train_reward", str(SMOKE), "train_reward.step=3"])
    assert refused.returncode == 2
    assert "did you mean 'steps'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SMOKE, "finetune.iteration=3"], "unknown key 'finetune.iteration'; did you mean 'iterations'?"),
        ([SMOKE, "fintune.iterations=3"], "no section 'fintune'; did you mean 'finetune'?"),
        ([SMOKE, "finetune.iterations=-3"], "finetune.iterations: Input should be greater than 0, found -3"),
        ([SMOKE, "finetune.iterations"], "expected key=value"),
        ([SMOKE, "finetune.iterations=["], "not valid YAML"),
        ([SMOKE, "name=../elsewhere"], "name: "),
        ([SMOKE, "evaluate.policies=[humann]"], "evaluate.policies.0: Input should be 'constant_velocity', "),
        (["absent.yaml"], "absent.yaml: no such configuration; the ready ones are in configs/"),
        ([SMOKE, "generate=null", "data.root=nowhere"], "data.root: expected a folder, found none at nowhere"),
        ([SMOKE, "generate=null", "data.root=null"], "set it or OPENSCENE_DATA_ROOT"),
    ],
)
def test_bad_input_is_explained_in_a_line(tmp_path: Path, arguments: list[str | Path], message: str) -> None:
    refused = run(tmp_path, "pretrain", *arguments, f"runs={tmp_path / 'runs'}")
    assert refused.returncode == 2
    assert message in refused.stderr.replace(str(tmp_path) + "/", "")
    assert "Traceback" not in refused.stderr
    assert not refused.stdout
    assert not (tmp_path / "runs").exists(), "a refused command leaves nothing behind that a corrected one meets"


def test_a_stage_names_the_one_before_it(tmp_path: Path) -> None:
    for stage, missing in (("label", "pretrain"), ("finetune", "pretrain"), ("sweep", "pretrain")):
        refused = run(tmp_path, stage, SMOKE, "runs=runs")
        assert refused.returncode == 2
        assert f"expected a finished stage {missing}, found nothing; run `irl-vla {missing}` first" in refused.stderr


def test_evaluation_asks_for_its_policies_before_any_work(tmp_path: Path) -> None:
    refused = run(tmp_path, "evaluate", SMOKE, "runs=runs", "evaluate.policies=[human,ego_mlp]")
    assert refused.returncode == 2
    assert "run `irl-vla pretrain` first" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_broken_log_is_named(tmp_path: Path) -> None:
    size = SplitSizeConfig(logs=2, layouts=2)
    config = WorldConfig(train=size, val=size, test=size, frames_per_log=12, sensors=None)
    generate(config, tmp_path / "world", seed=0)
    broken = sorted((tmp_path / "world" / "navsim_logs" / "test").glob("*.pkl"))[1]
    broken.write_bytes(broken.read_bytes()[:-100])
    navsim = ROOT / "configs" / "navsim.yaml"
    refused = run(tmp_path, "evaluate", navsim, "data.root=world", "data.test=test", "runs=runs", "ray.cpus=1")
    assert refused.returncode == 2, refused.stderr[-3000:]
    assert "LogFormatError: split 'test': 1 of 2 logs are missing or broken" in refused.stderr
    assert str(broken) in refused.stderr
    assert "Traceback" not in refused.stderr


WORLD = (
    "data.root=world",
    "generate.train.logs=12",
    "generate.val.logs=2",
    "generate.test.logs=2",
    "generate.sensors=null",
)


@pytest.mark.parametrize("whole_group", [False, True], ids=["one worker", "two workers, as a terminal does"])
def test_ctrl_c_and_the_same_command_goes_on(tmp_path: Path, whole_group: bool) -> None:
    command = ("generate", SMOKE, *WORLD, f"generate.workers={1 + whole_group}")
    logs = tmp_path / "world" / "navsim_logs"
    process = start(tmp_path, *command)
    deadline = time.monotonic() + PATIENCE_S
    while not list(logs.glob("*/[!.]*.pkl")):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "no log was written in time"
        time.sleep(0.01)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors[-3000:]
    assert "interrupted; the same command resumes" in errors
    assert "Traceback" not in errors
    before = stamps(logs)
    assert 1 <= len(before) < 16
    assert not json.loads((tmp_path / "world" / "artefact.json").read_text())["whole"]
    again = run(tmp_path, *command)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"{16 - len(before)} of 16 logs to generate" in again.stderr
    assert stamps(logs).items() >= before.items(), "a whole log was written again"
    assert len(list(logs.glob("*/*.pkl"))) == 16


def test_the_program_is_installed() -> None:
    assert PROGRAM.exists(), "install the project: pip install -e ."
