"""One table of options, and the configuration made from it."""

from trifcgi.config.addresses import (
    Address,
    InheritedSocket,
    TcpAddress,
    UnixAddress,
    parse_address,
)
from trifcgi.config.kinds import Flag, available_cores
from trifcgi.config.sources import configure, nearest
from trifcgi.config.table import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    LOOPBACK,
    OPTIONS,
    Configuration,
    Group,
    Option,
    Origin,
    Source,
)

__all__ = [
    "Address",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "LOOPBACK",
    "OPTIONS",
    "Configuration",
    "Flag",
    "Group",
    "InheritedSocket",
    "Option",
    "Origin",
    "Source",
    "TcpAddress",
    "UnixAddress",
    "available_cores",
    "configure",
    "nearest",
    "parse_address",
]
