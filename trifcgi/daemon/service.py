"""What a server is to the machine it runs on: all of it behind one object."""

import contextlib
import os
from collections.abc import Iterator, Sequence

from trifcgi.daemon.background import Background, go_to_background
from trifcgi.daemon.identity import Identity
from trifcgi.daemon.pid_file import PidFile
from trifcgi.daemon.systemd import Systemd
from trifcgi.observe.stdio import StderrFile

__all__ = ["Service", "as_service"]


class Service:
    """Told at each turn of the server's life; tells the shell, systemd and the system.

    Args:
        identity: who to become; ``None``: nobody else.
        background: the background process's side of its start, if this is one.

    Attributes:
        systemd: its notify socket.
        identity: who to become.
    """

    def __init__(self, identity: Identity | None, background: Background | None) -> None:
        self.systemd = Systemd.from_environment()
        self.identity = identity
        self._background = background
        self._log = None if background is None else StderrFile()

    def drop_privileges(self, sockets: Sequence[str | os.PathLike[str]]) -> None:
        """Become the user and group that were asked for, once every socket is open.

        Args:
            sockets: paths of Unix sockets that are to be that user's.

        Raises:
            ConfigurationError: the system refuses.
        """
        if self.identity is not None:
            self.identity.own(sockets)
            self.identity.assume()

    def ready(self, addresses: Sequence[str]) -> None:
        """The listeners take connections."""
        in_background = self._background is not None
        self.systemd.ready(addresses, main_pid=os.getpid() if in_background else None)
        if self._background is not None:
            self._background.ready()

    def reloading(self, begun: bool) -> None:
        """A reload has begun, or has ended, well or not."""
        if begun:
            self.systemd.reloading()
        else:
            self.systemd.reloaded()

    def reopen_log(self) -> None:
        """Open the log anew, where that is a background process's own file."""
        if self._log is not None:
            self._log.reopen()


@contextlib.contextmanager
def as_service(
    *, daemon: bool, pid_file: str | None, user: str | None, group: str | None
) -> Iterator[Service]:
    """Be a service for as long as the block lasts.

    With ``daemon`` only the background process comes out of here; see
    :func:`go_to_background`.

    Raises:
        ConfigurationError: another server holds the PID file; there is no such user.
    """
    identity = None
    if user is not None or group is not None:
        identity = Identity.find(user, group)
        identity.check()
    background = go_to_background() if daemon else None
    with contextlib.nullcontext() if pid_file is None else PidFile(pid_file):
        yield Service(identity, background)
