"""What a reader of one page has on disk: its files, with ports and paths that are free here."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.docs.markdown import Block, Page
from tests.real.ports import PortBlock

__all__ = ["Workspace"]

_PORT = re.compile(r"(?<=[ :,=])(80|443|8080|9000|900[0-9])(?![0-9.])")


@attrs.define
class Workspace:
    """A directory with a page's files, and how its texts are to be read here.

    Attributes:
        directory: where commands run; short enough for Unix sockets.
    """

    directory: Path
    ports: PortBlock
    _taken: dict[str, int] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for folder in ("run", "srv/www", "log"):
            (self.directory / folder).mkdir(parents=True)

    def localize(self, text: str) -> str:
        """The same text with ports and absolute paths of this workspace."""
        text = re.sub(r"(?<![\w./])/run/", f"{self.directory}/run/", text)
        text = re.sub(r"(?<![\w./])/srv/", f"{self.directory}/srv/", text)
        text = re.sub(r"(?<![\w./])/var/log/", f"{self.directory}/log/", text)
        return _PORT.sub(lambda found: str(self.port(found[1])), text)

    def port(self, documented: str) -> int:
        """The port that stands for a documented one."""
        if documented not in self._taken:
            self._taken[documented] = self.ports.take()
        return self._taken[documented]

    def write(self, page: Page) -> list[Path]:
        """Write the page's files."""
        return [self.write_block(block) for block in page.blocks if block.file is not None]

    def write_block(self, block: Block) -> Path:
        """Write the file that a block is."""
        assert block.file is not None
        file = block.file.removeprefix("/")
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.localize(block.text))
        return path

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Take back afterwards what loading apps from here does to this process."""
        modules, path = set(sys.modules), list(sys.path)
        sys.path.insert(0, str(self.directory))
        try:
            yield
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                file = getattr(sys.modules[name], "__file__", None)
                if file is not None and Path(file).is_relative_to(self.directory):
                    del sys.modules[name]
