"""Processes in which libraries are not installed."""

from __future__ import annotations


def without(*libraries: str) -> str:
    """Python lines after which importing one of these fails, as where it is not installed.

    A None in sys.modules would fail, too, but libraries that look there (SciPy for torch) would trip over it.
    """
    return (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {libraries!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
