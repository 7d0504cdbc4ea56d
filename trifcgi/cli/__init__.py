"""The command line: ``trifcgi run``, ``check`` and ``request``."""

from trifcgi.cli.commands import cli, main

__all__ = ["cli", "main"]
