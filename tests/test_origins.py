"""Whom demo and serve answer: Host, Origin and what else a browser says of the page that asks."""

from __future__ import annotations

import pytest

from mlx_moebench.errors import MoebenchError
from mlx_moebench.web.origins import Origins, is_loopback

HERE = "127.0.0.1:8080"

ANSWERED: list[dict[str, str]] = [
    {},  # a program of HTTP/1.0
    {"Host": "localhost:8080"},
    {"Host": HERE},
    {"Host": "[::1]:8080"},
    {"Host": "LOCALHOST."},
    {"Host": "box.local:8080"},
    {"Host": "moe.localhost:8080"},
    {"Host": HERE, "Origin": f"http://{HERE}"},
    {"Host": "localhost", "Origin": "http://localhost"},
    {"Host": "localhost:80", "Origin": "http://localhost"},
    {"Host": "box.local", "Origin": "https://box.local"},  # of HTTPS that something before it speaks
    {"Host": HERE, "Origin": "https://listed.example"},
    {"Host": HERE, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
    {"Host": HERE, "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    {"Host": HERE, "Referer": f"http://{HERE}/routing/view"},
    {"Host": HERE, "Referer": "https://listed.example/page", "Sec-Fetch-Site": "cross-site"},
]
REFUSED: list[dict[str, str]] = [
    {"Host": "evil.example:8080"},
    {"Host": "localhost.evil.example"},
    {"Host": "evil.example@localhost"},
    {"Host": "localhost@evil.example"},
    {"Host": "localhost:x"},
    {"Host": "localhost/x"},
    {"Host": ""},
    {"Host": " "},
    {"Host": "192.0.2.7:8080"},
    {"Host": "0.0.0.0:8080"},
    {"Host": HERE, "Origin": "http://localhost:8080"},
    {"Host": HERE, "Origin": "http://127.0.0.1:3000"},
    {"Host": "localhost", "Origin": "http://localhost:3000"},
    {"Host": HERE, "Origin": "https://evil.example"},
    {"Host": HERE, "Origin": "https://listed.example.evil.example"},
    {"Host": HERE, "Origin": "http://listed.example"},
    {"Host": HERE, "Origin": "null"},
    {"Host": HERE, "Origin": ""},
    {"Host": HERE, "Origin": f"file://{HERE}"},
    {"Host": HERE, "Origin": f"http://x@{HERE}"},
    {"Origin": "http://localhost"},
    {"Host": HERE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Host": HERE, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    {"Host": HERE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    {"Host": HERE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket"},
    {"Host": HERE, "Referer": "https://evil.example/page"},
]


@pytest.mark.parametrize(("headers", "answered"), [(h, True) for h in ANSWERED] + [(h, False) for h in REFUSED])
def test_hosts_and_origins(headers: dict[str, str], answered: bool) -> None:
    origins = Origins("127.0.0.1", ["Box.local"], ["https://listed.example"])
    why = origins.refusal(headers.items())
    assert (why is None) == answered
    assert why is None or ("\n" not in why and why.endswith("."))


@pytest.mark.parametrize(("dest", "answered"), [("document", True), ("iframe", False), ("script", False)])
def test_links_of_any_site_lead_to_pages_and_to_nothing_else(dest: str, answered: bool) -> None:
    linked = {"Host": HERE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": dest}
    origins = Origins("127.0.0.1")
    assert (origins.refusal(linked.items(), page=True) is None) == answered
    assert origins.refusal(linked.items(), page=False) is not None
    assert origins.refusal((linked | {"Host": "evil.example"}).items(), page=True) is not None
    assert origins.refusal((linked | {"Origin": "https://evil.example"}).items(), page=True) is not None


def test_a_header_that_is_sent_twice_is_refused() -> None:
    twice = [("Host", HERE), ("host", "evil.example")]
    assert "more than one Host" in str(Origins("127.0.0.1").refusal(twice))
    assert Origins("127.0.0.1").refusal([("Host", HERE), ("Accept", "a"), ("Accept", "b")]) is None


def test_addresses_are_names_of_a_server_that_other_machines_reach() -> None:
    """A page of http://192.0.2.7 comes from that machine: no name can be pointed at another behind its back."""
    open_to_all = Origins("0.0.0.0")
    assert open_to_all.refusal([("Host", "192.0.2.7:8080")]) is None
    assert open_to_all.refusal([("Host", "192.0.2.7:8080"), ("Origin", "http://192.0.2.7:9")]) is not None
    assert open_to_all.refusal([("Host", "evil.example")]) is not None
    assert not open_to_all.lists("*")
    assert Origins("127.0.0.1", listed=["*"]).lists("https://any.example")
    for wrong in ("http://box", "box:80", "", "a b"):
        with pytest.raises(MoebenchError, match="--allow-host"):
            Origins("127.0.0.1", [wrong])
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "LOCALHOST", "0.0.0.0", "box", "::")] == [True] * 3 + [
        False
    ] * 3


def test_what_may_be_done_is_said_where_there_is_an_option() -> None:
    headers = [("Host", HERE), ("Origin", "http://localhost:3000")]
    assert str(Origins("127.0.0.1").refusal(headers)).endswith("its own may.")
    assert "--allowed-origins" in str(Origins("127.0.0.1", flag="--allowed-origins").refusal(headers))
