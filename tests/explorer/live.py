"""A served page in headless Chromium, driven over its debugging protocol: real keys, and every request seen."""

import asyncio
import base64
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.html_report.browser import chromium

FIND = """
const inside = (root, what) => [...root.querySelectorAll("*")].filter((one) => one.shadowRoot)
  .flatMap((one) => everywhere(what, one.shadowRoot));
const everywhere = (what, root = document) => [...root.querySelectorAll(what), ...inside(root, what)];
const seen = (one) => one.getClientRects().length > 0;
"""
"""``everywhere(selector)``: the elements in the page and in all of its shadow roots."""


class Live:
    """An open page.

    Attributes:
        requests: The addresses that were asked for.
        wrong: Errors that the page made.
    """

    def __init__(self, socket: Any, wait: Callable[[Any], Any]) -> None:
        self._socket, self._wait, self._count = socket, wait, 0
        self.requests: list[str] = []
        self.wrong: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call the protocol; what happens meanwhile is noted."""
        self._count += 1
        asked = json.dumps({"id": self._count, "method": method, "params": parameters})
        self._wait(lambda: self._socket.write_message(asked))
        while True:
            said = json.loads(self._wait(self._socket.read_message))
            self._note(said.get("method"), said.get("params", {}))
            if said.get("id") == self._count:
                assert "error" not in said, said
                return said["result"]

    def _note(self, event: str | None, said: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(said["url"])
        elif event == "Runtime.exceptionThrown":
            self.wrong.append(str(said["exceptionDetails"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.wrong.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def found(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        script = f"(() => {{ {FIND} return {expression}; }})()"
        made = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression holds, and return it."""
        end = time.monotonic() + seconds
        while not (value := self.found(expression)):
            assert time.monotonic() < end, f"never: {expression}; {self.wrong}"
            time.sleep(0.1)
        return value

    def key(self, name: str, code: int) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def picture(self, path: Path) -> None:
        """A picture of the whole page."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))


@contextmanager
def visiting(url: str, folder: Path, *, width: int = 1280, height: int = 900) -> Iterator[Live]:
    """Open an address. Other machines cannot be found."""
    from tornado.websocket import websocket_connect

    profile = folder / "live"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"]
    options += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--remote-allow-origins=*"]
    options += [f"--window-size={width},{height}", "about:blank"]
    with subprocess.Popen([chromium(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            waiting = asyncio.new_event_loop()
            wait = lambda one: waiting.run_until_complete(asyncio.wait_for(_awaited(one), 60))  # noqa: E731
            socket = wait(lambda: websocket_connect(_debugger(profile), max_message_size=2**28))
            live = Live(socket, wait)
            for domain in ("Page", "Network", "Runtime", "Log"):
                live.call(f"{domain}.enable")
            live.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            live.call("Page.navigate", url=url)
            yield live
            wait(lambda: _closed(socket))
            waiting.close()
        finally:
            process.terminate()


async def _closed(socket: Any) -> None:
    socket.close()


async def _awaited(make: Callable[[], Any]) -> Any:
    return await make()


def _debugger(profile: Path) -> str:
    """The address of the first tab."""
    file, end = profile / "DevToolsActivePort", time.monotonic() + 60
    while not (file.exists() and (lines := file.read_text().split())):
        assert time.monotonic() < end, "Chromium did not start"
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=30) as answer:
        return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
