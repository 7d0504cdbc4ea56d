"""lighttpd, which cuts the path at the configured prefix, and can spawn."""

from collections.abc import Sequence
from pathlib import Path

from tests.real.front_ends import FrontEnd, SetUp, Site
from tests.real.http_client import HOST
from tests.real.processes import PrivateProcess, require

__all__ = ["LIGHTTPD"]


def _socket(site: Site, match: str, *settings: str, more: str = "") -> str:
    inside = ", ".join(settings)
    return (
        f'$SERVER["socket"] == "127.0.0.1:{site.port}" {{\n'
        f'server.document-root = "{site.root}"\n'
        f'fastcgi.server = ("{match}" => (( {inside} )))\n{more}}}\n'
    )


def _tcp(site: Site) -> tuple[str, str]:
    return '"host" => "127.0.0.1"', f'"port" => {site.upstream.port}'


def _prefix(site: Site) -> str:
    return _socket(site, "/app", *_tcp(site), '"check-local" => "disable"')


def _root(site: Site) -> str:
    return _socket(
        site,
        "/",
        f'"socket" => "{site.upstream.unix}"',
        '"check-local" => "disable"',
        '"fix-root-scriptname" => "enable"',
    )


def _stream(site: Site) -> str:
    return _socket(
        site,
        "/app",
        *_tcp(site),
        '"check-local" => "disable"',
        more="server.stream-response-body = 1\nserver.stream-request-body = 1\n",
    )


def _spawned(site: Site) -> str:
    return _socket(
        site,
        "/app",
        f'"bin-path" => "{site.launcher}"',
        f'"socket" => "{site.root}/{site.app}.spawned"',
        '"max-procs" => 1',
        '"check-local" => "disable"',
    )


def _authorizer(site: Site) -> str:
    return _socket(
        site,
        "/",
        f'"socket" => "{site.upstream.unix}"',
        '"mode" => "authorizer"',
        '"check-local" => "disable"',
        f'"docroot" => "{site.root}"',
    )


def _scripts(site: Site) -> str:
    return _socket(site, ".py", *_tcp(site))


def _start(directory: Path, sites: Sequence[Site]) -> PrivateProcess:
    binary = require("lighttpd")
    configuration = directory / "lighttpd.conf"
    first = sites[0].port
    configuration.write_text(
        'server.modules = ("mod_fastcgi")\n'
        f'server.document-root = "{directory}"\nserver.name = "{HOST}"\n'
        f'server.bind = "127.0.0.1"\nserver.port = {first}\n'
        f'server.upload-dirs = ("{directory}")\n'
        + "".join(site.set_up.render(site) for site in sites)
    )
    process = PrivateProcess(
        "lighttpd",
        [binary, "-D", "-f", str(configuration)],
        log=directory / "lighttpd.out",
    )
    process.wait_listening(("127.0.0.1", site.port) for site in sites)
    return process


LIGHTTPD = FrontEnd(
    "lighttpd",
    (
        SetUp("lighttpd-prefix", _prefix, prefix="/app"),
        SetUp("lighttpd-root", _root),
        SetUp("lighttpd-stream", _stream, prefix="/app"),
        SetUp("lighttpd-spawned", _spawned, prefix="/app", spawned=True),
        SetUp("lighttpd-authorizer", _authorizer, apps=("authorizer",)),
        SetUp("lighttpd-scripts", _scripts, apps=("scripts",)),
    ),
    _start,
)
