"""The authorizer role, asked by the two front ends that have it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.deployment import Deployment, sites
from tests.real.front_ends import Site
from tests.real.http_client import fetch

SITES = sites("lighttpd-authorizer", "apache-access-checker", apps=["authorizer"])


@pytest.fixture
def page(deployment: Deployment) -> Iterator[Path]:
    """What the authorizer guards: a file that the front end itself serves."""
    file = deployment.script_root / "page.txt"
    file.write_text("treasure\n")
    yield file
    file.unlink()


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_who_is_let_through_gets_the_page(site: Site, page: Path) -> None:
    for _ in range(3):
        answer = fetch(site.origin, "/page.txt", headers=[("X-Word", "sesame")])
        assert (answer.status, answer.body) == (200, b"treasure\n")


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_who_is_refused_gets_nothing_of_it(site: Site, page: Path) -> None:
    answer = fetch(site.origin, "/page.txt")
    # mod_fcgid turns every refusal into a 401.
    assert answer.status == (401 if site.set_up.name.startswith("apache") else 403)
    assert b"treasure" not in answer.body


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_a_post_is_decided_without_its_body(site: Site, page: Path) -> None:
    # An authorizer's request ends with its params: no STDIN record follows.
    answer = fetch(site.origin, "/page.txt", method="POST", body=b"x" * 1000)
    assert answer.status in (401, 403)
