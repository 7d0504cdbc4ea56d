"""``trifcgi check`` says what would run."""

import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trifcgi.cli import cli


@pytest.fixture(autouse=True)
def in_apps(apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(apps)


def check(runner: CliRunner, *arguments: str, **environment: str) -> Result:
    return runner.invoke(cli, ["check", *arguments], env=environment)


def test_a_handler_with_all_defaults(runner: CliRunner) -> None:
    result = check(runner, "hello")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout == (
        "app     hello:app (native handler)\n"
        "listen  127.0.0.1:9000, peers allowed: 127.0.0.0/8, ::1\n"
        "limits  max-requests 1000, max-connections 1000, max-params 1MiB, max-body none\n"
        "        all other options have their defaults: trifcgi run --help\n"
    )


def test_what_is_set_is_told_with_its_source(runner: CliRunner, apps: Path) -> None:
    (apps / "shop.toml").write_text('max-body = "10 MiB"\nunix = "/run/shop.sock"\n')
    result = check(
        runner, "plain", "--port", "0", "--config", "shop.toml", TRIFCGI_REQUEST_TIMEOUT="30"
    )
    assert result.stdout == (
        "app     plain:application (WSGI app)\n"
        "listen  127.0.0.1:0, peers allowed: 127.0.0.0/8, ::1\n"
        "        unix:/run/shop.sock, mode 0660\n"
        "limits  max-requests 1000, max-connections 1000, max-params 1MiB, max-body 10MiB\n"
        "set     port = 0   from the command line (--port)\n"
        "        unix = /run/shop.sock   from the file (unix in shop.toml)\n"
        "        request-timeout = 30s   from the environment (TRIFCGI_REQUEST_TIMEOUT)\n"
        "        max-body = 10MiB   from the file (max-body in shop.toml)\n"
        "        all other options have their defaults: trifcgi run --help\n"
    )


def test_without_an_app_it_is_a_script_host(runner: CliRunner, apps: Path) -> None:
    result = check(runner, "--root", ".")
    assert result.stdout.startswith(f"app     scripts below {apps} (script host)\n")


def test_an_app_can_be_named_in_the_file(runner: CliRunner, apps: Path) -> None:
    (apps / "shop.toml").write_text('app = "lifespan:app"\n')
    assert "app     lifespan:app (ASGI app)\n" in check(runner, TRIFCGI_CONFIG="shop.toml").stdout


def test_a_kind_that_the_app_is_not(runner: CliRunner) -> None:
    result = check(runner, "plain", "--interface", "asgi")
    assert result.exit_code == 2
    assert "as --interface asgi it has to take (scope, receive, send)" in result.stderr


def test_who_it_runs_as(runner: CliRunner) -> None:
    nobody = pwd.getpwnam("nobody")
    result = check(runner, "hello", "--user", "nobody", "--group", "0")
    assert f"runs as user {nobody.pw_uid}, group 0\n" in result.stdout
    result = check(runner, "hello", "--user", "no-such-one")
    assert (result.exit_code, result.stderr) == (2, "trifcgi: there is no user 'no-such-one'\n")
