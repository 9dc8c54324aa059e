"""The live page: one file, which asks its own server alone."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from ..show.colours import as_json
from ..show.tokens import assets, script_json


@cache
def _style() -> str:
    return assets("page.css") + _own("view.css")


@cache
def _script() -> str:
    return assets("base.js", "map.js") + _own("last.js") + _own("view.js")


def _own(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; script-src 'sha256-{_hash(_script())}'; style-src 'sha256-{_hash(_style())}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but the page's own scripts and style runs, and nothing but its own server is asked."""


def view() -> str:
    """The page as HTML. Whatever it shows comes as JSON and becomes text."""
    data = script_json({"colours": as_json()})
    page = _own("view.html").replace("/*STYLE*/", _style()).replace("/*SCRIPT*/", _script())
    return page.replace("/*DATA*/", data)
