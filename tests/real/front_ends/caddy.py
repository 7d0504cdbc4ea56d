"""Caddy, which sends the whole path as PATH_INFO unless it is told where to split."""

from collections.abc import Sequence
from pathlib import Path

from tests.real.front_ends import FrontEnd, SetUp, Site
from tests.real.processes import PrivateProcess, require

__all__ = ["CADDY"]


def _site(site: Site, upstream: str, *transport: str, more: str = "") -> str:
    inside = "".join(f"\t\t\t{line}\n" for line in (f"root {site.root}", *transport))
    return (
        f"http://:{site.port} {{\n\tbind 127.0.0.1\n\treverse_proxy {upstream} {{\n"
        f"\t\ttransport fastcgi {{\n{inside}\t\t}}\n{more}\t}}\n}}\n"
    )


def _plain(site: Site) -> str:
    return _site(site, f"127.0.0.1:{site.upstream.port}")


def _split(site: Site) -> str:
    return _site(site, f"unix/{site.upstream.unix}", "split /app", more="\t\tflush_interval -1\n")


def _scripts(site: Site) -> str:
    return _site(site, f"127.0.0.1:{site.upstream.port}", "split .py")


def _start(directory: Path, sites: Sequence[Site]) -> PrivateProcess:
    binary = require("caddy")
    configuration = directory / "Caddyfile"
    configuration.write_text(
        "{\n\tadmin off\n\tauto_https off\n"
        f"\tstorage file_system {directory}/caddy\n}}\n"
        + "".join(site.set_up.render(site) for site in sites)
    )
    process = PrivateProcess(
        "caddy",
        [binary, "run", "--config", str(configuration), "--adapter", "caddyfile"],
        log=directory / "caddy.out",
        environment={
            "HOME": str(directory),
            "XDG_CONFIG_HOME": str(directory),
            "XDG_DATA_HOME": str(directory),
        },
    )
    process.wait_listening(("127.0.0.1", site.port) for site in sites)
    return process


CADDY = FrontEnd(
    "caddy",
    (
        SetUp("caddy-plain", _plain),
        SetUp("caddy-split", _split, prefix="/app"),
        SetUp("caddy-scripts", _scripts, apps=("scripts",)),
    ),
    _start,
)
