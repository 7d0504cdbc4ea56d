"""Private front ends: nginx, Apache, lighttpd, Caddy and HAProxy, each with its set-ups.

A set-up is one documented way to put an application behind a front end. Each module here
starts one instance that serves every set-up times every application, each on a port of its
own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from tests.real.http_client import Origin
from tests.real.processes import PrivateProcess

__all__ = ["FrontEnd", "SetUp", "Site", "Upstream"]

APPS = ("starlette", "flask", "native")


@attrs.frozen
class SetUp:
    """One way to reach an application.

    Attributes:
        name: unique, and starts with the front end's.
        render: gives the piece of configuration for one site.
        prefix: where the application lives in the front end's URLs.
        mount: what trifcgi has to be told of it: the prefix where the front end sends the
            whole path as SCRIPT_NAME, nothing where it makes the cut itself.
        apps: the applications served in this way.
        spawned: the front end starts the application itself, on descriptor 0.
    """

    name: str
    render: "Callable[[Site], str]"
    prefix: str = ""
    mount: str = ""
    apps: Sequence[str] = APPS
    spawned: bool = False


@attrs.frozen
class Upstream:
    """Where one ``trifcgi run`` listens."""

    port: int
    unix: Path


@attrs.frozen
class Site:
    """One application behind one set-up.

    Attributes:
        set_up: the set-up.
        app: the application's name.
        port: where the front end listens for it.
        root: its document root.
        upstream: where trifcgi listens.
        launcher: a program that serves the application on descriptor 0.
    """

    set_up: SetUp
    app: str
    port: int
    root: Path
    upstream: Upstream
    launcher: Path

    @property
    def name(self) -> str:
        """Fit for a name in any of the configuration languages."""
        return f"{self.set_up.name}_{self.app}".replace("-", "_")

    @property
    def origin(self) -> Origin:
        """Where a client finds it."""
        return Origin(self.port, self.set_up.prefix)


@attrs.frozen
class FrontEnd:
    """A front end.

    Attributes:
        name: its name.
        set_ups: all that it is tested with.
        start: starts an instance for these sites, with all its files in that directory.
    """

    name: str
    set_ups: Sequence[SetUp]
    start: Callable[[Path, Sequence[Site]], PrivateProcess]
