"""``scripts/bench``: trifcgi and other servers under the same load, on the same machine."""
