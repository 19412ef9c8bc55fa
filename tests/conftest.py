"""What all tests share."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests that interrupt a command would
# depend on how the test runner itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An object store on this machine, to which this process and its children are pointed."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    chosen = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "IRL_VLA_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setenv(name, value)
        yield
    server.stop()


@pytest.fixture(scope="session")
def bucket(s3_server: None):
    """A bucket that is there, as a place for artefacts."""
    import boto3

    from irl_vla.ledger.storage import Location

    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="results")
    return Location.of("s3://results")
