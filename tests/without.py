"""Processes in which libraries are not installed."""

from __future__ import annotations


def without(*libraries: str) -> str:
    """Python lines after which no finder finds these, as where they are not installed.

    A None in sys.modules would fail, too, but libraries that look there (SciPy for torch) would trip over it; so would
    those that ask for a spec (transformers for MLX) over a finder that raises.
    """
    return (
        "import sys\n"
        "class Absent:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] not in {libraries!r}:\n"
        "            return self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = map(Absent, sys.meta_path)\n"
    )
