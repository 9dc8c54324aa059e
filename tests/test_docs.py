"""The documentation against the tree: links lead somewhere, one version everywhere, every page is on the site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
PAGES = [*sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")]), *NOTEBOOKS]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def broken(page: Path) -> list[str]:
    """Links of a page to files, or to headings, that are not there."""
    wrong = []
    for target, anchor in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if ":" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            wrong.append(f"{target}#{anchor}")
    return wrong


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    lines = BLOCK.sub("", page.read_text(encoding="utf-8")).splitlines()
    words = (re.sub(r"[^\w\s-]", "", line.lstrip("# ").lower()) for line in lines if line.startswith("#"))
    return {re.sub(r"\s+", "-", text.strip()) for text in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[here](#a-heading) [gone](other.md) [no such](page.md#another) [out](https://a.b)\n")
    assert broken(page) == ["other.md#", "page.md#another"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## ([\d.]+) \((\S+)\)$", changes, re.MULTILINE)
    assert latest is not None
    assert (citation["version"], citation["date-released"]) == latest.groups()
    assert citation["version"] == version


def test_every_page_is_on_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    made_from = {"definitions.in.md"}
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name not in text and page.name not in made_from] == []
    assert [page.name for page in NOTEBOOKS if f"notebooks/{page.stem}.md" not in text] == []
