"""The page that tells of ``scripts/bench`` tells what there is."""

import re
import shlex

from scripts.benchmark.__main__ import make_parser
from scripts.benchmark.works import WORKS
from tests.docs.markdown import page

PAGE = page("docs/howto/benchmark.md")


def test_its_commands_can_be_given() -> None:
    lines = "\n".join(block.text for block in PAGE.code("console")).splitlines()
    orders = [shlex.split(line) for line in lines if line.startswith("$ scripts/bench")]
    assert orders
    for _, _, *arguments in orders:
        make_parser().parse_args(arguments)


def test_it_tells_of_every_work() -> None:
    told = set()
    for line in PAGE.prose:
        if line.startswith("| `"):
            told |= set(re.findall(r"`([a-z0-9-]+)`", line.split("|")[1]))
    assert told == set(WORKS)
