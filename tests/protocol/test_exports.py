"""What the package offers, and the example in its docstring."""

import doctest
import inspect
import sys

import trifcgi.protocol
from trifcgi.protocol import events


def test_every_public_name_exists_and_is_documented() -> None:
    for name in trifcgi.protocol.__all__:
        offered = getattr(trifcgi.protocol, name)
        if inspect.isclass(offered) or inspect.isfunction(offered):
            assert inspect.getdoc(offered), name


def test_the_names_are_listed_once() -> None:
    assert len(set(trifcgi.protocol.__all__)) == len(trifcgi.protocol.__all__)


def test_every_event_is_offered() -> None:
    assert set(events.__all__) <= set(trifcgi.protocol.__all__)
    assert {kind.__name__ for kind in events.Event.__args__} == set(events.__all__) - {"Event"}


def test_every_public_method_is_documented() -> None:
    for name, method in inspect.getmembers(trifcgi.protocol.Connection):
        if not name.startswith("_"):
            assert inspect.getdoc(method) or name == "side", name


def test_the_example_in_the_docstring_works() -> None:
    result = doctest.testmod(trifcgi.protocol)
    assert result.attempted >= 6
    assert result.failed == 0


def test_no_io_is_imported() -> None:
    """The layer can be used without trio, sockets and clocks, so it must not name them."""
    package = trifcgi.protocol.__name__
    modules = [module for name, module in sys.modules.items() if name.startswith(package)]
    named = {
        value.__name__
        for module in modules
        for value in vars(module).values()
        if inspect.ismodule(value)
    }
    assert not named & {
        "trio",
        "socket",
        "select",
        "threading",
        "time",
        "logging",
        "asyncio",
        "os",
    }
