"""Connections between front ends and trifcgi: probed, shared, asked from a shell."""

import subprocess

import pytest

from tests.real.apps import REPLIES
from tests.real.deployment import Deployment, every_site, sites
from tests.real.front_ends import Site
from tests.real.http_client import fetch
from tests.real.processes import require


@pytest.mark.parametrize("site", sites("haproxy-mpxs"), indirect=True)
def test_haproxy_finds_it_healthy(site: Site, deployment: Deployment) -> None:
    haproxy = deployment.running["haproxy"]
    haproxy.wait_log(f"Health check for server to_{site.name}/s1 succeeded")
    assert fetch(site.origin, "/health").body == b"well\n"


@pytest.mark.parametrize("app", ["starlette", "flask", "native"])
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_cgi_fcgi_asks_from_a_shell(deployment: Deployment, app: str, family: str) -> None:
    upstream = deployment.upstreams[app, ""]
    address = f"127.0.0.1:{upstream.port}" if family == "tcp" else str(upstream.unix)
    done = subprocess.run(
        [require("cgi-fcgi"), "-bind", "-connect", address],
        env={
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/reply/teapot",
            "QUERY_STRING": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=True,
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    status, _, expected = REPLIES["teapot"]
    assert f"status: {status}".encode() in head.lower()
    assert body == expected


@pytest.mark.parametrize("app", ["starlette", "flask", "native"])
def test_cgi_fcgi_sends_a_body(deployment: Deployment, app: str) -> None:
    done = subprocess.run(
        [
            require("cgi-fcgi"),
            "-bind",
            "-connect",
            f"127.0.0.1:{deployment.upstreams[app, ''].port}",
        ],
        env={
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/upload",
            "SCRIPT_NAME": "",
            "CONTENT_LENGTH": "20000",
            "QUERY_STRING": "",
        },
        input=b"u" * 20_000,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.partition(b"\r\n\r\n")[2].startswith(b"20000 ")


@pytest.mark.parametrize("site", every_site(["native"]), indirect=True)
def test_a_client_that_leaves_early_spoils_nothing(site: Site) -> None:
    # HEAD makes some front ends close the connection before they have read the answer.
    for _ in range(5):
        assert fetch(site.origin, "/download?size=300000", method="HEAD").status == 200
    assert fetch(site.origin, "/reply/plain").body == b"plain\n"
