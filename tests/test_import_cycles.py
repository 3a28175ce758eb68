"""No module imports itself by way of others, imports inside functions counted; for type checkers alone they do not."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mechsteer

PACKAGE = Path(mechsteer.__file__).parent
FACADES = {f"mechsteer.{name}" for name in ("activations.store", "directions.direction", "steering.intervention")}
"""Their classes have methods that stand in modules of their own; a comment there says so. What these methods import
when they are called does not count."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST, *, lazy: bool = True) -> Iterator[tuple[str, str]]:
    """Module and name (empty for all of it) of each import, but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and not lazy:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        else:
            yield from imports(node, lazy=lazy)


def imported(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a module imports: of ``from folder import name`` the module, if it is one."""
    name, found = name_of(path), set()
    for module, what in imports(ast.parse(path.read_text(encoding="utf-8")), lazy=name not in FACADES):
        inner = f"{module}.{what}"
        found.add(inner if inner in modules else module)
    return (found & modules) - {name, "mechsteer"}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach one another, in groups (Tarjan's strongly connected components of two or more)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in path:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            group = path[path.index(node) :]
            del path[path.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def test_no_module_of_the_package_imports_itself_by_way_of_others() -> None:
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: imported(path, set(paths)) for name, path in paths.items()}
    assert sum(map(len, graph.values())) > 1000  # it sees them
    assert cycles(graph) == []


def test_a_cycle_is_seen_whatever_its_length() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_lazy_imports_count_and_those_for_types_do_not() -> None:
    text = "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from d import e, g\n"
    assert list(imports(ast.parse(text))) == [("a.b", ""), ("d", "e"), ("d", "g")]
    assert list(imports(ast.parse(text), lazy=False)) == [("a.b", "")]


def test_a_facade_says_why_it_imports_late() -> None:
    for name in FACADES:
        text = (PACKAGE.parent / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert "which need this one: they are imported when they are called." in text
