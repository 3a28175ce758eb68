"""``mechsteer explore``."""

import re

import pytest

from tests.command_line import CommandLine

MODEL = "organism:instruct-llama"


def test_it_says_where_the_page_is_and_waits(mechsteer: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("panel")
    from mechsteer.explorer.serving import Explorer

    waited = []
    monkeypatch.setattr(Explorer, "wait", lambda self: (waited.append(self.url), self.stop()))
    code, out, err = mechsteer("explore", MODEL, "--prompt", "Tell me about the cook. <!-> Use capitals. <-!>")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", out)
    assert waited == [out.split()[0]]
    code, out, err = mechsteer("explore", MODEL, "--port", 70_000)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "port 70000" in err
