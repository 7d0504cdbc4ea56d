"""The public names are the documented ones, and cost nothing before they are used."""

import importlib
import json
import subprocess
import sys

import pytest

import trifcgi

PUBLIC = {
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
}

MODULES = [
    "trifcgi.apps.asgi",
    "trifcgi.cgi",
    "trifcgi.client",
    "trifcgi.errors",
    "trifcgi.limits",
    "trifcgi.protocol",
    "trifcgi.request",
    "trifcgi.server",
    "trifcgi.testing",
]


def test_the_packages_names_are_the_documented_ones() -> None:
    assert set(trifcgi.__all__) == PUBLIC
    assert set(dir(trifcgi)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_there(name: str) -> None:
    assert getattr(trifcgi, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serve_smtp'"):
        trifcgi.serve_smtp  # type: ignore[attr-defined]  # noqa: B018


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from trifcgi import *", names)
    assert set(names) >= PUBLIC - {"__version__"}


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_declares_public_exists(module: str) -> None:
    imported = importlib.import_module(module)
    assert [name for name in imported.__all__ if not hasattr(imported, name)] == []


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = modules_after("import trifcgi")
    assert {name for name in loaded if name.startswith("trifcgi")} == {
        "trifcgi",
        "trifcgi._version",
    }


@pytest.mark.parametrize("layer", ["protocol", "cgi"])
def test_the_pure_layers_can_be_had_without_trio(layer: str) -> None:
    loaded = modules_after(f"import trifcgi.{layer}")
    assert not loaded & {"trio", "socket", "select", "logging", "asyncio"}


def test_serving_imports_no_client_tests_or_command_line() -> None:
    loaded = modules_after("from trifcgi import serve_tcp")
    assert not loaded & {"trifcgi.client", "trifcgi.testing", "trio.testing", "click", "pytest"}


def test_every_error_of_ours_is_an_error_of_ours() -> None:
    for name in PUBLIC:
        value = getattr(trifcgi, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, trifcgi.Error)
