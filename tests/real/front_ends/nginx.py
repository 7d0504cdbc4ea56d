"""nginx, whose stock ``fastcgi_params`` send the whole path as SCRIPT_NAME and no PATH_INFO."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.real.front_ends import FrontEnd, SetUp, Site
from tests.real.http_client import HOST
from tests.real.processes import PrivateProcess, require

__all__ = ["NGINX"]

PARAMS = Path("/etc/nginx")


def _location(site: Site, match: str, *directives: str) -> str:
    inside = " ".join(f"{directive};" for directive in directives)
    return (
        f"server {{ listen 127.0.0.1:{site.port}; server_name {HOST}; root {site.root};"
        f" location {match} {{ {inside} }} }}\n"
    )


def _stock(site: Site) -> str:
    return _location(
        site,
        site.set_up.prefix or "/",
        f"include {PARAMS}/fastcgi_params",
        f"fastcgi_pass 127.0.0.1:{site.upstream.port}",
    )


def _split(site: Site) -> str:
    return _location(
        site,
        "/app",
        f"include {PARAMS}/fastcgi.conf",
        "fastcgi_split_path_info ^(/app)(/.*)$",
        "fastcgi_param SCRIPT_NAME $fastcgi_script_name",
        "fastcgi_param PATH_INFO $fastcgi_path_info",
        f"fastcgi_pass unix:{site.upstream.unix}",
        "fastcgi_request_buffering off",
    )


def _recommended(site: Site) -> str:
    return (
        f"upstream {site.name} {{ server 127.0.0.1:{site.upstream.port}; keepalive 16; }}\n"
    ) + _location(
        site,
        "/",
        f"include {PARAMS}/fastcgi_params",
        'fastcgi_param SCRIPT_NAME ""',
        "fastcgi_param PATH_INFO $document_uri",
        'fastcgi_param HTTP_PROXY ""',
        'fastcgi_param REMOTE_USER ""',
        f"fastcgi_pass {site.name}",
        "fastcgi_keep_conn on",
        "fastcgi_buffer_size 16k",
        "fastcgi_buffers 8 16k",
        "fastcgi_next_upstream error timeout http_503",
        "fastcgi_read_timeout 300s",
    )


def _scripts(site: Site) -> str:
    return _location(
        site,
        r"~ \.py$",
        f"include {PARAMS}/fastcgi.conf",
        f"fastcgi_pass 127.0.0.1:{site.upstream.port}",
    )


def _start(directory: Path, sites: Sequence[Site]) -> PrivateProcess:
    binary = require("nginx")
    error_log = directory / "nginx-error.log"
    error_log.touch()
    temporary = "".join(
        f"{module}_temp_path {directory}/{module};\n"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Workers that keep root's rights reach the sockets of a test run by root.
    user = "user root;\n" if os.geteuid() == 0 else ""
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off;\n{user}worker_processes 1;\npid {directory}/nginx.pid;\n"
        # For 500 clients and as many connections behind.
        f"worker_rlimit_nofile 4096;\nevents {{ worker_connections 2048; }}\n"
        f"error_log {error_log} info;\n"
        f"http {{\naccess_log off;\nclient_max_body_size 64m;\n{temporary}"
        + "".join(site.set_up.render(site) for site in sites)
        + "}\n"
    )
    process = PrivateProcess(
        "nginx",
        [binary, "-e", str(error_log), "-p", str(directory), "-c", str(configuration)],
        log=directory / "nginx.out",
        more_logs=[error_log],
    )
    process.wait_listening(("127.0.0.1", site.port) for site in sites)
    return process


NGINX = FrontEnd(
    "nginx",
    (
        SetUp("nginx-stock", _stock),
        SetUp("nginx-stock-location", _stock, prefix="/app", mount="/app"),
        SetUp("nginx-split", _split, prefix="/app"),
        SetUp("nginx-recommended", _recommended),
        SetUp("nginx-scripts", _scripts, apps=("scripts",)),
    ),
    _start,
)
