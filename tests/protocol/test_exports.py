"""What the package offers, and the example in its docstring."""

import ast
import doctest
import importlib.resources
import inspect
import sys

import trifcgi.protocol
from trifcgi.protocol import events


def definitions(module: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """What a module's source defines: a compiled class or function has no ``__doc__``."""
    package = importlib.resources.files(trifcgi.protocol)
    source = (package / f"{module.rpartition('.')[2]}.py").read_text()
    return {
        node.name: node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


def test_every_public_name_exists_and_is_documented() -> None:
    documented = set()
    for name in trifcgi.protocol.__all__:
        offered = getattr(trifcgi.protocol, name)
        if callable(offered) and offered.__module__.startswith("trifcgi.protocol."):
            assert ast.get_docstring(definitions(offered.__module__)[name]), name
            documented.add(name)
    assert {"Connection", "RequestBegun", "Role", "decode_pairs"} <= documented


def test_the_names_are_listed_once() -> None:
    assert len(set(trifcgi.protocol.__all__)) == len(trifcgi.protocol.__all__)


def test_every_event_is_offered() -> None:
    assert set(events.__all__) <= set(trifcgi.protocol.__all__)
    assert {kind.__name__ for kind in events.Event.__args__} == set(events.__all__) - {"Event"}


def test_every_public_method_is_documented() -> None:
    body = definitions("connection")["Connection"].body
    methods = [node for node in body if isinstance(node, ast.FunctionDef)]
    assert {method.name for method in methods} >= {"receive_data", "data_to_send", "out_size"}
    for method in methods:
        assert method.name.startswith("_") or ast.get_docstring(method), method.name


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
