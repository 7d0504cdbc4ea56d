"""The data plane: FastCGI over sockets and trio streams, a nursery a connection, a scope a
request.
"""

from trifcgi.server.listeners import (
    AllowList,
    UnixListener,
    address_of,
    inherited_listeners,
    is_listening,
    open_tcp_listeners,
    open_unix_listener,
    systemd_fds,
)
from trifcgi.server.plane import DataPlane
from trifcgi.server.serve import serve_listeners, serve_stream, serve_tcp, serve_unix

__all__ = [
    "AllowList",
    "DataPlane",
    "UnixListener",
    "address_of",
    "inherited_listeners",
    "is_listening",
    "open_tcp_listeners",
    "open_unix_listener",
    "serve_listeners",
    "serve_stream",
    "serve_tcp",
    "serve_unix",
    "systemd_fds",
]
