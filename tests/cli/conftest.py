"""What the command line's tests stand on."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.apps import write_apps


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """A directory with the applications in it."""
    write_apps(tmp_path)
    return tmp_path


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs the command line in this process, with nothing set from outside."""
    for name in list(os.environ):
        if name.startswith(("TRIFCGI_", "LISTEN_", "NOTIFY_", "FCGI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    return CliRunner()
