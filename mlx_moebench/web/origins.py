"""Which requests a server answers that a browser can reach: by the names in ``Host``, ``Origin`` and what else tells.

A page of another site, or of another port of this machine, sends its own Origin; one whose name was pointed at this
machine afterwards (DNS rebinding) sends that name as Host. Programs send no Origin, and as Host the address that they
were given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import MoebenchError

_PORTS = {"http": 80, "https": 443}


class _Place(NamedTuple):
    """Of an Origin or a Host: ``port`` is None where the scheme's own is meant."""

    name: str
    port: int | None


class Origins:
    """The allow-list.

    host: the address that is served at. names: further names, without a port. listed: whole origins, such as
    https://example.org, that may read and post; ``*`` for all. flag: the option that lists origins; None where there
    is none.
    """

    def __init__(
        self, host: str, names: Collection[str] = (), listed: Collection[str] = (), flag: str | None = None
    ) -> None:
        for name in names:
            place = _place(name)
            if (place is None or place != (name.lower(), None)) and _address(name) is None:
                raise MoebenchError(
                    f"--allow-host takes a name such as box.local, without scheme or port, not {name!r}."
                )
        self._names = {"localhost", host.lower(), *(name.lower() for name in names)}
        self._listed, self._flag = set(listed), flag
        # Under an address no name stands that could be pointed elsewhere; on loopback there is no need of others.
        self._any_address = not is_loopback(host)

    def lists(self, origin: str | None) -> bool:
        """Whether pages of that origin were allowed by name, and may read."""
        return "*" in self._listed or origin in self._listed

    def refusal(self, headers: Iterable[tuple[str, str]], page: bool = False) -> str | None:
        """Why a request with these headers, all of them, is not answered, in one sentence; None where it is.

        page: it asks for a page to look at, which a link of any site may lead to; data it may not.
        """
        sent: dict[str, list[str]] = {}
        for name, value in headers:
            sent.setdefault(name.lower(), []).append(value)
        if twice := [name for name in _READ if len(sent.get(name, ())) > 1]:
            return f"This request has more than one {twice[0].title()}."
        host, origin, referer, site, mode, dest = (sent.get(name, [None])[0] for name in _READ)
        place = None if host is None else _place(host)
        if host is not None and not self._known(place):
            return f"This server is not reached as {_shown(host)}: start it with --allow-host NAME if it should be."
        if origin is not None:
            return None if self._own(origin, place) or self.lists(origin) else self._other(origin)
        # A browser that says no Origin says where a script, a picture or a link is for, or at least where it stands.
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:
            foreign = referer is not None and not self._own(referer, place)
        looks = page and mode in (None, "navigate") and dest in (None, "document")
        whose = None if referer is None else _origin_of(referer)
        return None if not foreign or looks or self.lists(whose) else self._other(whose)

    def _own(self, url: str, place: _Place | None) -> bool:
        """Whether it is of the very server that is asked: its name and its port; of HTTPS before it, too."""
        scheme, mark, rest = url.partition("://")
        its = _place(rest.partition("/")[0]) if mark else None
        if its is None or place is None or scheme not in _PORTS:
            return False
        return its.name == place.name and (its.port or _PORTS[scheme]) == (place.port or _PORTS[scheme])

    def _other(self, origin: str | None) -> str:
        whose = "other sites" if origin is None else _shown(origin)
        how = "" if self._flag is None else f" and those that {self._flag} names"
        return f"Pages of {whose} may not use this server; its own may{how}."

    def _known(self, place: _Place | None) -> bool:
        if place is None:
            return False
        if (address := _address(place.name)) is not None:
            return address.is_loopback or self._any_address or place.name in self._names
        return place.name in self._names or place.name.endswith(".localhost")


_READ = ("host", "origin", "referer", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server at that address."""
    address = _address(host)
    return address.is_loopback if address is not None else host.lower() == "localhost"


def _place(text: str) -> _Place | None:
    """What a Host says; None where it says no name."""
    if text != "".join(text.split()):
        return None
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    name = (parts.hostname or "").rstrip(".")
    return _Place(name, port) if name else None


def _origin_of(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.partition('/')[0]}"


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
