"""Every mistake is one plain sentence on stderr and exit status 2, without a traceback."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from trifcgi.cli import cli

LATER = ["--http"]


def mistake(runner: CliRunner, *arguments: str, **environment: str) -> str:
    """The sentence, without the program's name."""
    result = runner.invoke(cli, arguments, env=environment)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("trifcgi: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("trifcgi: ").removesuffix("\n")


@pytest.mark.parametrize("option", LATER)
@pytest.mark.parametrize("command", ["run", "check"])
def test_options_that_do_not_exist_are_not_ignored(
    runner: CliRunner, command: str, option: str
) -> None:
    sentence = mistake(runner, command, "hello:app", option, "4")
    assert sentence.startswith(f"there is no option {option}")
    assert "TRIFCGI" in mistake(
        runner, command, **{f"TRIFCGI_{option[2:].upper().replace('-', '_')}": "4"}
    )


def test_a_misspelt_option_gets_a_hint(runner: CliRunner) -> None:
    assert mistake(runner, "run", "--request-timout", "3") == (
        "there is no option --request-timout; did you mean --request-timeout?"
    )


def test_a_flag_that_does_not_exist(runner: CliRunner) -> None:
    assert mistake(runner, "run", "--foreground") == "there is no option --foreground"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rum"], "no such command 'rum'; did you mean 'run'? (see trifcgi --help)"),
        (["config", "nginx"], "no such command 'config'"),
        (["admin", "status"], "say where the control server is"),
        (
            ["admin", "cancle", "--admin-port", "1"],
            "there is no command 'cancle'; did you mean cancel? (see trifcgi admin --help)",
        ),
        (["admin", "cancel", "--admin-port", "1"], "admin cancel: id is missing"),
        (["admin", "cancel", "x", "--admin-port", "1"], "admin cancel: id must be a request's id"),
        (
            ["admin", "gc", "now", "--admin-port", "1"],
            "admin gc: 'now' is one argument too many: it is gc",
        ),
        (["run", "--admin-host", "::1"], "--admin-host needs a control server: add --admin-port"),
        (
            ["run", "--admin-port", "0", "--admin-host", "0.0.0.0", "--root", "."],
            "the control server would be open to others on 0.0.0.0: name a token with",
        ),
        (
            ["run", "--admin-port", "0", "--admin-token-file", "/no/such", "--root", "."],
            "the token file /no/such cannot be read: No such file or directory",
        ),
        (["run", "--port"], "option '--port' requires an argument"),
        (["run", "a:b", "c:d"], "got unexpected extra argument (c:d)"),
        (["run", "--port", "x"], "--port 'x' will not do: a port is a whole number from 0"),
        (["run", "--config", "/no/such.toml"], "the configuration file /no/such.toml cannot"),
        (["run", "--root", "/no/such"], "there is no directory '/no/such' to run scripts from"),
        (["check", "no_such_module"], "there is no module 'no_such_module'"),
        (["check", "hello.py"], "'hello.py' looks like a file"),
        (["request"], "missing argument 'ADDRESS' (see trifcgi request --help)"),
        (["request", "9000"], "'9000' is not an address: write HOST:PORT"),
        (["request", "h:1", "/", "-P", "X"], "-P 'X' is not KEY=VALUE"),
        (["request", "h:1", "/", "-H", "X"], "-H 'X' is not 'NAME: VALUE'"),
        (["request", "h:1", "/", "-d", "@/no/such"], "/no/such cannot be read: No such file"),
        (["request", "h:1", "/", "--timeout", "0"], "--timeout '0' will not do"),
        (["request", "h:1", "/", "--filter-data", "x"], "--filter-data is for --role filter"),
        (["request", "h:1", "/", "--role", "judge"], "invalid value for '--role'"),
    ],
)
def test_usage_mistakes(runner: CliRunner, arguments: list[str], sentence: str) -> None:
    assert mistake(runner, *arguments).startswith(sentence)


def test_unknown_keys_and_variables_are_named(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("helpers = 4\n")
    assert mistake(runner, "run", "--config", str(file)) == f"{file}: 'helpers' is not an option"
    assert mistake(runner, "run", TRIFCGI_GRAZE="4").endswith("did you mean TRIFCGI_GRACE?")


def test_an_app_that_raises_shows_its_own_traceback_before_the_sentence(
    runner: CliRunner, apps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(apps)
    result = runner.invoke(cli, ["check", "broken"])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert str(apps / "broken.py") in lines[1]
    assert lines[-1] == (
        "trifcgi: importing module 'broken' failed: ZeroDivisionError: division by zero"
    )
    assert f"trifcgi{os.sep}" not in result.stderr
