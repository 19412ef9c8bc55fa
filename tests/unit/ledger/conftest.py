import pytest

from irl_vla.ledger.storage import Location


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """An empty folder of this machine, and one of an object store."""
    if request.param == "local":
        return Location.of(tmp_path / "place")
    return request.getfixturevalue("bucket") / tmp_path.name
