"""Builds the documentation site: ``make docs``, or ``.venv/bin/python -m docs.build OUT``.

The pages are the repository's own Markdown, in the same places, so that every link works on GitHub and in the site;
the reference is made from the docstrings of the public names. A dead link, or an anchor that is not there, fails.
"""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mechsteer import _HOMES

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "data/**/*.md")
LINK = re.compile(r"\]\(([^)#\s]+)")
INTRODUCTION = """# Reference

Everything here is `ms.NAME` after `import mechsteer as ms`. Names in examples: `model`, `prompt`, `prompts` (marked),
`task`, `pairs` (with the instruction and without), `direction`; `t5` and `traps`. The tests run them.
"""
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Warns|Example):$", re.MULTILINE)
ENTRY = re.compile(r"^(\*{0,2}\w[\w., ]*): ", re.MULTILINE)


def reference() -> str:
    """The page of all public names, by the part of the package that they are from."""
    parts = [INTRODUCTION]
    for home, names in _HOMES.items():
        module = importlib.import_module(f"mechsteer.{home}")
        parts.append(f"## mechsteer.{home}\n")
        parts += [entry(name, getattr(module, name)) for name in sorted(names, key=str.lower)]
    return "\n".join(parts)


def entry(name: str, value: object) -> str:
    """A public name: how it is called, and its docstring; of a class also the methods'."""
    text = f"### {name}\n\n```python\n{signature(name, value)}\n```\n\n{markdown(inspect.getdoc(value) or '')}\n"
    for method, function in vars(value).items() if inspect.isclass(value) else ():
        plain = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        if not method.startswith("_") and (doc := inspect.getdoc(plain)):
            called = signature(f".{method}", plain) if callable(plain) else f".{method}"
            text += f"\n**`{called}`**\n\n{markdown(doc)}\n"
    return text


def signature(name: str, value: object) -> str:
    """The arguments with their defaults, without types, which the text says."""
    try:
        given = inspect.signature(value) if callable(value) else None
    except ValueError:
        given = None
    if given is None or (inspect.isclass(value) and issubclass(value, Exception)):
        return name
    kept = [one.replace(annotation=one.empty) for one in given.parameters.values() if one.name not in ("self", "cls")]
    return f"{name}{given.replace(parameters=kept, return_annotation=given.empty)}"


def markdown(doc: str) -> str:
    """A docstring in Google's style as Markdown: sections are lists, roles are code."""
    doc = re.sub(r":\w+:`~?(?:mechsteer\.)?([^`]*)`", r"`\1`", doc).replace("``", "`").replace("::\n", ":\n")
    before, *rest = SECTION.split(doc)
    made = [before.rstrip()]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        text = inspect.cleandoc(body)
        if title == "Example":
            made.append(f"```pycon\n{text}\n```")
        else:
            items = re.sub(r"\n +", " ", text)
            made.append(f"**{title}**\n\n{ENTRY.sub(lambda found: f'- `{found[1]}`: ', items)}")
    return "\n\n".join(made)


def lay(folder: Path) -> None:
    """Copy the pages and the files that they link to, and write the reference."""
    pages = [path for pattern in PAGES for path in ROOT.glob(pattern)]
    linked = [page.parent / target for page in pages for target in LINK.findall(page.read_text(encoding="utf-8"))]
    for path in {path.resolve() for path in (*pages, *linked)}:
        if path.is_file() and path.is_relative_to(ROOT):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (folder / "docs" / "reference.md").write_text(reference(), encoding="utf-8")


def with_all_pages(config: str) -> str:
    """The configuration, whose navigation is its last part, with the pages that it does not name at the end."""
    pages = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    more = [page for page in pages if f": {page}\n" not in config]
    return config + "".join(["  - More:\n", *(f"      - {page}\n" for page in more)] if more else [])


def made(place: Path) -> subprocess.CompletedProcess[str]:
    """Build ``place/pages``, into ``place/site``; what the builder says of dead links is in its output."""
    config = f"docs_dir: pages\nsite_dir: site\n{with_all_pages((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))}"
    (place / "mkdocs.yml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=place, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def build(out: Path) -> int:
    """Build the site into a folder; 0 if there was nothing to complain about."""
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder) / "pages")
        done = made(Path(folder))
        if done.returncode:
            print(done.stdout)
        else:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(Path(folder) / "site", out)
            print(f"The site is {out}/index.html.")
    return done.returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
