import pytest

from .example import write_example


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The example data set; tests that change files make their own."""
    return write_example(tmp_path_factory.mktemp("example"))
