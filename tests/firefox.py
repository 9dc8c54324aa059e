"""A real headless Firefox, without a network, driven over its own Marionette protocol: no driver is needed beside it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("firefox", "firefox-esr")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which WebDriver names an element."""

SECONDS = 120.0
"""How long a start may take: others work on the machine, too."""

PREFERENCES = {
    "marionette.port": 0,
    "network.dns.disabled": True,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.disabledForTesting": True,
    "browser.download.folderList": 2,
    "browser.download.useDownloadDir": True,
    "browser.download.alwaysOpenPanel": False,
    "browser.helperApps.neverAsk.saveToDisk": "image/svg+xml,image/png,text/csv",
    "dom.w3c_touch_events.enabled": 1,
}


def executable() -> str | None:
    """Firefox of this machine: MOEBENCH_FIREFOX, or the first of `NAMES` on the path."""
    return os.environ.get("MOEBENCH_FIREFOX") or next(filter(None, map(shutil.which, NAMES)), None)


class Firefox:
    """One Firefox with a profile in ``folder``; what it saves goes to ``folder / "saved"``."""

    def __init__(self, path: str, folder: Path) -> None:
        self.saved = folder / "saved"
        self.saved.mkdir()
        profile = folder / "profile"
        profile.mkdir()
        settings = PREFERENCES | {"browser.download.dir": str(self.saved)}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items()]
        (profile / "user.js").write_text("".join(lines))
        command = [path, "--headless", "--marionette", "--no-remote", "--profile", str(profile), "about:blank"]
        environment = os.environ | {"HOME": str(folder), "MOZ_CRASHREPORTER_DISABLE": "1"}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment)
        self._socket = socket.create_connection(("127.0.0.1", self._port(profile)), timeout=SECONDS)
        self._stream = self._socket.makefile("rb")
        self._number = 0
        self._receive()
        self("WebDriver:NewSession", capabilities={"alwaysMatch": {"acceptInsecureCerts": False}})

    def _port(self, profile: Path) -> int:
        started = time.monotonic()
        while time.monotonic() - started < SECONDS:
            place = profile / "MarionetteActivePort"
            if place.is_file() and (text := place.read_text().strip()):
                return int(text)
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self._process.kill()
        raise RuntimeError("Firefox did not start")

    def _receive(self) -> Any:
        length = b""
        while (byte := self._stream.read(1)) != b":":
            length += byte
        return json.loads(self._stream.read(int(length)))

    def __call__(self, command: str, **arguments: Any) -> Any:
        """The result of a command of WebDriver."""
        self._number += 1
        message = json.dumps([0, self._number, command, arguments]).encode()
        self._socket.sendall(f"{len(message)}:".encode() + message)
        _, _, error, result = self._receive()
        if error:
            raise RuntimeError(f"{error['error']}: {error['message']}")
        return result

    def open(self, url: str, width: int = 1400, height: int = 1000) -> None:
        """A page in a window of this size."""
        self("WebDriver:SetWindowRect", width=width, height=height)
        self("WebDriver:Navigate", url="about:blank")
        self("WebDriver:Navigate", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body of JavaScript returns; it sees the page's elements, and not its scripts."""
        return self("WebDriver:ExecuteScript", script=script, args=list(arguments))["value"]

    def wait(self, expression: str) -> Any:
        """The value of an expression of JavaScript as soon as it is true."""
        started = time.monotonic()
        while time.monotonic() - started < 30:
            if value := self.run(f"return {expression}"):
                return value
            time.sleep(0.05)
        raise AssertionError(f"it never became true: {expression}")

    def point(self, kind: str, selector: str, x: float, y: float, press: bool = True) -> None:
        """Move a ``mouse`` or a finger (``touch``) over an element, (x, y) from its corner, and press there."""
        box = self.run(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.x, b.y]", selector
        )
        actions: list[dict[str, Any]] = [
            {"type": "pointerMove", "duration": 0, "x": round(box[0] + x), "y": round(box[1] + y)}
        ]
        if press:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": actions}
        self("WebDriver:PerformActions", actions=[pointer])

    def type(self, selector: str, text: str) -> None:
        """Keys to an element."""
        element = self("WebDriver:FindElement", using="css selector", value=selector)["value"][ELEMENT]
        self("WebDriver:ElementSendKeys", id=element, text=text)

    def close(self) -> None:
        """End the process."""
        try:
            self("Marionette:Quit", flags=["eForceQuit"])
            self._process.wait(30)
        except (OSError, ValueError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._stream.close()
        self._socket.close()


@pytest.fixture(scope="session")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    """One Firefox for all tests; they are skipped where there is none."""
    if (path := executable()) is None:
        pytest.skip("Firefox is not installed (apt-get install firefox-esr; MOEBENCH_FIREFOX names one)")
    browser = Firefox(path, tmp_path_factory.mktemp("firefox"))
    yield browser
    browser.close()
