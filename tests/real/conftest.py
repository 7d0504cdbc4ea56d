"""Fixtures of the third ring: real processes, sockets and front ends."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.deployment import Deployment
from tests.real.front_ends import Site
from tests.real.ports import PortBlock
from tests.real.processes import PrivateProcess

_HERE = Path(__file__).parent
_MOST_LOG = 8_000
_log_starts = pytest.StashKey[dict[Path, int]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this directory."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.real)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember how long each log is, to show a failing test's own part of it."""
    item.stash[_log_starts] = {
        log: log.stat().st_size
        for process in PrivateProcess.running
        for log in process.logs
        if log.exists()
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add to a failure what the processes logged meanwhile."""
    report = yield
    if report.failed and _log_starts in item.stash:  # type: ignore[attr-defined]
        starts = item.stash[_log_starts]
        for process in PrivateProcess.running:
            for log in process.logs:
                text = log.read_bytes()[starts.get(log, 0) :] if log.exists() else b""
                if text:
                    report.sections.append(  # type: ignore[attr-defined]
                        (f"{process.name}: {log.name}", text[-_MOST_LOG:].decode(errors="replace"))
                    )
    return report


@contextlib.contextmanager
def _short_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="trifcgi-", dir="/tmp"))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory that others may enter, with a path short enough for Unix sockets."""
    with _short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def ports() -> Iterator[PortBlock]:
    """Ports for this test run only."""
    block = PortBlock()
    yield block
    block.close()


@pytest.fixture(scope="session")
def deployment(ports: PortBlock) -> Iterator[Deployment]:
    """The test bed, with every application running and front ends started on demand."""
    with _short_directory() as directory:
        script_root = directory / "root"
        script_root.mkdir()
        bed = Deployment(directory, ports, script_root)
        try:
            bed.start_apps()
            yield bed
            bed.stop()
        finally:
            for process in [*bed.running.values(), *bed.servings.values()]:
                process.kill()


@pytest.fixture
def site(request: pytest.FixtureRequest, deployment: Deployment) -> Iterator[Site]:
    """The site that a test's parameters name (see ``deployment.sites``)."""
    set_up, app = request.param
    yield deployment.site(set_up, app)
    deployment.check_alive(set_up)
