"""Running as a service: in the background, under a PID file, as another user, under systemd."""

from trifcgi.daemon.background import Background, go_to_background
from trifcgi.daemon.identity import Identity
from trifcgi.daemon.pid_file import PidFile
from trifcgi.daemon.service import Service, as_service
from trifcgi.daemon.systemd import Systemd

__all__ = [
    "Background",
    "Identity",
    "PidFile",
    "Service",
    "Systemd",
    "as_service",
    "go_to_background",
]
