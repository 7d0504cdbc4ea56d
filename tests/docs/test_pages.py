"""The pages themselves: links lead somewhere, code says what it is, configuration is sound."""

import configparser
import re
import xml.dom.minidom
from pathlib import Path

import click
import pytest

from scripts.benchmark.__main__ import make_parser
from tests.docs.markdown import DOCS, PAGES, PROJECT, Page, page
from tests.docs.workspace import Workspace
from tests.speed import baseline, profile
from trifcgi.cli import cli
from trifcgi.config import OPTIONS, configure

_LANGUAGES = {
    "apache", "caddy", "console", "haproxy", "ini", "lighttpd", "nginx", "python", "sh", "text",
    "toml",
}  # fmt: skip

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_links_within_the_project_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.path.parent / target).resolve() if target else page.path
        assert file.is_file(), link
        assert file.is_relative_to(PROJECT), link
        if anchor:
            assert anchor in _page(file).anchors, link


def _page(file: Path) -> Page:
    return page(str(file.relative_to(PROJECT)))


@each_page
def test_code_says_what_language_it_is_in(page: Page) -> None:
    for block in page.blocks:
        assert block.language in _LANGUAGES, block
    assert not any(line.strip().startswith("```") for line in page.prose), "an indented block"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [PROJECT / "README.md"]
    while ahead:
        file = ahead.pop()
        if file in reached or file.suffix != ".md":
            continue
        reached.add(file)
        links = (link.partition("#")[0] for link in _page(file).links if "://" not in link)
        ahead += [(file.parent / link).resolve() for link in links if link]
    assert reached == {PROJECT / "README.md", *DOCS.rglob("*.md")}


@pytest.mark.parametrize("picture", sorted(DOCS.rglob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_sound_and_described(picture: Path) -> None:
    with picture.open("rb") as file:
        root = xml.dom.minidom.parse(file).documentElement
    assert root is not None
    assert root.getElementsByTagName("title")
    assert root.getElementsByTagName("desc")
    assert any(link.endswith(picture.name) for page in PAGES for link in page.links)


def test_toml_is_configuration_that_trifcgi_takes(workspace: Workspace) -> None:
    blocks = [block for page in PAGES for block in page.code("toml")]
    assert blocks
    for block in blocks:
        configure({}, config=str(workspace.write_block(block)), environ={})


def test_units_are_sound() -> None:
    blocks = [block for page in PAGES for block in page.code("ini")]
    assert blocks
    for block in blocks:
        unit = configparser.ConfigParser(strict=True, interpolation=None)
        unit.read_string(block.text)
        assert {"Service", "Socket"} & set(unit.sections()), block


def test_every_option_that_the_documentation_names_exists() -> None:
    """Also in prose, where nothing else would notice a slip."""
    known = {f"--{name}" for name in OPTIONS} | {"--config", "--help", "--version"}
    assert isinstance(cli, click.Group)
    for command in ("request", "admin"):
        known |= {name for param in cli.commands[command].params for name in param.opts}
    for parser in (make_parser(), baseline.make_parser(), profile.make_parser()):
        known |= {name for action in parser._actions for name in action.option_strings}
    others = {"--now", "--signal"}  # systemctl's
    for each in PAGES:
        text = "\n".join([*each.prose, *(block.text for block in each.code("console", "sh"))])
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))
        assert named <= known | others, (each.name, named - known - others)
