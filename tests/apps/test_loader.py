"""From what a user types to an application, or to one sentence that helps."""

import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
import starlette.applications

import trifcgi
from tests.apps.memory_request import MemoryRequest
from trifcgi.apps.interface import find_interface
from trifcgi.apps.loader import LoadedApp, as_handler, format_cause, load_app
from trifcgi.errors import AppLoadError

_numbers = itertools.count()


class Project:
    """A user's directory, with modules whose names no other test has used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, text: str, stem: str = "hello") -> str:
        name = f"{stem}{next(_numbers)}"
        (self.directory / f"{name}.py").write_text(text)
        return name

    def load(self, spec: str, interface: str = "auto") -> LoadedApp:
        return load_app(spec, interface, directory=self.directory)

    def refused(self, spec: str, interface: str = "auto") -> str:
        """The sentence of an error that is not the application's own."""
        with pytest.raises(AppLoadError) as caught:
            self.load(spec, interface)
        assert caught.value.__cause__ is None
        sentence = str(caught.value)
        assert "\n" not in sentence
        return sentence


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    path, modules = sys.path[:], set(sys.modules)
    yield Project(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


ASGI = "async def app(scope, receive, send): pass\n"
WSGI = "def application(environ, start_response): return []\n"
HANDLER = "async def app(request): pass\n"


# Found


def test_module_and_attribute(project: Project) -> None:
    name = project.write("async def other(request): pass\n")
    loaded = project.load(f"{name}:other")
    assert (loaded.interface, loaded.target.__name__) == ("handler", "other")
    assert loaded.spec == f"{name}:other"


@pytest.mark.parametrize(
    ("text", "attribute", "interface"),
    [
        (ASGI, "app", "asgi"),
        (WSGI, "application", "wsgi"),
        (WSGI + HANDLER, "app", "handler"),
    ],
)
def test_module_alone_means_app_and_then_application(
    project: Project, text: str, attribute: str, interface: str
) -> None:
    name = project.write(text)
    loaded = project.load(name)
    assert (loaded.spec, loaded.interface) == (f"{name}:{attribute}", interface)


def test_the_attribute_may_be_dotted(project: Project) -> None:
    name = project.write(f"class site:\n    class v1:\n        {HANDLER}")
    assert project.load(f"{name}:site.v1.app").interface == "handler"


def test_modules_in_packages(project: Project) -> None:
    package = project.directory / f"package{next(_numbers)}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "web.py").write_text(WSGI)
    assert project.load(f"{package.name}.web").interface == "wsgi"


def test_the_directory_comes_before_the_rest_of_the_path(project: Project) -> None:
    project.load(project.write(ASGI))
    assert sys.path[0] == str(project.directory)
    project.load(project.write(ASGI))
    assert sys.path.count(str(project.directory)) == 1


# The kinds told apart


async def _asgi(scope: Any, receive: Any, send: Any) -> None: ...
def _wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


async def _handler(request: Any) -> None: ...


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Kinds:
    async def asgi(self, scope: Any, receive: Any, send: Any) -> None: ...
    def wsgi(self, environ: Any, start_response: Any) -> None: ...
    async def handler(self, request: Any) -> None: ...
    @staticmethod
    async def static(scope: Any, receive: Any, send: Any) -> None: ...
    @classmethod
    async def of_class(cls, request: Any) -> None: ...


class ASGIObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class WSGIObject:
    def __call__(self, environ: Any, start_response: Any) -> None: ...


class HandlerObject:
    async def __call__(self, request: Any) -> None: ...


class WSGIClass:
    """PEP 3333's AppClass."""

    def __init__(self, environ: Any, start_response: Any) -> None: ...
    def __iter__(self) -> Iterator[bytes]:
        return iter([])


async def _with_extra(extra: Any, scope: Any, receive: Any, send: Any) -> None: ...
async def _handler_with_options(request: Any, *, debug: bool = False) -> None: ...
def _plain_asgi(scope: Any, receive: Any, send: Any) -> Any:
    return _asgi(scope, receive, send)


@pytest.mark.parametrize(
    ("target", "interface"),
    [
        (_asgi, "asgi"),
        (_wsgi, "wsgi"),
        (_handler, "handler"),
        (_plain_asgi, "asgi"),
        (_handler_with_options, "handler"),
        (decorated(_asgi), "asgi"),
        (decorated(_wsgi), "wsgi"),
        (decorated(_handler), "handler"),
        (functools.partial(_with_extra, 1), "asgi"),
        (functools.partial(functools.partial(_handler_with_options, debug=True)), "handler"),
        (functools.partial(ASGIObject()), "asgi"),
        (Kinds().asgi, "asgi"),
        (Kinds().wsgi, "wsgi"),
        (Kinds().handler, "handler"),
        (Kinds.static, "asgi"),
        (Kinds.of_class, "handler"),
        (ASGIObject(), "asgi"),
        (WSGIObject(), "wsgi"),
        (HandlerObject(), "handler"),
        (WSGIClass, "wsgi"),
        (lambda environ, start_response: [], "wsgi"),
        (starlette.applications.Starlette(), "asgi"),
        (flask.Flask("app"), "wsgi"),
        (trifcgi.asgi(_asgi), "handler"),
        (trifcgi.wsgi(_wsgi), "handler"),
    ],
    ids=repr,
)
def test_kinds_are_told_apart(target: Any, interface: str) -> None:
    assert find_interface(target, "hello:app") == interface
    assert find_interface(target, "hello:app", interface) == interface


def _zero() -> None: ...
async def _async_zero() -> None: ...
def _sync_handler(request: Any) -> None: ...
def _asgi2(scope: Any) -> None: ...
async def _asgi2_inner(receive: Any, send: Any) -> None: ...
async def _any_async(*args: Any) -> None: ...
def _any_sync(*args: Any) -> None: ...
def _four(a: Any, b: Any, c: Any, d: Any) -> None: ...
async def _ambiguous(request: Any, a: Any = None, b: Any = None) -> None: ...
def _needs_keyword(environ: Any, start_response: Any, *, debug: bool) -> None: ...


class ASGI2Class:
    def __init__(self, scope: Any) -> None: ...


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("hello", "of type str, not an application"),
        (None, "of type NoneType"),
        (itertools, "a module, not an application"),
        (_zero, r"write app = create\(\) in the module"),
        (_async_zero, r"write app = create\(\) in the module"),
        (_sync_handler, "'async def'"),
        (_asgi2, "ASGI 2"),
        (ASGI2Class, "ASGI 2"),
        (_asgi2_inner, "an ASGI app takes"),
        (_any_async, "--interface"),
        (_any_sync, "--interface"),
        (_ambiguous, "--interface"),
        (dict.fromkeys, "--interface"),
        (min, "cannot be seen"),
        (_four, r"takes \(a: Any, b: Any, c: Any, d: Any\)"),
        (_needs_keyword, "debug"),
        (ASGIObject, r"is a class; .* app = ASGIObject\(\.\.\.\)"),
        (starlette.applications.Starlette, "is a class"),
    ],
    ids=repr,
)
def test_what_is_no_app_is_refused_with_advice(target: Any, sentence: str) -> None:
    with pytest.raises(AppLoadError, match=sentence):
        find_interface(target, "hello:create")


@pytest.mark.parametrize("interface", ["asgi", "wsgi", "handler"])
@pytest.mark.parametrize("target", [_any_async, _any_sync])
def test_a_named_interface_decides(target: Any, interface: str) -> None:
    assert find_interface(target, "hello:app", interface) == interface


def test_a_named_interface_that_cannot_be_is_refused() -> None:
    with pytest.raises(AppLoadError, match=r"has to take \(environ, start_response\)"):
        find_interface(_asgi, "hello:app", "wsgi")


def test_a_named_interface_is_believed_where_nothing_can_be_seen() -> None:
    assert find_interface(min, "hello:app", "wsgi") == "wsgi"


def test_an_unknown_interface_is_a_bad_argument() -> None:
    with pytest.raises(ValueError, match="'uwsgi'"):
        find_interface(_asgi, "hello:app", "uwsgi")
    with pytest.raises(ValueError, match="'auto'"):
        as_handler(_asgi, "auto")


# Not found


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("hello.py", "'hello'"),
        ("hello.py:app", "'hello:app'"),
        ("src/web/hello.py:app", "'src.web.hello:app'"),
        ("./hello.py", "'hello'"),
        ("src/hello", "'src.hello'"),
    ],
)
def test_a_file_name_is_answered_with_what_to_type(
    project: Project, typed: str, instead: str
) -> None:
    assert project.refused(typed).endswith(f"try {instead}")


@pytest.mark.parametrize(
    "spec", ["", ":app", "hello:", "hello world", "a..b", "hello:a.", "a:b:c"]
)
def test_what_names_nothing_is_answered_with_the_form(project: Project, spec: str) -> None:
    assert "hello:app" in project.refused(spec)


def test_a_missing_module_is_named_with_the_directory(project: Project) -> None:
    sentence = project.refused("nothere_at_all:app")
    assert "'nothere_at_all'" in sentence
    assert str(project.directory) in sentence


def test_a_mistyped_module_is_answered_with_the_right_one(project: Project) -> None:
    name = project.write(ASGI, stem="website")
    assert f"did you mean '{name}'?" in project.refused(name.replace("site", "stie"))


def test_a_missing_submodule_is_told_from_its_package(project: Project) -> None:
    name = project.write(ASGI)
    sentence = project.refused(f"{name}.sub:app")
    assert f"{name}.sub" in sentence
    assert "is not a package" in sentence


def test_a_dot_in_the_colons_place_is_answered_with_the_colon(project: Project) -> None:
    name = project.write(ASGI)
    assert project.refused(f"{name}.app").endswith(f"did you mean '{name}:app'?")


def test_a_mistyped_attribute_is_answered_with_the_right_one(project: Project) -> None:
    name = project.write("async def website(request): pass\n")
    assert project.refused(f"{name}:webstie").endswith("did you mean 'website'?")
    assert "no attribute 'page'" in project.refused(f"{name}:website.page")


def test_a_module_without_app_is_answered_with_what_it_has(project: Project) -> None:
    name = project.write("import os\n_x = len\nasync def website(request): pass\n")
    assert project.refused(name).endswith(f"name the attribute: {name}:website")
    factory = project.write("def create_app(): pass\n")
    assert project.refused(factory).endswith("write app = create_app() in it")
    empty = project.write("")
    assert project.refused(empty).endswith("has neither 'app' nor 'application'")


def test_a_factory_is_refused_by_its_full_name(project: Project) -> None:
    name = project.write("def make(): pass\n")
    sentence = project.refused(f"{name}:make")
    assert sentence.startswith(f"{name}:make takes no arguments")
    assert "write app = make()" in sentence


def test_a_module_that_exits_is_told_so(project: Project) -> None:
    name = project.write("import sys\n\nsys.exit('bye')\n")
    sentence = project.refused(name)
    assert "sys.exit('bye')" in sentence
    assert f"{name}.py, line 3" in sentence


# The app's own errors


def failure(project: Project, spec: str) -> tuple[AppLoadError, str]:
    with pytest.raises(AppLoadError) as caught:
        project.load(spec)
    return caught.value, format_cause(caught.value)


def no_machinery(text: str) -> bool:
    return not any(word in text for word in ("importlib", "runpy", "trifcgi/", "frozen"))


def test_an_error_of_the_module_is_the_cause_and_its_traceback_begins_there(
    project: Project,
) -> None:
    inner = project.write("def fail():\n    raise KeyError('mine')\n")
    name = project.write(f"import importlib\nimportlib.import_module('{inner}').fail()\n")
    error, text = failure(project, name)
    assert isinstance(error.__cause__, KeyError)
    assert str(error) == f"importing module '{name}' failed: KeyError: 'mine'"
    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f"{name}.py" in lines[1]
    assert any(f"{inner}.py" in line for line in lines)
    assert lines[-1] == "KeyError: 'mine'"
    assert no_machinery(text.replace("import importlib", "").replace("importlib.import_", ""))


def test_a_missing_dependency_is_the_apps_error_and_no_missing_app(project: Project) -> None:
    name = project.write("import nothere_at_all\n")
    error, text = failure(project, name)
    assert isinstance(error.__cause__, ModuleNotFoundError)
    assert "import nothere_at_all" in text
    assert no_machinery(text)


def test_a_syntax_error_shows_its_line(project: Project) -> None:
    name = project.write("async def app(request:\n")
    error, text = failure(project, name)
    assert isinstance(error.__cause__, SyntaxError)
    assert f"{name}.py" in text
    assert "async def app(request:" in text
    assert "Traceback" not in text


def test_a_chain_of_errors_is_shown_whole_and_trimmed(project: Project) -> None:
    name = project.write(
        "try:\n    import nothere_at_all\n"
        "except ImportError as error:\n    raise RuntimeError('give up') from error\n"
    )
    _, text = failure(project, name)
    assert "direct cause" in text
    assert text.endswith("RuntimeError: give up\n")
    assert no_machinery(text)


def test_an_attribute_that_raises_is_the_apps_error(project: Project) -> None:
    name = project.write("def __getattr__(name):\n    raise KeyError(name)\n")
    error, text = failure(project, f"{name}:lazy")
    assert isinstance(error.__cause__, KeyError)
    assert f"{name}.py" in text


def test_an_error_without_a_cause_has_no_traceback() -> None:
    assert format_cause(AppLoadError("no such app")) == ""


def test_ctrl_c_during_the_import_passes(project: Project) -> None:
    name = project.write("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        project.load(name)


# As handlers


@pytest.mark.parametrize(("code", "shown"), [("missing FOO", False), (3, True), (None, True)])
def test_only_an_exit_with_words_needs_no_traceback(code: Any, shown: bool) -> None:
    error = AppLoadError("the app's startup failed")
    error.__cause__ = SystemExit(code)
    assert bool(format_cause(error)) is shown


async def test_a_loaded_asgi_app_serves(project: Project) -> None:
    name = project.write(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body',\n"
        "                'body': scope['root_path'].encode()})\n"
    )
    loaded = project.load(name)
    request = MemoryRequest([(b"REQUEST_METHOD", b"GET"), (b"SCRIPT_NAME", b"/a/b")])
    await request.run(as_handler(loaded.target, loaded.interface, mount="/a"))
    assert request.response.body == b"/a"


def test_a_native_handler_is_itself() -> None:
    assert as_handler(_handler, "handler") is _handler


def test_a_wsgi_app_becomes_a_handler() -> None:
    assert find_interface(as_handler(_wsgi, "wsgi", threads=2), "it") == "handler"
