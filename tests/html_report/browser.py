"""Pages in headless Chromium, by its command line alone: a script acts on the page, and what it found is read back."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

_BEFORE = """<script>window.wrong = [];
addEventListener("error", (event) => wrong.push(event.message));
addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
console.error = (...said) => wrong.push(said.join(" "));</script>"""

_AFTER = """<script type="module">
const until = async (holds) => {{
  for (let tries = 0; tries < 400 && !holds(); tries += 1) await new Promise((done) => setTimeout(done, 10));
}};
const all = (what, root = document) => [...root.querySelectorAll(what)];
const texts = (what, root = document) => all(what, root).map((one) => one.textContent);
const found = {{}};
try {{ {script} }} catch (error) {{ wrong.push(String(error)); }}
const said = document.createElement("pre");
said.id = "found-by-the-test";
said.textContent = JSON.stringify({{ found, wrong }});
document.body.append(said);
</script>"""


def chromium() -> str:
    """The browser; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return found


def visit(page: Path, script: str, *, width: int = 1280, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What a script found on a page, and all errors that the page made.

    The script fills ``found``; it has ``until``, ``all`` and ``texts``.
    """
    text = page.read_text(encoding="utf-8")
    acting = page.with_name(f"acting-{page.name}")
    head, rest = text.split("<head>", 1)
    body, end = rest.rsplit("</body>", 1)
    acting.write_text(f"{head}<head>{_BEFORE}{body}{_AFTER.format(script=script)}</body>{end}", encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}"]
    options += [f"--window-size={width},900", "--virtual-time-budget=8000", "--dump-dom"]
    options += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [chromium(), *options, acting.as_uri()], capture_output=True, text=True, timeout=100, check=False
    )
    match = re.search(r'<pre id="found-by-the-test">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    answer = json.loads(html.unescape(match[1]))
    return answer["found"], answer["wrong"]
