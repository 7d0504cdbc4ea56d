"""``trifcgi check``: what would run, in words."""

from collections.abc import Iterator

from trifcgi.config import (
    OPTIONS,
    Configuration,
    InheritedSocket,
    Source,
    TcpAddress,
    UnixAddress,
)
from trifcgi.daemon import Identity
from trifcgi.protocol import LISTENSOCK_FILENO
from trifcgi.worker import inherited_sockets, load

__all__ = ["describe"]

_LIMIT_OPTIONS = ("max-requests", "max-connections", "max-params", "max-body")


def describe(configuration: Configuration) -> str:
    """Load the app and describe the server that ``trifcgi run`` would start.

    Raises:
        ConfigurationError: it would not start.
    """
    inherited = inherited_sockets()
    app = load(configuration)
    lines = [("app", f"{app.name} ({app.kind})")]
    lines += [
        ("listen", _listener(configuration, listener))
        for listener in configuration.listeners(inherited)
    ]
    if configuration.user is not None or configuration.group is not None:
        # Not whether this process may become them: it is not the one that will.
        found = Identity.find(configuration.user, configuration.group)
        lines.append(("runs as", f"user {found.uid}, group {found.gid}"))
    limits = (f"{name} {_shown(configuration, name)}" for name in _LIMIT_OPTIONS)
    lines.append(("limits", ", ".join(limits)))
    lines += [("set", text) for text in _set(configuration)]
    if LISTENSOCK_FILENO in inherited and configuration.origin("grace").source is Source.DEFAULT:
        grace = configuration.timeouts(spawned=True).grace
        lines.append(("set", f"grace = {grace:g}s   as a front end has spawned this process"))
    lines.append(("", "all other options have their defaults: trifcgi run --help"))
    previous = ""
    shown = []
    for label, text in lines:
        shown.append(f"{'' if label == previous else label:8}{text}")
        previous = label
    return "\n".join(shown)


def _shown(configuration: Configuration, name: str) -> str:
    option = OPTIONS[name]
    return option.kind.show(getattr(configuration, option.attribute))


def _listener(
    configuration: Configuration, listener: TcpAddress | UnixAddress | InheritedSocket
) -> str:
    if isinstance(listener, UnixAddress):
        return f"{listener}, mode {_shown(configuration, 'unix-mode')}"
    if isinstance(listener, TcpAddress):
        return f"{listener}, peers allowed: {_shown(configuration, 'allow')}"
    return f"{listener}, inherited"


def _set(configuration: Configuration) -> Iterator[str]:
    for name, option in OPTIONS.items():
        origin = configuration.origin(name)
        if origin.source is not Source.DEFAULT and not option.positional:
            place = _place(origin.where, origin.source)
            yield f"{name} = {_shown(configuration, name)}   from {place}"


def _place(where: str, source: Source) -> str:
    if source is Source.COMMAND_LINE:
        return f"the command line ({where})"
    if source is Source.ENVIRONMENT:
        return f"the environment ({where})"
    return f"the file ({where})"
