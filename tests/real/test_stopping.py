"""SIGTERM while requests run, seen from beyond nginx."""

import contextlib
import http.client
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.apps import pattern, summary
from tests.real.front_ends import Site, Upstream
from tests.real.front_ends.nginx import NGINX
from tests.real.http_client import fetch, open_exchange
from tests.real.ports import PortBlock
from tests.real.serving import Serving

(SPLIT,) = (set_up for set_up in NGINX.set_ups if set_up.name == "nginx-split")


@contextlib.contextmanager
def behind_nginx(
    directory: Path, ports: PortBlock, *arguments: str
) -> Iterator[tuple[Serving, Site]]:
    """A trifcgi of the test's own, and an nginx that passes bodies on as they come."""
    unix = directory / "app.sock"
    serving = Serving(
        "trifcgi",
        ["tests.real.apps.native_app:app", "--unix", str(unix), *arguments],
        log=directory / "trifcgi.log",
    )
    with contextlib.ExitStack() as stack:
        stack.callback(serving.kill)
        serving.wait_addresses()
        site = Site(
            set_up=SPLIT,
            app="native",
            port=ports.take(),
            root=directory,
            upstream=Upstream(0, unix),
            launcher=directory,
        )
        nginx = NGINX.start(directory, [site])
        stack.callback(nginx.kill)
        yield serving, site
        nginx.stop()


def test_a_running_request_is_finished(short_directory: Path, ports: PortBlock) -> None:
    body = pattern(1 << 20)
    with behind_nginx(short_directory, ports) as (serving, site):
        with open_exchange(
            site.origin, "/upload", method="POST", length=len(body), headers=[]
        ) as exchange:
            exchange.send(body[: 1 << 19])
            # Whoever is answered after it has seen it begin.
            assert fetch(site.origin, "/health").status == 200
            serving.send_signal(signal.SIGTERM)
            serving.wait_log("stopping")
            assert fetch(site.origin, "/health").status == 502
            exchange.send(body[1 << 19 :])
            response = exchange.getresponse()
            assert (response.status, response.read().decode()) == (200, summary(body))
        assert serving.wait() == 0


def test_a_request_that_outlasts_the_grace_is_cut_visibly(
    short_directory: Path, ports: PortBlock
) -> None:
    with behind_nginx(short_directory, ports, "--grace", "0.2") as (serving, site):
        with open_exchange(site.origin, "/endless?key=k") as exchange:
            response = exchange.getresponse()
            assert response.readline() == b"data: again\n"
            serving.send_signal(signal.SIGTERM)
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        # No clean stop: somebody did not get an answer.
        assert serving.wait() == 1
        assert "requests cut: 1" in serving.read_log()


def test_a_second_term_does_not_wait(short_directory: Path, ports: PortBlock) -> None:
    with (
        behind_nginx(short_directory, ports) as (serving, site),
        open_exchange(site.origin, "/endless?key=k") as exchange,
    ):
        response = exchange.getresponse()
        assert response.readline() == b"data: again\n"
        serving.send_signal(signal.SIGTERM)
        serving.wait_log("stopping")
        serving.send_signal(signal.SIGTERM)
        assert serving.wait() == 1
        # Cut short by its own server, and no more complete than after an error.
        with pytest.raises(http.client.IncompleteRead):
            response.read()


def test_requests_go_on_after_trifcgi_was_started_again(
    short_directory: Path, ports: PortBlock
) -> None:
    with behind_nginx(short_directory, ports) as (serving, site):
        assert fetch(site.origin, "/health").status == 200
        serving.finish()
        again = Serving(
            "trifcgi again",
            ["tests.real.apps.native_app:app", "--unix", str(site.upstream.unix)],
            log=short_directory / "again.log",
        )
        again.wait_addresses()
        assert fetch(site.origin, "/health").status == 200
        again.finish()
