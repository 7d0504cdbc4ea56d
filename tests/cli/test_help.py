"""What the command line says of itself."""

import platform
import subprocess
import sys

import pytest
import trio
from click.testing import CliRunner

import trifcgi._version
from trifcgi._compiled import is_compiled
from trifcgi.cli import cli
from trifcgi.config import OPTIONS


def help_of(runner: CliRunner, *command: str) -> str:
    result = runner.invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", [(), ("run",), ("check",), ("request",)])
def test_help_fits_a_terminal_of_80_columns(runner: CliRunner, command: tuple[str, ...]) -> None:
    lines = help_of(runner, *command).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.lstrip().startswith("Examples") for line in lines[:16])


@pytest.mark.parametrize("command", ["run", "check"])
def test_help_has_every_option_under_a_heading(runner: CliRunner, command: str) -> None:
    text = help_of(runner, command)
    for option in OPTIONS.values():
        assert option.positional or f"\n  --{option.name} {option.kind.metavar} " in text
    assert "\nTimeouts (seconds;" in text
    assert f"Usage: trifcgi {command} [OPTIONS] [APP]" in text


def test_help_tells_the_default_of_each_option(runner: CliRunner) -> None:
    text = " ".join(help_of(runner, "run").split())
    for name, default in (
        ("max-params", "[1MiB]"),
        ("max-body", "[none]"),
        ("keep-alive", "[600s]"),
        ("port", "[9000, unless another listener is named]"),
        ("unix-mode", "[0660]"),
    ):
        assert default in text.partition(f" --{name} ")[2].partition(" --")[0]


def test_without_arguments_it_says_what_there_is(runner: CliRunner) -> None:
    result = runner.invoke(cli, [])
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_the_commands_are_these(runner: CliRunner) -> None:
    assert set(cli.commands) == {"run", "check", "request", "admin"}


def test_version_names_all_three_and_the_codec(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["--version"])
    assert result.exit_code == 0
    codec = "compiled" if is_compiled() else "pure Python"
    assert result.stdout == (
        f"trifcgi {trifcgi._version.__version__} "
        f"(Python {platform.python_version()}, trio {trio.__version__}, {codec} codec)\n"
    )


@pytest.mark.real
def test_help_does_not_wait_for_the_server_to_be_imported() -> None:
    code = "import sys, trifcgi.cli; assert not {'trio', 'trifcgi.server'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
