"""The control server: one table of commands, what they work on, and how they are reached."""

from trifcgi.admin.commands import COMMANDS, Command
from trifcgi.admin.fleet import Fleet, FleetSource, Member
from trifcgi.admin.handler import ControlHandler
from trifcgi.admin.local import Controls, LocalSource
from trifcgi.admin.server import serve_control
from trifcgi.admin.source import About, CommandFailed, Data, Setting, Source

__all__ = [
    "COMMANDS",
    "About",
    "Command",
    "CommandFailed",
    "ControlHandler",
    "Controls",
    "Data",
    "Fleet",
    "FleetSource",
    "LocalSource",
    "Member",
    "Setting",
    "Source",
    "serve_control",
]
