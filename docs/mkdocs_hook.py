"""Hook of mkdocs: pages outside docs/ and notebooks join the site, and links between the repository's files become
those of the site.

docs/X.md is X.md there, X.ipynb is X.md, README.md the first page, and everything else keeps its path.
"""

from __future__ import annotations

import json
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
    "SECURITY.md",
    "CITATION.cff",
    "constraints.txt",
    "results/*.md",
    "results/libmoe/README.md",
    "results/testbed/README.md",
    "results/testbed/*.png",
    "results/upcycling/README.md",
    "results/libmoe/*.png",
    "results/upcycling/*.png",
    "results/ablation_comparison.csv",
    "mlx_moebench/models/nano/README.md",
    "mlx_moebench/models/nano/loss_curve.svg",
    "mlx_moebench/routing/schema/*.json",
)
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/, and the notebooks."""
    for pattern in OTHERS:
        for path in sorted(ROOT.glob(pattern)):
            place = _on_site(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, place, content=path.read_bytes()))
    for path in sorted(ROOT.glob("docs/notebooks/*.ipynb")):
        place = _on_site(path.relative_to(ROOT).as_posix())
        files.append(File.generated(config, place, content=notebook_page(path)))
    return files


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its text, its code, and below each cell what it printed or drew."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell above draws](data:image/png;base64,{data['image/png'].strip()})"
    return "```text\n" + "".join(output.get("text") or data["text/plain"]).rstrip("\n") + "\n```"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are on the site; a link to nothing there is left for the strict build to report."""
    here = page.file.src_uri
    source = _in_repository(here)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        return f"{link[1]}{posixpath.relpath(_on_site(target), posixpath.dirname(here) or '.')}{link[3] or ''}{link[4]}"

    return LINK.sub(moved, markdown)


def _on_site(path: str) -> str:
    if path.endswith(".ipynb"):
        path = path.removesuffix(".ipynb") + ".md"
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _in_repository(place: str) -> str:
    if place == "index.md":
        return "README.md"
    inside = ROOT / "docs" / place
    return f"docs/{place}" if inside.exists() or inside.with_suffix(".ipynb").exists() else place
