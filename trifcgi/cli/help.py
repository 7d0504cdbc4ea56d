"""How the command line speaks: help texts, and mistakes in one sentence."""

import sys
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NoReturn

import click

from trifcgi.config import OPTIONS, Flag, Group, Option, nearest
from trifcgi.errors import AppLoadError, ConfigurationError

__all__ = [
    "AdminCommand",
    "Command",
    "Commands",
    "GroupedOption",
    "control_options",
    "serving_options",
]

USAGE_MISTAKE = 2


class GroupedOption(click.Option):
    """An option that stands under a heading of its own in the help text."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # Any: click.Option's own arguments, untouched
        self.heading = heading


class Command(click.Command):
    """A command whose help gives examples first and options under headings.

    Args:
        examples: lines to be shown as they are.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # Any: click.Command's own arguments, untouched
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument):
                continue  # the usage line and the description have it
            record = param.get_help_record(ctx)
            if record is not None:
                heading = getattr(param, "heading", "Options")
                sections.setdefault(heading, []).append(record)
        sections["Help"] = [sections["Options"].pop()]
        for heading, records in filter(itemgetter(1), sections.items()):
            with formatter.section(heading):
                formatter.write_dl(records, col_max=26)


class AdminCommand(Command):
    """``trifcgi admin``: the commands of the control server are shown ahead of the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Imported for the help only, which reads the table of commands.
        from trifcgi.cli.admin import command_lines  # noqa: PLC0415

        with formatter.section("Commands"):
            formatter.write_dl(command_lines(), col_max=26)
        super().format_options(ctx, formatter)


class Commands(click.Group):
    """A group that reports every mistake as one plain sentence, with exit status 2."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and exit with its status.

        Args and keyword arguments are click's (``args``, ``prog_name`` and so on).
        """
        kwargs |= {"standalone_mode": False, "prog_name": "trifcgi"}
        try:
            status = super().main(*args, **kwargs)  # Any: see above
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = USAGE_MISTAKE
        except click.ClickException as error:
            _complain(_sentence(error))
            status = USAGE_MISTAKE
        except AppLoadError as error:
            _show_cause(error)
            _complain(str(error))
            status = USAGE_MISTAKE
        except ConfigurationError as error:
            _complain(str(error))
            status = USAGE_MISTAKE
        except (KeyboardInterrupt, click.Abort):
            status = 130  # what a shell reports for a program that SIGINT ended
        sys.exit(status if isinstance(status, int) else 0)


def _complain(sentence: str) -> None:
    click.echo(f"trifcgi: {sentence}", err=True)


def _show_cause(error: AppLoadError) -> None:
    """The traceback of the app's own code, where that raised."""
    from trifcgi.apps.loader import format_cause  # noqa: PLC0415 (needed on a mistake only)

    click.echo(format_cause(error), err=True, nl=False)


def _sentence(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption):
        known = [name for param in _params(context) for name in param.opts]
        hint = nearest(error.option_name, known, prefix="--")
        return f"there is no option {error.option_name}{hint}"
    text = error.format_message().replace("\n", " ").replace(". Did", "; did").rstrip(".")
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return f"{text[:1].lower()}{text[1:]}{hint}"


def _params(context: click.Context | None) -> Sequence[click.Parameter]:
    return context.command.get_params(context) if context is not None else ()


def _app_argument(option: Option) -> click.Parameter:
    return click.Argument([option.attribute], required=False, metavar=f"[{option.kind.metavar}]")


def _option(option: Option) -> click.Parameter:
    # Every value stays text here: its kind reads it, the same way as from elsewhere.
    names = [f"--{option.name}", option.attribute]
    text = f"{option.help} [{option.shown_default}]"
    heading = option.group.value
    if isinstance(option.kind, Flag):
        on = option.kind.show(True)
        return GroupedOption(names, is_flag=True, flag_value=on, help=text, heading=heading)
    return GroupedOption(names, metavar=option.kind.metavar, help=text, heading=heading)


def serving_options() -> list[click.Parameter]:
    """The parameters of ``run`` and ``check``, from the table."""
    return [
        *(_app_argument(option) if option.positional else _option(option)
          for option in OPTIONS.values()),
        _config_option(),
    ]  # fmt: skip


def control_options() -> list[click.Parameter]:
    """The parameters that say where the control server is, from the table."""
    found = [_option(option) for option in OPTIONS.values() if option.group is Group.CONTROL]
    return [*found, _config_option()]


def _config_option() -> click.Parameter:
    return GroupedOption(
        ["--config"],
        metavar="FILE",
        help="Read options from this TOML file: request-timeout = 30.",
        heading="Configuration",
    )
