"""Imports go one way: a module may import only what comes before it in this list, or its own package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mechsteer

ORDER = [
    "errors",
    "checksums",
    "files",
    "running_command",
    "page_data",
    "display",
    "stats",
    "resumable",
    "tensors",
    "prompts",
    "models",
    "sources",
    "directions",
    "steering",
    "analysis",
    "decoding",
    "quality",
    "identity",
    "activations",
    "tasks",
    "evaluation_run",
    "evaluation",
    "scoring",
    "harness",
    "inspect_bridge",
    "report",
    "plots",
    "html_report",
    "studies",
    "organisms",
    "comparison",
    "diagnosis",
    "tuning",
    "explorer",
    "command",
    "cli",
]
PACKAGE = Path(mechsteer.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """The file or folder of the package that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and part for each import of mechsteer, wherever it stands: in functions and type-checking blocks too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, _, rest = alias.name.partition(".")
                if root == "mechsteer":
                    yield node.lineno, rest.partition(".")[0] or "the package itself"
        elif isinstance(node, ast.ImportFrom):
            root, _, rest = (node.module or "").partition(".")
            if root == "mechsteer" and rest:
                yield node.lineno, rest.partition(".")[0]
            elif root == "mechsteer":
                for alias in node.names:
                    if alias.name != "__version__":
                        yield node.lineno, mechsteer._HOME_OF.get(alias.name, alias.name)


def test_every_part_has_a_place() -> None:
    assert {part_of(path) for path in MODULES} - {"__main__"} <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_comes_before(path: Path) -> None:
    own = part_of(path)
    allowed = {*ORDER, own} if own == "__main__" else {*ORDER[: ORDER.index(own)], own}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [f"line {line}: {part}" for line, part in parts_imported(tree) if part not in allowed]
    assert not wrong, f"{own} comes before what it imports"


def hidden(folder: Path) -> set[str]:
    """Names that a folder's ``__init__`` defines and that a module of it takes away as soon as it is imported."""
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined & {path.stem for path in folder.iterdir()}


def test_no_module_hides_what_its_folder_defines(tmp_path: Path) -> None:
    folders = [path.parent for path in MODULES if path.name == "__init__.py"]
    assert len(folders) > 20 and {str(folder): found for folder in folders if (found := hidden(folder))} == {}
    (tmp_path / "__init__.py").write_text("def sentences(): ...\ndef words(): ...\n")
    (tmp_path / "sentences.py").touch()
    assert hidden(tmp_path) == {"sentences"}
