"""The explorer's page: its controls make the setting, nothing comes from elsewhere, and a slider changes the answer."""

import asyncio
import html
import importlib.util
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.explorer.desk import Desk
from mechsteer.explorer.methods import CONTROLS
from mechsteer.explorer.setting import Setting
from tests.explorer.live import visiting

TEXT = "Tell me about the writer. <!-> Use only uppercase letters. <-!>"


@pytest.fixture(scope="module")
def explorer(instruct_llama: Any) -> Iterator[Any]:
    pytest.importorskip("panel")
    made = ms.explore(instruct_llama, TEXT)
    yield made
    made.stop()


def test_without_the_extra_it_says_what_to_install(instruct_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "panel" else usual(name))
    with pytest.raises(ms.MechsteerError, match=r'pip install "mechsteer\[explore\]"'):
        ms.explore(instruct_llama)


def test_the_controls_make_the_setting(instruct_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("panel")
    from mechsteer.explorer.page import Page

    monkeypatch.setattr(Desk, "answers", lambda self, setting: iter(()))

    async def moved() -> None:
        page = Page(Desk(instruct_llama), Setting(TEXT), threading.Lock())
        chat = page.setting().chat
        assert page.setting() == Setting(TEXT, "guide", 1.0, None, chat=chat)
        page.range.value = (1, 2)
        page.strengths["guide"].value = 2.5
        page.attention.value = True
        page.tokens.value = 25
        page.text.value = "<!-> x <-!> y"
        assert page.setting() == Setting("<!-> x <-!> y", "guide", 2.5, (1, 2), True, 25, chat)
        page.method.value = "random"
        page.layer.value = 3
        assert page.setting().layers == (3,)
        assert [name for name, slider in page.strengths.items() if slider.visible] == ["random"]
        assert page.layer.visible and not page.range.visible
        page.method.value = "directer"
        assert page.setting().layers is None
        assert not page.layer.visible and not page.range.visible
        assert "vector" not in page.strengths, "no direction was given"
        assert set(page.strengths) == {*CONTROLS} - {"vector"}

    asyncio.run(moved())


def test_it_listens_to_this_machine_alone(explorer: Any, instruct_llama: Any) -> None:
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", explorer.url)[1])
    with pytest.raises(ms.MechsteerError, match=f"cannot listen at 127.0.0.1, port {port}"):
        ms.explore(instruct_llama, TEXT, port=port)
    with socket.socket() as other:
        other.settimeout(5)
        with pytest.raises(OSError):
            other.connect(("127.0.0.2", port))


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/passwd",
        "gradio_api/file=/etc/passwd",
        "etc/passwd",
        "static/../../../../../../../etc/passwd",
        "static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "static//etc/passwd",
        "static/extensions/panel/../../../../../../../../../etc/passwd",
        "static/extensions/panel/%2e%2e/%2e%2e/%2e%2e/pyproject.toml",
        "components/this/x/css/y",
        "components/os/path/css/etc/passwd",
        "admin",
        "rest",
    ],
)
def test_no_file_can_be_had(explorer: Any, path: str) -> None:
    assert status(explorer.url + path) in (400, 403, 404)


def test_the_pages_of_others_may_not_talk_to_it(explorer: Any) -> None:
    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.websocket import websocket_connect

    async def ask() -> None:
        address = explorer.url.replace("http:", "ws:") + "ws"
        await websocket_connect(HTTPRequest(address, headers={"Origin": "http://elsewhere.example"}))

    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(ask())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": ""}, r"needs an address to listen at.*host=''"),
        ({"host": "ü" * 80}, r"cannot listen at ü+, port 0: .*[^.]\. Give another"),
        ({"port": "5006"}, "cannot listen at 127.0.0.1, port 5006"),
        ({"port": 70000}, r"port 70000: .*[^.]\. Give another"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(instruct_llama: Any, given: dict[str, Any], said: str) -> None:
    pytest.importorskip("panel")
    with pytest.raises(ms.MechsteerError, match=said):
        ms.explore(instruct_llama, TEXT, **given)


def test_a_notebook_shows_it_inline(explorer: Any) -> None:
    assert f'<iframe src="{explorer.url}"' in explorer._repr_html_()


ANSWER = 'everywhere(".answer").map((one) => one.textContent)'
HANDLE = 'everywhere(".noUi-handle").filter(seen)'


def plain(content: str) -> str:
    """What can be read of it."""
    return html.unescape(re.sub(r"<[^>]*>", "", content))


def test_a_slider_changes_the_answer_and_nothing_leaves_the_machine(
    explorer: Any, instruct_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    usual = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: asked.append(to) or usual(self, to))
    first, last = (dict(Desk(instruct_llama).answers(Setting(TEXT, "guide", delta))) for delta in (1.0, 6.0))
    assert plain(first["steered"]) != plain(last["steered"])
    with visiting(explorer.url, tmp_path) as live:
        live.until(f"({ANSWER})[1] == {json.dumps(plain(first['steered']))} && everywhere('img').length")
        live.found(f"({HANDLE})[0].focus()")
        live.key("End", 35)  # the first slider is GUIDE's, and 6 is its largest delta
        live.until(f"({ANSWER})[1] == {json.dumps(plain(last['steered']))}")
        assert live.found(ANSWER) == [plain(last["unsteered"]), plain(last["steered"])]
        assert "delta=6.0" in live.found('everywhere("pre")[0].textContent')
        assert live.found("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
    assert not live.wrong
    own = explorer.url.removeprefix("http:")
    outside = [url for url in live.requests if not re.sub("^(http|ws):", "", url).startswith((own, "data:", "blob:"))]
    assert not outside
    assert [to for to in asked if to[0] not in ("127.0.0.1", "localhost", "::1")] == []
