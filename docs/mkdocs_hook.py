"""Hook of mkdocs: pages outside docs/ join the site, and links between the repository's files become those of the site.

docs/X.md is X.md there, README.md the first page, and everything else keeps its path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OTHERS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "constraints.txt",
    "results/*.md",
    "results/ablation_comparison.csv",
    "mlx_moebench/models/nano/README.md",
    "mlx_moebench/models/nano/loss_curve.svg",
    "mlx_moebench/routing/schema/*.json",
)
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    for pattern in OTHERS:
        for path in sorted(ROOT.glob(pattern)):
            place = _on_site(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, place, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are on the site; a link to nothing there is left for the strict build to report."""
    here = page.file.src_uri
    source = _in_repository(here)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        return f"{link[1]}{posixpath.relpath(_on_site(target), posixpath.dirname(here) or '.')}{link[3] or ''}{link[4]}"

    return LINK.sub(moved, markdown)


def _on_site(path: str) -> str:
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _in_repository(place: str) -> str:
    if place == "index.md":
        return "README.md"
    return f"docs/{place}" if (ROOT / "docs" / place).exists() else place
