"""Processes in which libraries are not installed."""

from __future__ import annotations


def without(*libraries: str) -> str:
    """Python lines after which nothing finds these, as where they are not installed.

    A None in sys.modules would stop an import, too, but libraries that look there (SciPy for torch) trip over it, and
    `importlib.util.find_spec` raises.
    """
    return (
        "import sys\n"
        "class Others:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        return None if name.split('.')[0] in {libraries!r} else self.finder.find_spec(name, path, target)\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "sys.meta_path[:] = map(Others, sys.meta_path)\n"
    )
