"""Fixtures of the documentation's tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.workspace import Workspace
from tests.real.ports import PortBlock


@pytest.fixture(scope="session")
def docs_ports() -> Iterator[PortBlock]:
    """Ports for these tests only."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture
def workspace(docs_ports: PortBlock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """An empty workspace, which is the current directory; modules loaded from it are dropped."""
    directory = Path(tempfile.mkdtemp(prefix="trifcgi-docs-", dir="/tmp"))
    directory.chmod(0o755)
    space = Workspace(directory, docs_ports)
    monkeypatch.chdir(directory)
    for name in [name for name in os.environ if name.startswith("TRIFCGI_")]:
        if name != "TRIFCGI_REQUIRE_FRONT_ENDS":
            monkeypatch.delenv(name)
    with space.loading():
        yield space
    shutil.rmtree(directory)
