"""HAProxy, the only one that multiplexes, asks for values and sends aborts."""

from collections.abc import Sequence
from pathlib import Path

from tests.real.front_ends import FrontEnd, SetUp, Site
from tests.real.processes import PrivateProcess, require

__all__ = ["HAPROXY"]


def _proxy(
    site: Site, *, app: Sequence[str] = (), backend: Sequence[str] = (), server: str = ""
) -> str:
    lines = (
        f"fcgi-app {site.name}",
        f"  docroot {site.root}",
        "  log-stderr global",
        "  pass-header Authorization",
        *(f"  {line}" for line in app),
        f"frontend from_{site.name}",
        f"  bind 127.0.0.1:{site.port}",
        f"  default_backend to_{site.name}",
        f"backend to_{site.name}",
        f"  use-fcgi-app {site.name}",
        *(f"  {line}" for line in backend),
        f"  server s1 127.0.0.1:{site.upstream.port} proto fcgi {server}",
    )
    return "\n".join(lines) + "\n"


def _plain(site: Site) -> str:
    return _proxy(site)


def _path_info(site: Site) -> str:
    return _proxy(site, app=["path-info ^(/app)(/.*)?$", "no option keep-conn"])


def _multiplexed(site: Site) -> str:
    return _proxy(
        site,
        app=["option keep-conn", "option mpxs-conns", "option max-reqs 10", "option get-values"],
        backend=["http-reuse always", "option httpchk GET /health", "option log-health-checks"],
        server="check inter 200ms",
    )


def _start(directory: Path, sites: Sequence[Site]) -> PrivateProcess:
    binary = require("haproxy")
    configuration = directory / "haproxy.cfg"
    configuration.write_text(
        "global\n  maxconn 200\n  log stderr format raw local0\n"
        "defaults\n  mode http\n  log global\n  option http-no-delay\n"
        "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        + "".join(site.set_up.render(site) for site in sites)
    )
    process = PrivateProcess(
        "haproxy", [binary, "-db", "-f", str(configuration)], log=directory / "haproxy.out"
    )
    process.wait_listening(("127.0.0.1", site.port) for site in sites)
    return process


HAPROXY = FrontEnd(
    "haproxy",
    (
        SetUp("haproxy-plain", _plain),
        SetUp("haproxy-pathinfo", _path_info, prefix="/app"),
        SetUp("haproxy-mpxs", _multiplexed),
        SetUp("haproxy-scripts", _plain, apps=("scripts",)),
    ),
    _start,
)
