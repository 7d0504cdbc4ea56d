"""All front ends and applications of one test run, each started when it is first needed."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import pytest

from tests.real.front_ends import APPS, FrontEnd, SetUp, Site, Upstream
from tests.real.front_ends.apache import APACHE
from tests.real.front_ends.caddy import CADDY
from tests.real.front_ends.haproxy import HAPROXY
from tests.real.front_ends.lighttpd import LIGHTTPD
from tests.real.front_ends.nginx import NGINX
from tests.real.ports import PortBlock
from tests.real.processes import PrivateProcess
from tests.real.serving import Serving, write_launcher

__all__ = ["FRONT_ENDS", "Deployment", "every_site", "sites"]

FRONT_ENDS = (NGINX, APACHE, LIGHTTPD, CADDY, HAPROXY)
_SET_UPS = {set_up.name: set_up for front_end in FRONT_ENDS for set_up in front_end.set_ups}


def sites(*set_ups: str, apps: Sequence[str] = APPS) -> list[object]:
    """Parameters for an indirect ``site``: these set-ups times these applications."""
    return [
        pytest.param((set_up, app), id=f"{set_up}:{app}")
        for set_up in set_ups
        for app in _SET_UPS[set_up].apps
        if app in apps
    ]


def every_site(apps: Sequence[str] = APPS, without: Iterable[str] = ()) -> list[object]:
    """The same for all set-ups but some."""
    return sites(*(name for name in _SET_UPS if name not in set(without)), apps=apps)


def _app(name: str) -> str:
    return f"tests.real.apps.{name}_app:app"


@attrs.define
class Deployment:
    """The running test bed.

    Attributes:
        directory: holds all files, with a path short enough for Unix sockets.
        ports: where the front ends' ports come from.
        script_root: what the script host serves.
    """

    directory: Path
    ports: PortBlock
    script_root: Path
    servings: dict[tuple[str, str], Serving] = attrs.field(factory=dict)
    upstreams: dict[tuple[str, str], Upstream] = attrs.field(factory=dict)
    running: dict[str, PrivateProcess] = attrs.field(factory=dict)
    served: dict[tuple[str, str], Site] = attrs.field(factory=dict)

    def start_apps(self) -> None:
        """Start every application that some set-up needs, and wait until all are ready."""
        wanted = {
            (app, set_up.mount)
            for set_up in _SET_UPS.values()
            for app in set_up.apps
            if not set_up.spawned
        }
        for app, mount in sorted(wanted):
            name = app + mount.replace("/", "-")
            listeners = ["--port", "0", "--unix", str(self._unix(name)), "--unix-mode", "666"]
            if app == "scripts":
                arguments = ["--root", str(self.script_root), *listeners]
            else:
                arguments = [_app(app), *listeners]
            if mount:
                arguments += ["--mount", mount]
            self.servings[app, mount] = Serving(
                f"trifcgi {name}", arguments, log=self.directory / f"{name}.log"
            )
        for key, serving in self.servings.items():
            addresses = serving.wait_addresses(2)
            (unix,) = (address for address in addresses if address.startswith("unix:"))
            (tcp,) = (address for address in addresses if not address.startswith("unix:"))
            self.upstreams[key] = Upstream(
                int(tcp.rpartition(":")[2]), Path(unix.removeprefix("unix:"))
            )
        for set_up in _SET_UPS.values():
            for app in set_up.apps if set_up.spawned else ():
                write_launcher(self._launcher(app), _app(app))

    def _unix(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def _launcher(self, app: str) -> Path:
        (self.directory / "launch").mkdir(exist_ok=True)
        return self.directory / "launch" / f"{app}.fcgi"

    def site(self, set_up: str, app: str) -> Site:
        """One site, with its front end started."""
        front_end = _front_end_of(set_up)
        if front_end.name not in self.running:
            self._start(front_end)
        return self.served[set_up, app]

    def check_alive(self, set_up: str) -> None:
        """Fail if a set-up's front end has died; the next test gets a new one."""
        front_end = _front_end_of(set_up)
        process = self.running[front_end.name]
        if process.returncode is not None:
            del self.running[front_end.name]
            process.kill()
            pytest.fail(f"{process.name} died with status {process.returncode}", pytrace=False)

    def _start(self, front_end: FrontEnd) -> None:
        directory = self.directory / front_end.name
        directory.mkdir(exist_ok=True)
        front_end_sites = [
            # One that has died is started again on the same ports.
            self.served.get((set_up.name, app)) or self._plan(set_up, app)
            for set_up in front_end.set_ups
            for app in set_up.apps
        ]
        self.running[front_end.name] = front_end.start(directory, front_end_sites)
        self.served |= {(site.set_up.name, site.app): site for site in front_end_sites}

    def _plan(self, set_up: SetUp, app: str) -> Site:
        return Site(
            set_up=set_up,
            app=app,
            port=self.ports.take(),
            root=self.script_root,
            upstream=self.upstreams.get((app, set_up.mount), _NO_UPSTREAM),
            launcher=self._launcher(app),
        )

    def stop(self) -> None:
        """Stop the front ends, then the applications."""
        with contextlib.ExitStack() as steps:
            for serving in self.servings.values():
                steps.callback(serving.finish)
            for process in self.running.values():
                steps.callback(process.stop)


def _front_end_of(set_up: str) -> FrontEnd:
    (front_end,) = (each for each in FRONT_ENDS if _SET_UPS[set_up] in each.set_ups)
    return front_end


_NO_UPSTREAM = Upstream(0, Path("/nonexistent"))
