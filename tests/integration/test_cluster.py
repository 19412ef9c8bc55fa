"""`cluster/submit.sh` against a cluster started by hand: one head on this machine, with token authentication."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
SUBMIT = ROOT / "cluster" / "submit.sh"
SMOKE = ROOT / "configs" / "smoke.yaml"
PATIENCE_S = 240

TINY = (
    "generate.train.logs=2",
    "generate.val.logs=2",
    "generate.test.logs=2",
    "generate.frames_per_log=12",
    "generate.sensors=null",
    "generate.workers=1",
)

#: What a stage's driver does inside a job, without a stage: where are tasks run, and with which variables?
JOIN = """
import os
from irl_vla.stages.session import RayConfig, ray_session
with ray_session(RayConfig(cpus=7)):
    import ray
    task = ray.remote(lambda: (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["OMP_NUM_THREADS"]))
    print(*ray.get(task.remote()), int(ray.cluster_resources()["CPU"]), int(ray.cluster_resources()["only_here"]))
"""


@dataclass(frozen=True)
class Head:
    """A running head: where jobs are submitted, where drivers join, and the variables that let a client in."""

    dashboard: str
    address: str
    environment: Mapping[str, str]


def run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def submit(head: Head, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([str(SUBMIT), head.dashboard, *arguments], {**head.environment, **environment})


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def clean_environment() -> dict[str, str]:
    """This process's variables without those that lead to another cluster; no proxy stands before loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "IRL_VLA_"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with its own ports, folder and token; exactly the processes that it started are ended."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path may have 107 characters
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {**clean_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    port, dashboard, agent, client = free_ports(4)
    command = f"ray start --head --block --node-ip-address=127.0.0.1 --port={port} --dashboard-host=127.0.0.1"
    command += f" --dashboard-port={dashboard} --dashboard-agent-listen-port={agent} --ray-client-server-port={client}"
    command += f" --temp-dir={folder}/ray --min-worker-port=0 --max-worker-port=0"
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [*command.split(), "--num-cpus=2", "--object-store-memory=100000000", '--resources={"only_here": 5}'],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(process, folder / "head.log")
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", environment)
    finally:
        end_session(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while "block forever" not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM lets the head end its daemons; what outlives it is killed by the process group, which is ours alone."""
    process.terminate()
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.slow
def test_a_stage_runs_as_a_job_and_writes_to_the_shared_folder(head: Head, tmp_path: Path) -> None:
    done = submit(head, "generate", str(SMOKE), *TINY, IRL_VLA_FOLDER=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "6 of 6 logs to generate" in done.stdout  # the job's log comes back
    logs = (tmp_path / "data/smoke/navsim_logs").glob("*/*.pkl")
    written = {path: path.stat().st_mtime_ns for path in logs}
    assert len(written) == 6

    (tmp_path / "mine.yaml").write_text(SMOKE.read_text())  # a configuration in the shared folder, not in the checkout
    again = submit(head, "generate", str(tmp_path / "mine.yaml"), *TINY, "name=smoke", IRL_VLA_FOLDER=str(tmp_path))
    assert again.returncode == 0, again.stdout[-3000:]
    assert {path: path.stat().st_mtime_ns for path in written} == written  # found whole


@pytest.mark.slow
def test_a_failing_stage_fails_the_submission_and_tells_why(head: Head, tmp_path: Path) -> None:
    failed = submit(head, "train-reward", str(SMOKE), IRL_VLA_FOLDER=str(tmp_path))
    assert failed.returncode == 1
    assert "expected the finished stage 'pretrain'" in failed.stdout


@pytest.mark.slow
def test_a_driver_joins_the_cluster_and_its_workers_get_its_variables(head: Head) -> None:
    join = [sys.executable, "-c", JOIN]
    joined = run(join, {**head.environment, "RAY_ADDRESS": head.address, "OMP_NUM_THREADS": "3"})
    assert joined.returncode == 0, joined.stdout[-3000:]
    assert joined.stdout.strip().splitlines()[-1] == "true 3 2 5"

    refused = run(join, {**head.environment, "RAY_ADDRESS": head.address, "RAY_AUTH_TOKEN": "wrong"})
    assert refused.returncode != 0
    assert "ClusterError" in refused.stdout
    assert "RAY_AUTH_TOKEN_PATH" in refused.stdout


@pytest.mark.slow
def test_a_wrong_token_is_refused_before_anything_is_sent(head: Head) -> None:
    refused = submit(head, "generate", str(SMOKE), RAY_AUTH_TOKEN="wrong")
    assert (refused.returncode, "RAY_AUTH_TOKEN_PATH" in refused.stdout) == (3, True), refused.stdout


def absent(environment: Mapping[str, str] | None = None) -> Head:
    (port,) = free_ports(1)
    return Head(f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", {**clean_environment(), **(environment or {})})


def test_an_absent_cluster_is_named() -> None:
    refused = submit(absent(), "generate", str(SMOKE))
    assert refused.returncode == 3
    assert refused.stdout.startswith("submit.sh: no cluster at http://127.0.0.1:")


def test_a_mute_cluster_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        mute = Head(f"http://127.0.0.1:{server.getsockname()[1]}", "", clean_environment())
        refused = submit(mute, "generate", str(SMOKE), IRL_VLA_CONNECT_TIMEOUT_S="0.5")
    assert refused.returncode == 3
    assert "timed out" in refused.stdout


def test_the_token_file_is_sent_and_trailing_newlines_are_not(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_error(401)

        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "token").write_text("abc\n")
    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        refusing = Head(f"http://127.0.0.1:{server.server_port}", "", clean_environment())
        refused = submit(refusing, "generate", str(SMOKE), RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert (refused.returncode, seen) == (3, ["Bearer abc"])
    assert "the token is missing or wrong" in refused.stdout


@pytest.mark.parametrize(
    ("stage", "config", "message"),
    [
        ("generat", str(SMOKE), "no stage generat"),
        ("generate", "configs/smok.yaml", "no such configuration"),
        ("generate", "/etc/hostname", "the cluster cannot read it"),
    ],
)
def test_wrong_arguments_are_refused_before_the_cluster_is_asked(stage: str, config: str, message: str) -> None:
    refused = submit(absent(), stage, config)
    assert refused.returncode == 2
    assert message in refused.stdout


def test_without_arguments_the_usage_is_shown() -> None:
    shown = run([str(SUBMIT)], clean_environment())
    assert shown.returncode == 2
    assert shown.stdout.startswith("Runs one stage on a Ray cluster:  cluster/submit.sh ADDRESS STAGE CONFIG")


def test_the_job_for_kuberay_starts_what_this_project_has() -> None:
    job = yaml.safe_load((ROOT / "cluster/kuberay-job.yaml").read_text())
    _, _, module, config, *_ = job["spec"]["entrypoint"].split()
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
    assert (ROOT / config).is_file()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] in (ROOT / "constraints.txt").read_text()


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = yaml.safe_load((ROOT / "cluster/ray-cluster.yaml").read_text())
    validate_config(prepare_config(cluster))
