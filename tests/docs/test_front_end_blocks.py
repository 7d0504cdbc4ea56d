"""Every piece of front-end configuration passes that front end's own check.

A piece is put where it belongs: into a ``server``, a virtual host, a backend, with nothing
around it but what every configuration has.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, Block
from tests.docs.workspace import Workspace
from tests.real.processes import require

pytestmark = pytest.mark.real

_NGINX_LEVELS = {
    "main": {"daemon", "pid", "error_log", "events", "http", "worker_processes"},
    "http": {"upstream", "server", "map"},
    "server": {"location", "listen", "root", "server_name"},
}
_APACHE_MODULES = Path("/usr/lib/apache2/modules")
_APACHE_LOADED = (
    "mpm_event", "authz_core", "alias", "dir", "env", "setenvif", "slotmem_shm", "proxy",
    "proxy_fcgi", "proxy_balancer", "lbmethod_byrequests", "fcgid",
)  # fmt: skip


def blocks(language: str) -> pytest.MarkDecorator:
    """The documentation's blocks in one front end's language."""
    found = [block for page in PAGES for block in page.code(language)]
    return pytest.mark.parametrize("block", found, ids=str)


def check(command: list[str], directory: Path, **environment: str) -> None:
    """Run a front end's check; its words are the failure's."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def statements(text: str) -> Iterator[str]:
    """The outermost statements of a text in braces."""
    depth = start = 0
    for token in re.finditer(r"[{};]|#.*", text):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0 and token[0] in "};":
            yield text[start : token.end()].strip()
            start = token.end()
    assert not text[start:].strip(), "the last statement has no end"


def _nginx_configuration(block: Block, workspace: Workspace) -> str:
    text = workspace.localize(block.text).replace("/etc/nginx/", "")
    parts: dict[str, list[str]] = {"main": [], "http": [], "server": [], "location": []}
    for statement in statements(text):
        name = statement.split("\n")[-1].split()[0] if statement.startswith("#") else statement
        name = re.split(r"[\s;{]", name)[0]
        level = next(
            (level for level, names in _NGINX_LEVELS.items() if name in names), "location"
        )
        parts[level].append(statement)
    if any(part.startswith("http") for part in parts["main"]):
        assert not parts["http"] + parts["server"] + parts["location"]
        return "\n".join(parts["main"])
    location, server = "\n".join(parts["location"]), "\n".join(parts["server"])
    return (
        "pid nginx.pid;\nevents {}\nhttp {\n" + "\n".join(parts["http"]) + "\n"
        f"server {{ listen {workspace.port('8080')};\n{server}\n"
        f"location /nowhere-else {{ {location} }}\n}}\n}}\n"
    )


@blocks("nginx")
def test_nginx_takes_it(block: Block, workspace: Workspace) -> None:
    nginx = require("nginx")
    for name in ("fastcgi_params", "fastcgi.conf"):
        shutil.copy(Path("/etc/nginx") / name, workspace.directory)
    (workspace.directory / "nginx.conf").write_text(_nginx_configuration(block, workspace))
    directory = str(workspace.directory)
    check(
        [nginx, "-t", "-q", "-e", "stderr", "-p", directory, "-c", "nginx.conf"],
        workspace.directory,
    )


@blocks("apache")
def test_apache_takes_it(block: Block, workspace: Workspace) -> None:
    apache = require("apache2")
    (workspace.directory / "srv/app").mkdir()
    directory = workspace.directory
    loaded = "".join(
        f"LoadModule {name}_module {_APACHE_MODULES}/mod_{name}.so\n" for name in _APACHE_LOADED
    )
    (directory / "apache.conf").write_text(
        f"ServerRoot {directory}\nServerName example.org\nPidFile {directory}/pid\n"
        f"DefaultRuntimeDir {directory}\nErrorLog {directory}/log/error.log\n"
        f"Mutex file:{directory} default\nListen 127.0.0.1:{workspace.port('8080')}\n{loaded}"
        + workspace.localize(block.text)
    )
    check([apache, "-t", "-f", str(directory / "apache.conf")], directory)


@blocks("lighttpd")
def test_lighttpd_takes_it(block: Block, workspace: Workspace) -> None:
    lighttpd = require("lighttpd")
    directory = workspace.directory
    launcher = directory / "srv/app/run.fcgi"
    launcher.parent.mkdir()
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    text = workspace.localize(block.text)
    if "server.document-root" not in text:
        text = f'server.document-root = "{directory}"\n{text}'
    (directory / "lighttpd.conf").write_text(f"server.port = {workspace.port('8080')}\n{text}")
    check([lighttpd, "-tt", "-f", str(directory / "lighttpd.conf")], directory)


@blocks("caddy")
def test_caddy_takes_it(block: Block, workspace: Workspace) -> None:
    caddy = require("caddy")
    directory = workspace.directory
    address = f"http://127.0.0.1:{workspace.port('8080')}"
    text = workspace.localize(block.text).replace("example.org", address)
    (directory / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    check(
        [caddy, "validate", "--config", "Caddyfile", "--adapter", "caddyfile"],
        directory,
        HOME=str(directory),
        XDG_CONFIG_HOME=str(directory),
        XDG_DATA_HOME=str(directory),
    )


@blocks("haproxy")
def test_haproxy_takes_it(block: Block, workspace: Workspace) -> None:
    haproxy = require("haproxy")
    text = workspace.localize(block.text)
    if "frontend " not in text:
        (app,) = re.findall(r"^fcgi-app (\S+)", text, re.MULTILINE)
        text += (
            f"frontend web\n  bind 127.0.0.1:{workspace.port('8080')}\n  default_backend to\n"
            f"backend to\n  use-fcgi-app {app}\n"
            f"  server s1 127.0.0.1:{workspace.port('9000')} proto fcgi\n"
        )
    (workspace.directory / "haproxy.cfg").write_text(
        "global\n  log stderr format raw local0\n"
        "defaults\n  mode http\n  log global\n  timeout connect 5s\n  timeout client 60s\n"
        "  timeout server 60s\n" + text
    )
    check([haproxy, "-c", "-f", "haproxy.cfg"], workspace.directory)


def test_every_front_end_has_blocks_in_its_own_language() -> None:
    languages: dict[str, Callable[..., None]] = {
        "nginx": test_nginx_takes_it,
        "apache": test_apache_takes_it,
        "lighttpd": test_lighttpd_takes_it,
        "caddy": test_caddy_takes_it,
        "haproxy": test_haproxy_takes_it,
    }
    for language in languages:
        assert any(page.code(language) for page in PAGES), language
