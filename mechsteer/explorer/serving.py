"""The explorer's server: this machine alone, unless told; no files, and nothing from elsewhere."""

import asyncio
import html
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from panel.io.server import get_server
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

from mechsteer.errors import MechsteerError, shown

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(RequestHandler):
    """Panel's own route imports any module that a request names; nothing of the explorer comes from there."""

    def get(self, *path: str) -> None:
        """Say no."""
        self.send_error(403)


@dataclass
class Explorer:
    """A running explorer.

    Attributes:
        url: Where it is.

    Example:
        >>> explorer = ms.explore(model, "Tell me about the writer. <!-> Use only uppercase letters. <-!>")
        >>> explorer.url.startswith("http://127.0.0.1:")
        >>> explorer.stop()
    """

    url: str
    _loop: Any = field(repr=False)
    _thread: threading.Thread = field(repr=False)

    def stop(self) -> None:
        """End the server, once the step that is being computed is done; a second time does nothing."""
        if self._thread.is_alive():
            self._loop.add_callback(self._loop.stop)
            self._thread.join()

    def wait(self) -> None:
        """Wait until it is stopped, or for Ctrl-C, which stops it."""
        try:
            while self._thread.is_alive():
                self._thread.join(timeout=0.5)
        finally:
            self.stop()

    def _repr_html_(self) -> str:
        url = html.escape(self.url)
        frame = f'<iframe src="{url}" style="width:100%;height:900px;border:0" title="Explorer"></iframe>'
        return f'<p>Explorer at <a href="{url}" target="_blank" rel="noopener">{url}</a></p>{frame}'


def _had(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        MechsteerError: if it cannot be had, or there is no address.
    """
    if not isinstance(host, str) or not host.strip():  # to the system, no address is every address
        raise MechsteerError(f"The explorer needs an address to listen at, e.g. '127.0.0.1', got host={shown(host)}.")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except (OSError, OverflowError, TypeError, ValueError) as error:  # the last of a name that can be no host's
            reason = str(error).rstrip(".")
            raise MechsteerError(
                f"The explorer cannot listen at {host}, port {port}: {reason}. Give another port=, or 0 for a free one."
            ) from None
        return trial.getsockname()[1]


async def _finished() -> None:
    """End what is waiting, and wait for the step that is being computed: after it the model has no hooks."""
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


def _origins(host: str, port: int) -> list[str]:
    """The pages that may talk to the server: its own, by the names it has; any, where it has others."""
    if host in LOOPBACK:
        return [f"127.0.0.1:{port}", f"localhost:{port}"]
    return ["*"] if host == "0.0.0.0" or ":" in host else [f"{host}:{port}"]


def serve(page: Callable[[], Any], host: str, port: int, title: str) -> Explorer:
    """Serve a page from a thread of its own.

    Args:
        page: Makes the page of a visitor.
        host: The address to listen at.
        port: The port; 0 for a free one.
        title: The page's title.

    Raises:
        MechsteerError: if the address cannot be had.
    """
    port, ready, loops = _had(host, port), threading.Event(), []

    def run() -> None:
        asyncio.set_event_loop(own := asyncio.new_event_loop())
        loops.append(loop := IOLoop.current())
        server = get_server(
            page,
            port=port,
            address=host,
            websocket_origin=_origins(host, port),
            title=title,
            show=False,
            start=False,
            verbose=False,
            extra_patterns=[(r"/components/(.*)", Refused)],
        )
        server.start()
        loop.add_callback(ready.set)
        loop.start()
        server.stop()
        own.run_until_complete(_finished())
        loop.close(all_fds=True)

    thread = threading.Thread(target=run, name="explorer", daemon=True)
    thread.start()
    while not ready.wait(0.5):
        if not thread.is_alive():
            raise MechsteerError(
                f"The explorer could not be served at {host}, port {port}; its thread's error is above."
            )
    name = "localhost" if host == "::1" else f"[{host}]" if ":" in host else host
    return Explorer(f"http://{name}:{port}/", loops[0], thread)
