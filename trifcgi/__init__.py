"""A FastCGI application server on trio.

Each public name is imported when it is first used. So the pure layers (``trifcgi.protocol``,
``trifcgi.cgi``) can be had without trio, and a program pays for the client, the WSGI threads
or the script loader only when it uses them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from trifcgi._version import __version__

if TYPE_CHECKING:
    from trifcgi import cgi, protocol, testing
    from trifcgi.apps.asgi import asgi
    from trifcgi.apps.scripts import scripts
    from trifcgi.apps.wsgi import wsgi
    from trifcgi.client import Client
    from trifcgi.errors import (
        AppLoadError,
        ConfigurationError,
        ConnectionLost,
        Error,
        LocalProtocolError,
        ProtocolError,
        RequestRefused,
        ResponseError,
        RoleRefused,
    )
    from trifcgi.limits import Limits, Timeouts
    from trifcgi.observe.instrument import Instrument, Outcome, StopReason
    from trifcgi.protocol.constants import ProtocolStatus, Role
    from trifcgi.request import Handler, Request
    from trifcgi.server import serve_listeners, serve_stream, serve_tcp, serve_unix

__all__ = [
    "AppLoadError",
    "Client",
    "ConfigurationError",
    "ConnectionLost",
    "Error",
    "Handler",
    "Instrument",
    "Limits",
    "LocalProtocolError",
    "Outcome",
    "ProtocolError",
    "ProtocolStatus",
    "Request",
    "RequestRefused",
    "ResponseError",
    "Role",
    "RoleRefused",
    "StopReason",
    "Timeouts",
    "__version__",
    "asgi",
    "cgi",
    "protocol",
    "scripts",
    "serve_listeners",
    "serve_stream",
    "serve_tcp",
    "serve_unix",
    "testing",
    "wsgi",
]

if not TYPE_CHECKING:
    # Hidden from type checkers, to whom any name would exist otherwise.
    _HOMES = {
        "AppLoadError": "errors",
        "Client": "client",
        "ConfigurationError": "errors",
        "ConnectionLost": "errors",
        "Error": "errors",
        "Handler": "request",
        "Instrument": "observe.instrument",
        "Limits": "limits",
        "LocalProtocolError": "errors",
        "Outcome": "observe.instrument",
        "ProtocolError": "errors",
        "ProtocolStatus": "protocol.constants",
        "Request": "request",
        "RequestRefused": "errors",
        "ResponseError": "errors",
        "Role": "protocol.constants",
        "RoleRefused": "errors",
        "StopReason": "observe.instrument",
        "Timeouts": "limits",
        "asgi": "apps.asgi",
        "scripts": "apps.scripts",
        "serve_listeners": "server",
        "serve_stream": "server",
        "serve_tcp": "server",
        "serve_unix": "server",
        "wsgi": "apps.wsgi",
    }
    _SUBMODULES = frozenset({"cgi", "protocol", "testing"})

    def __getattr__(name):
        if name in _SUBMODULES:
            return import_module(f"trifcgi.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"trifcgi.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
