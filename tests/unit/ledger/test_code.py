"""Which code runs: commits of a checkout, changes, and what is no checkout of this package."""

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from irl_vla.ledger import code
from irl_vla.ledger.code import CodeVersion, code_version, code_version_of


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the package in it; returns the package."""
    package = tmp_path / "repository" / "irl_vla"
    package.mkdir(parents=True)
    (package / "errors.py").write_text("A = 1\n")
    (package.parent / "README.md").write_text("words\n")
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "--message", "first")
    return package


def test_a_checkout_names_its_commit(checkout: Path) -> None:
    found = code_version_of(checkout)
    assert found.commit == git(checkout, "rev-parse", "HEAD")
    assert not found.dirty
    (checkout.parent / "README.md").write_text("other words\n")
    assert not code_version_of(checkout).dirty, "what is beside the package moves no result"


@pytest.mark.parametrize("name", ["errors.py", "new.py"])
def test_changes_of_the_package_are_told(checkout: Path, name: str) -> None:
    (checkout / name).write_text("A = 2\n")
    found = code_version_of(checkout)
    assert found.dirty
    assert str(found) == f"{found.version} at {str(found.commit)[:8]} with changes {found.changes}"
    (checkout / name).write_text("A = 3\n")
    assert code_version_of(checkout).changes != found.changes, "two states of one commit differ"
    (checkout / name).write_text("A = 2\n")
    assert code_version_of(checkout) == found


def test_a_file_that_is_gone_is_a_change(checkout: Path) -> None:
    (checkout / "errors.py").unlink()
    assert code_version_of(checkout).dirty


def test_an_installed_package_has_its_version_alone(checkout: Path, tmp_path: Path) -> None:
    installed = checkout.parent / ".venv" / "site-packages" / "irl_vla"  # in an environment inside some checkout
    outside = tmp_path / "irl_vla"
    for folder in (installed, outside):
        folder.mkdir(parents=True)
        found = code_version_of(folder)
        assert (found.commit, found.dirty) == (None, False)
        assert str(found) == found.version


def test_a_git_that_fails_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("git", 10.0)

    def absent(*arguments: object, **options: object) -> None:
        raise FileNotFoundError("git")

    for failing in (hang, absent):
        monkeypatch.setattr(code.subprocess, "run", failing)
        assert code_version_of(checkout).commit is None


def test_a_package_that_is_not_installed_has_no_version(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(code, "version", absent)
    assert code_version_of(checkout).version == "unknown"


def test_it_is_asked_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_version()
    monkeypatch.setattr(code, "code_version_of", lambda package: CodeVersion("9", None, dirty=False))
    assert code_version() is first
