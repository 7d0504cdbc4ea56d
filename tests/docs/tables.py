"""The parts of the reference that are made from the code.

They stand between ``<!-- generated: … -->`` and ``<!-- end -->``; a test compares them with
the code. ``python -m tests.docs.tables`` writes them anew.
"""

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator

import attrs
import click

import trifcgi
from tests.docs.markdown import DOCS
from trifcgi.admin import COMMANDS
from trifcgi.cli import cli
from trifcgi.config import OPTIONS, Group

__all__ = ["generated", "updated"]

_PART = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _options() -> Iterator[str]:
    for group in Group:
        heading = group.value.partition(" (")[0]
        yield f"\n## {heading}\n"
        yield "| option | meaning | default |"
        yield "| --- | --- | --- |"
        for option in OPTIONS.values():
            if option.group is group:
                name = (
                    option.kind.metavar
                    if option.positional
                    else f"--{option.name} {option.kind.metavar}".rstrip()
                )
                yield f"| `{_cell(name)}` | {_cell(option.help)} | {_cell(option.shown_default)} |"
    yield ""


def _request() -> Iterator[str]:
    assert isinstance(cli, click.Group)
    command = cli.commands["request"]
    context = click.Context(command)
    yield "| option | meaning |"
    yield "| --- | --- |"
    for param in command.params:
        if isinstance(param, click.Argument):
            continue
        record = param.get_help_record(context)
        if record is not None:
            yield f"| `{_cell(record[0])}` | {_cell(record[1])} |"


def _control() -> Iterator[str]:
    yield "| command | method | path | what it does |"
    yield "| --- | --- | --- | --- |"
    for command in COMMANDS:
        usage = " ".join([command.name, *command.usage])
        yield f"| `{usage}` | {command.method} | `{command.path}` | {command.help} |"


def _signature(name: str) -> Iterator[str]:
    target = getattr(trifcgi, name.removeprefix("trifcgi."))
    signature = inspect.signature(target)
    bare = signature.replace(
        parameters=[
            parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter))
            for parameter in signature.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    yield "```text"
    yield from textwrap.wrap(
        f"{name}{bare}", 100, subsequent_indent="    ", break_on_hyphens=False
    )
    yield "```"


class _Shown(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _default(parameter: inspect.Parameter) -> object:
    if parameter.name == "task_status":  # trio's own singleton, which prints as its address
        return _Shown("...")
    return _Shown(oct(parameter.default)) if parameter.name == "mode" else parameter.default


def _attributes(name: str) -> Iterator[str]:
    cls = getattr(trifcgi, name.removeprefix("trifcgi."))
    meanings = dict(
        re.findall(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", _section(cls), re.MULTILINE | re.DOTALL)
    )
    yield "| attribute | meaning | default |"
    yield "| --- | --- | --- |"
    for field in attrs.fields(cls):
        meaning = " ".join(meanings[field.name].split()).replace("``", "`")
        yield f"| `{field.name}` | {_cell(meaning)} | `{field.default}` |"


def _section(cls: type) -> str:
    doc = inspect.getdoc(cls) or ""
    return doc.partition("Attributes:\n")[2]


def _exports(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    yield "| name | what it is |"
    yield "| --- | --- |"
    for export in module.__all__:
        value = getattr(module, export)
        summary = "" if not (inspect.isclass(value) or callable(value)) else _summary(value)
        shown = summary or f"`{value!r}`"
        yield f"| `{export}` | {_cell(shown)} |"


def _summary(value: object) -> str:
    doc = inspect.getdoc(value)
    if doc is None:
        return "an event of any kind"
    text = " ".join(doc.partition("\n\n")[0].split())
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


_MAKERS: dict[str, Callable[..., Iterator[str]]] = {
    "options": _options,
    "request": _request,
    "commands": _control,
    "signature": _signature,
    "attributes": _attributes,
    "exports": _exports,
}


def generated(what: str) -> str:
    """One part, by what its marker says."""
    maker, *arguments = what.split()
    return "".join(f"{line}\n" for line in _MAKERS[maker](*arguments))


def updated(text: str) -> str:
    """A page with its generated parts as they should be."""
    return _PART.sub(lambda part: f"{part[1]}\n{generated(part[2]).strip()}\n\n{part[3]}", text)


if __name__ == "__main__":
    for path in sorted(DOCS.rglob("*.md")):
        path.write_text(updated(path.read_text()))
