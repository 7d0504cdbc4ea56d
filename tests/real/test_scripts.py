"""A file dropped into a directory is served, through every front end."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.deployment import Deployment, sites
from tests.real.front_ends import Site
from tests.real.http_client import fetch

HELLO = Path(__file__).parent / "scripts" / "hello.py"
SITES = sites(
    "nginx-scripts",
    "apache-scripts",
    "lighttpd-scripts",
    "caddy-scripts",
    "haproxy-scripts",
    apps=["scripts"],
)


@pytest.fixture
def hello(deployment: Deployment) -> Iterator[Path]:
    """The script, dropped in while everything runs."""
    script = deployment.script_root / "hello.py"
    shutil.copyfile(HELLO, script)
    yield script
    script.unlink(missing_ok=True)


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_a_dropped_in_script_is_served(site: Site, hello: Path) -> None:
    answer = fetch(site.origin, "/hello.py?world")
    assert (answer.status, answer.body) == (200, b"Hello from /hello.py, world!\n")


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_a_changed_script_is_loaded_again(site: Site, hello: Path) -> None:
    assert fetch(site.origin, "/hello.py").status == 200
    hello.write_text(hello.read_text().replace("Hello", "Good evening"))
    answer = fetch(site.origin, "/hello.py?world")
    assert answer.body == b"Good evening from /hello.py, world!\n"


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_no_script_is_a_404_that_tells_nothing(site: Site, deployment: Deployment) -> None:
    answer = fetch(site.origin, "/missing.py")
    assert answer.status == 404
    assert str(deployment.script_root).encode() not in answer.body
