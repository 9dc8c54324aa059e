"""Write constraints.txt: the exact version of everything that the tests need, as pip resolves it today.

    python scripts/make_constraints.py            the newest versions that pyproject.toml allows
    python scripts/make_constraints.py --check    whether the file has every package that an environment needs

torch stays at the version for which this project names a CPU build. Run it in a fresh virtual environment's Python, and
`make test` afterwards; docs/dependencies.md says what broke when.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from install import PINS, PYTORCH, ROOT, extras, pinned

HEAD = """\
# The exact versions that `make analyze`, `make quick` and `make test` install, so that this commit is green any day.
# Made by scripts/make_constraints.py; `make test-latest` takes the newest of everything instead.
"""

ELSEWHERE = ("mlx-metal",)
"""What is needed on other platforms than the one that resolves, in step with another package: `mlx`."""

BUILDS = ("setuptools",)
"""What builds the package."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    versions = resolved([f"{PYTORCH}=={pinned(PYTORCH)}", f"{ROOT}{extras('full')}", f"{ROOT}[docs]"])
    if arguments.check:
        missing = sorted(versions.keys() - {name for name, _ in read()})
        if missing:
            sys.exit(f"constraints.txt lacks {', '.join(missing)}: run scripts/make_constraints.py.")
        return
    for name in ELSEWHERE:
        versions[name] = versions["mlx"]
    versions |= resolved(list(BUILDS))
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    PINS.write_text(HEAD + "".join(lines), encoding="utf-8")


def read() -> list[tuple[str, str]]:
    """(name, version) of every line of constraints.txt."""
    return re.findall(r"^([\w.-]+)==(\S+)$", PINS.read_text(encoding="utf-8"), re.MULTILINE)


def resolved(requirements: list[str]) -> dict[str, str]:
    """{name: version} of what pip would install in an empty environment; a build's own label (+cpu) is left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *requirements], check=True)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    versions = {plain(item["metadata"]["name"]): item["metadata"]["version"].partition("+")[0] for item in items}
    return {
        name: version for name, version in versions.items() if name != "mlx-moebench" and not name.startswith("nvidia-")
    }


def plain(name: str) -> str:
    """The name in the form that indexes use."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
