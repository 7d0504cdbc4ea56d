"""The commands. What they do is imported when one runs: help and mistakes come quickly."""

import importlib.metadata
import platform
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from trifcgi._compiled import is_compiled
from trifcgi._version import __version__
from trifcgi.cli.help import AdminCommand, Command, Commands, control_options, serving_options
from trifcgi.config import OPTIONS, Configuration, configure
from trifcgi.observe.stdio import ensure_standard_streams, settle_stderr

__all__ = ["cli", "main"]

_RUN_EXAMPLES = (
    "trifcgi run hello:app                      on 127.0.0.1:9000",
    "trifcgi run shop.web:app --unix /run/shop.sock",
    "trifcgi run --root /srv/www                run the .py files below it",
    "trifcgi run shop.web:app --config shop.toml --log-level debug",
    "TRIFCGI_PORT=9001 trifcgi run hello:app",
)
_CHECK_EXAMPLES = (
    "trifcgi check hello:app",
    "trifcgi check --config shop.toml",
)
_ADMIN_EXAMPLES = (
    "trifcgi admin status --admin-port 9001",
    "trifcgi admin cancel 17 --admin-unix /run/app-control.sock",
    "trifcgi admin limits max-requests=50 --config shop.toml",
    "TRIFCGI_ADMIN_PORT=9001 trifcgi admin requests --json",
)
_REQUEST_EXAMPLES = (
    "trifcgi request 127.0.0.1:9000 /hello",
    "trifcgi request unix:/run/app.sock '/search?q=x' -i",
    "trifcgi request 127.0.0.1:9000 /form -d 'name=Ada' -H 'X-Trace: 1'",
    "trifcgi request 127.0.0.1:9000 / -P SCRIPT_FILENAME=/srv/www/hello.py",
)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""A FastCGI application server: put it behind nginx, Apache or another
    front end, and it runs your ASGI app, WSGI app, handler or scripts.

    \b
    Examples:
      trifcgi run hello:app                 serve it on 127.0.0.1:9000
      trifcgi check hello:app               say what would run, and how
      trifcgi request 127.0.0.1:9000 /      ask it for a page, as nginx would

    'trifcgi COMMAND --help' tells more.""",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, wanted: _show_version(context, wanted=wanted),
    help="Show the versions of trifcgi, Python and trio, and whether the codec is compiled.",
)
def cli() -> None:
    """The group itself does nothing."""


def _show_version(context: click.Context, *, wanted: bool) -> None:
    if not wanted:
        return
    trio = importlib.metadata.version("trio")  # importing it takes five times as long
    python = platform.python_version()
    codec = "compiled" if is_compiled() else "pure Python"
    click.echo(f"trifcgi {__version__} (Python {python}, trio {trio}, {codec} codec)")
    context.exit()


def _configuration(values: Mapping[str, str | None]) -> Configuration:
    given = {
        option.name: text
        for option in OPTIONS.values()
        if (text := values.get(option.attribute)) is not None
    }
    return configure(given, config=values["config"])


@cli.command(cls=Command, params=serving_options(), examples=_RUN_EXAMPLES)
def run(**values: str | None) -> int:
    """Serve APP, or without it the scripts below --root.

    APP is module:attribute, importable from the current directory; the module alone
    means its app or application.

    It stops on SIGTERM or Ctrl-C once the requests that run are done, and a second one
    stops it at once. Each option can also be set in the environment (--max-body as
    TRIFCGI_MAX_BODY) and in a TOML file (max-body = "10 MiB"); the command line
    wins, then the environment.

    Exits with 0 after a stop that was asked for, with 2 when it cannot start as it is
    told to, and with 1 when it fails while it runs.
    """
    from trifcgi.launch import launch  # noqa: PLC0415 (imports the server)

    return launch(_configuration(values))


@cli.command(cls=Command, params=serving_options(), examples=_CHECK_EXAMPLES)
def check(**values: str | None) -> int:
    """Load everything and say what 'trifcgi run' would serve.

    Nothing is served and no socket is opened. Exits with 0 when all is well, and with 2
    and a sentence about the first mistake otherwise.
    """
    from trifcgi.cli.check import describe  # noqa: PLC0415 (imports the server)

    click.echo(describe(_configuration(values)))
    return 0


@cli.command(cls=Command, examples=_REQUEST_EXAMPLES)
@click.argument("address")
@click.argument("path", default="/")
@click.option(
    "-X", "--request", "method", metavar="METHOD", help="Request method. [GET; POST with -d]"
)
@click.option(
    "-d",
    "--data",
    "data",
    metavar="DATA|@FILE",
    multiple=True,
    help="Send this body, or FILE's content (@- is stdin).",
)
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="'NAME: VALUE'",
    multiple=True,
    help="Send this request header.",
)
@click.option(
    "-P",
    "--param",
    "params",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set this param, whatever it would be otherwise.",
)
@click.option("-i", "--include", is_flag=True, help="Print the response head too.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Print the params and how the request ended, to stderr."
)
@click.option(
    "--role",
    type=click.Choice(["responder", "authorizer", "filter"]),
    default="responder",
    help="The role to ask for. [responder]",
)
@click.option(
    "--filter-data", metavar="DATA|@FILE", help="What a filter gets beside the body (FCGI_DATA)."
)
@click.option("--timeout", metavar="S", help="Give up after so long. [none]")
def request(**options: Any) -> int:  # Any: a value per option, each of its own type
    """Send a FastCGI request to ADDRESS, print the answer.

    ADDRESS is HOST:PORT or unix:/path. PATH may have a query. What the app writes to
    FCGI_STDERR comes out on stderr. Exits with 0 when the app ended the request well,
    whatever its HTTP status, and with 1 when the application status is not 0 or the
    server cannot be asked.
    """
    from trifcgi.cli.request import prepare, send  # noqa: PLC0415 (imports the client)

    return send(prepare(**options))


@cli.command(
    cls=AdminCommand, params=control_options(), examples=_ADMIN_EXAMPLES, no_args_is_help=True
)
@click.argument("words", nargs=-1, required=True, metavar="COMMAND [ARGUMENT]...")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, for programs.")
def admin(words: tuple[str, ...], as_json: bool, **values: str | None) -> int:
    """Have a running server's control server do COMMAND, print its answer.

    The server has to run with --admin-port or --admin-unix; the same options, variables
    and TOML file say here where it is. Exits with 0 when it is done, with 1 when the
    server refuses or does not answer.
    """
    from trifcgi.cli.admin import prepare, send  # noqa: PLC0415 (imports the client)

    return send(prepare(words, _configuration(values), as_json=as_json))


def main() -> NoReturn:
    """Run the command line with ``sys.argv`` and exit with its status."""
    ensure_standard_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Whatever is going on (imports, loading the app), Ctrl-C ends it without a
        # traceback. A server that runs has its own say.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        cli.main()
    finally:
        settle_stderr()
