"""Compare every number in results/ with another revision's, to the last digit.

    make results && python scripts/compare_results.py            # against HEAD
    python scripts/compare_results.py --against HEAD~5 --list   # where they differ

Numbers, truth values and nulls of all .json files, by their place in the file; text, such as versions and hashes, may
differ. What only one side has is counted by name, since a new field is no change of a number. Exits with 1 if a number
differs or has gone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

Place = tuple[str | int, ...]
Number = float | bool | None


def numbers(value: object, place: Place = ()) -> Iterator[tuple[Place, Number]]:
    """(place, number) of all numbers, truth values and nulls in JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, (*place, index))
    elif value is None or isinstance(value, (int, float)):
        yield place, value


def git(*arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


def files(revision: str) -> set[str]:
    """The .json files of results/ in a revision."""
    names = git("ls-tree", "-r", "--name-only", revision, "results/").split()
    return {name for name in names if name.endswith(".json")}


def field(place: Place) -> str:
    """A place without its indices, so that the same field of all routers is one."""
    return ".".join(str(part) for part in place if not isinstance(part, int))


@dataclass
class Changes:
    """What differs between two sets of files: numbers, and by field how many only one side has."""

    same: int = 0
    differing: list[tuple[str, Place, Number, Number]] = dataclasses.field(default_factory=list)
    gone: Counter[str] = dataclasses.field(default_factory=Counter)
    new: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, name: str, before: object, after: object) -> None:
        """Compare one file."""
        old, now = dict(numbers(before)), dict(numbers(after))
        self.gone.update(field(place) for place in old.keys() - now.keys())
        self.new.update(field(place) for place in now.keys() - old.keys())
        for place in old.keys() & now.keys():
            # NaN is written as null, and 1 is not True.
            if (type(old[place]), old[place]) == (type(now[place]), now[place]):
                self.same += 1
            else:
                self.differing.append((name, place, old[place], now[place]))


def main() -> int:
    """Print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="HEAD", metavar="REVISION", help="default: HEAD")
    parser.add_argument("--list", action="store_true", help="every number that differs")
    arguments = parser.parse_args()
    before = files(arguments.against)
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "results").rglob("*.json") if "scratch" not in p.parts}
    changes = Changes()
    for name in sorted(before & here):
        old = json.loads(git("show", f"{arguments.against}:{name}"))
        changes.add(name, old, json.loads((ROOT / name).read_text()))
    total = changes.same + len(changes.differing)
    print(f"{len(before & here)} files, {total} numbers in both; {len(changes.differing)} differ")
    for verb, names in (("gone", before - here), ("new", here - before)):
        for name in sorted(names):
            print(f"{verb}: {name}")
    for verb, fields in (("gone", changes.gone), ("new", changes.new)):
        for name, count in sorted(fields.items()):
            print(f"{verb}: {name}  ({count})")
    if arguments.list:
        for name, place, old_value, new_value in sorted(changes.differing, key=str):
            print(f"{name} {'.'.join(map(str, place))}: {old_value} -> {new_value}")
    return int(bool(changes.differing or changes.gone or before - here))


if __name__ == "__main__":
    sys.exit(main())
