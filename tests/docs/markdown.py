"""The documentation as its tests see it: pages, their code blocks, headings and links."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

__all__ = ["DOCS", "PAGES", "PROJECT", "Block", "Page", "page"]

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"

_FENCE = re.compile(r"^```(?P<info>.*)$")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE_SPAN = re.compile(r"`[^`\n]+`")


@attrs.frozen
class Block:
    """One fenced block of code.

    Attributes:
        language: the info string's first word.
        file: what ``file=`` says in it: the text is that file's whole content.
        text: the code.
        line: where the fence is, from 1.
    """

    page: str
    language: str
    file: str | None
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@attrs.frozen
class Page:
    """One page.

    Attributes:
        name: its path within the project.
        blocks: its code.
        prose: its lines outside code.
    """

    name: str
    blocks: tuple[Block, ...]
    prose: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return PROJECT / self.name

    @property
    def anchors(self) -> set[str]:
        """What links into the page may name, as GitHub makes it of headings."""
        headings = (_HEADING.match(line) for line in self.prose)
        return {_anchor(heading[1]) for heading in headings if heading is not None}

    @property
    def headings(self) -> list[str]:
        """The headings' texts, without marks of code."""
        headings = (_HEADING.match(line) for line in self.prose)
        return [heading[1].replace("`", "") for heading in headings if heading is not None]

    @property
    def links(self) -> list[str]:
        """Where its links and pictures point."""
        prose = _CODE_SPAN.sub("", "\n".join(self.prose))
        return [link[1] for link in _LINK.finditer(prose)]

    def code(self, *languages: str) -> list[Block]:
        """The blocks in these languages."""
        return [block for block in self.blocks if block.language in languages]

    def table(self, heading: str) -> list[list[str]]:
        """The cells of the first table below a heading, without its head row."""
        for number, line in enumerate(self.prose):
            found = _HEADING.match(line)
            if found is not None and found[1].replace("`", "") == heading:
                return _rows(self.prose[number + 1 :])
        raise LookupError(f"{self.name} has no heading {heading!r}")

    def rows(self, head: str) -> list[list[str]]:
        """The cells of the table whose head row begins so."""
        for number, line in enumerate(self.prose):
            if line.startswith(head):
                return _rows(self.prose[number:])
        raise LookupError(f"{self.name} has no table {head!r}")


def _rows(lines: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows or line.startswith("#"):
            break
    return rows[2:]


def _anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def _blocks(name: str, lines: list[str]) -> Iterator[Block | str]:
    """Code blocks, and every other line, in order."""
    fence: tuple[int, str] | None = None
    code: list[str] = []
    for number, line in enumerate(lines, 1):
        found = _FENCE.match(line)
        if fence is None and found is not None:
            fence = number, found["info"]
        elif fence is None:
            yield line
        elif found is None:
            code.append(line)
        else:
            start, info = fence
            language, *words = info.split() or [""]
            options = dict(word.split("=", 1) for word in words)
            file = options.pop("file", None)
            assert not options, f"{name}:{start}: {options} means nothing here"
            yield Block(name, language, file, "\n".join([*code, ""]), start)
            fence = None
            code = []
    assert fence is None, f"{name}:{fence[0]}: a block of code without an end"


@functools.cache
def page(name: str) -> Page:
    """Read a page by its path within the project."""
    parts = list(_blocks(name, (PROJECT / name).read_text().splitlines()))
    return Page(
        name,
        tuple(part for part in parts if isinstance(part, Block)),
        tuple(part for part in parts if isinstance(part, str)),
    )


PAGES = [
    page(str(path.relative_to(PROJECT)))
    for path in [PROJECT / "README.md", *sorted(DOCS.rglob("*.md"))]
]
