"""From command line, environment and file to one :class:`Configuration`."""

import difflib
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from trifcgi.config.kinds import Network
from trifcgi.config.table import OPTIONS, Configuration, Option, Origin, Source
from trifcgi.errors import ConfigurationError

__all__ = ["CONFIG_VARIABLE", "WEB_SERVER_ADDRS", "configure"]

CONFIG_VARIABLE: Final = "TRIFCGI_CONFIG"

# Read when trifcgi is built; it may be left in the environment of an image.
_BUILD_VARIABLE: Final = "TRIFCGI_PURE_PYTHON"
WEB_SERVER_ADDRS: Final = "FCGI_WEB_SERVER_ADDRS"
_PREFIX: Final = "TRIFCGI_"


@attrs.frozen
class _Setting:
    """A value that some source gives an option."""

    option: Option
    value: object
    origin: Origin


def configure(
    command_line: Mapping[str, str],
    *,
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Merge all sources: the command line wins, then the environment, then the file.

    Args:
        command_line: option names to the text given for them; only what was given.
        config: the TOML file (``--config``); without it ``TRIFCGI_CONFIG`` may name one.
        environ: the environment, ``os.environ`` by default. An empty variable is an
            unset one.

    Raises:
        ConfigurationError: one sentence about the first mistake found.
    """
    environ = os.environ if environ is None else environ
    path = config or environ.get(CONFIG_VARIABLE) or None
    settings: dict[str, _Setting] = {}
    # From the weakest source to the strongest; each value is checked, used or not.
    for setting in (
        *(_from_file(path) if path is not None else ()),
        *_from_environment(environ),
        *_from_command_line(command_line),
    ):
        settings[setting.option.name] = setting
    allow = _web_server_addrs(environ, settings.get("allow"))
    if allow is not None:
        settings["allow"] = allow
    # Any: each value is what its line of the table promises, which no checker can see.
    values: dict[str, Any] = {
        setting.option.attribute: setting.value for setting in settings.values()
    }
    origins = {name: setting.origin for name, setting in settings.items()}
    configuration = Configuration(**values, origins=origins, directory=_current_directory())
    _refuse_contradictions(configuration)
    return configuration


def _current_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""  # it has been removed: only what uses a relative path has to fail


def _from_command_line(given: Mapping[str, str]) -> Iterator[_Setting]:
    for name, text in given.items():
        option = OPTIONS[name]
        origin = Origin(Source.COMMAND_LINE, "APP" if option.positional else f"--{name}")
        yield _parsed(option, text, origin)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Setting]:
    known = {option.variable: option for option in OPTIONS.values()}
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX) or not text:
            continue
        if variable in {CONFIG_VARIABLE, _BUILD_VARIABLE}:
            continue
        option = known.get(variable)
        if option is None:
            raise ConfigurationError(
                f"the environment variable {variable} is none that trifcgi knows"
                f"{nearest(variable, [*known, CONFIG_VARIABLE], prefix=_PREFIX)}"
            )
        yield _parsed(option, text, Origin(Source.ENVIRONMENT, variable))


def _from_file(path: str) -> Iterator[_Setting]:
    for key, value in _read_toml(path).items():
        option = OPTIONS.get(key)
        if option is None:
            raise ConfigurationError(f"{path}: {key!r} is not an option{nearest(key, OPTIONS)}")
        origin = Origin(Source.FILE, f"{key} in {path}")
        try:
            value = option.kind.from_toml(value)
        except ValueError as error:
            raise _mistake(origin, value, error) from error
        yield _Setting(option, value, origin)


def _read_toml(path: str) -> dict[str, object]:
    try:
        return tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {path} cannot be read: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration file {path} is not TOML: {error}") from error


def _parsed(option: Option, text: str, origin: Origin) -> _Setting:
    try:
        return _Setting(option, option.kind.parse(text), origin)
    except ValueError as error:
        raise _mistake(origin, text, error) from error


def _mistake(origin: Origin, value: object, rule: ValueError) -> ConfigurationError:
    if origin.source is Source.FILE:
        sign = ": "
    else:
        sign = " " if origin.source is Source.COMMAND_LINE else "="
    return ConfigurationError(f"{origin}{sign}{value!r} will not do: {rule}")


def _web_server_addrs(environ: Mapping[str, str], setting: _Setting | None) -> _Setting | None:
    """Add what a front end that spawned this process allows (§3.2) to what was set."""
    text = environ.get(WEB_SERVER_ADDRS)
    if not text:
        return None
    option = OPTIONS["allow"]
    found = _parsed(option, text, Origin(Source.ENVIRONMENT, WEB_SERVER_ADDRS))
    if setting is None:
        return found
    both: tuple[Network, ...] = (*setting.value, *found.value)  # type: ignore[misc]
    where = f"{setting.origin} and {WEB_SERVER_ADDRS}"
    return _Setting(option, both, Origin(setting.origin.source, where))


def _refuse_contradictions(configuration: Configuration) -> None:
    if configuration.app is not None and "root" in configuration.origins:
        raise ConfigurationError(
            f"{_named(configuration, 'root')} is where scripts are looked for, and "
            f"{configuration.app!r} is served instead of scripts: leave out one of them"
        )
    if configuration.app is None and configuration.interface != "auto":
        raise ConfigurationError(
            f"{_named(configuration, 'interface')} says what an app is, and none is named: "
            "add APP, or leave it out, as scripts are told apart by themselves"
        )
    for name in ("max-worker-requests", "max-worker-rss"):
        if configuration.workers is None and name in configuration.origins:
            raise ConfigurationError(
                f"{_named(configuration, name)} is about worker processes: add --workers N"
            )
    if configuration.unix is None and "unix-mode" in configuration.origins:
        raise ConfigurationError(
            f"{_named(configuration, 'unix-mode')} needs a Unix socket: add --unix PATH"
        )
    for name in ("admin-host", "admin-token-file"):
        if not configuration.has_control and name in configuration.origins:
            raise ConfigurationError(
                f"{_named(configuration, name)} needs a control server:"
                " add --admin-port N or --admin-unix PATH"
            )
    if configuration.daemon and configuration.access_log == "-":
        raise ConfigurationError(
            f"{_named(configuration, 'access-log')} - is stdout, which "
            f"{_named(configuration, 'daemon')} lets go of: name a file"
        )


def _named(configuration: Configuration, name: str) -> str:
    return str(configuration.origin(name))


def nearest(name: str, known: Collection[str], *, prefix: str = "") -> str:
    """A clause that offers the known name most like ``name``, or nothing.

    Args:
        name: what was written.
        known: what could have been meant.
        prefix: what they all begin with, which makes nothing alike.
    """
    wanted = name.removeprefix(prefix).lower().replace("_", "-")
    spelled = {other.removeprefix(prefix).lower().replace("_", "-"): other for other in known}
    close = difflib.get_close_matches(wanted, spelled, n=1, cutoff=0.7)
    return f"; did you mean {spelled[close[0]]}?" if close else ""
