import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {  # what each module may import of the server, besides what comes before it
    "enums": (),
    "errors": (),
    "messages": ("enums",),
    "db": ("errors", "messages"),
    "metrics": (),
    "work": ("db", "metrics"),
    "changes": ("db",),
    "provision": ("changes", "db", "enums", "work"),
}


def imported(file: Path) -> Iterator[str]:
    """The modules a file imports, but for those that only type checkers see."""
    tree = ast.parse(file.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_imports_only_those_below_it(name: str) -> None:
    modules = {module.split(".")[1] for module in imported(ROOT / f"server/{name}.py") if module.startswith("server.")}
    assert modules <= set(LAYERS[name])


@pytest.mark.parametrize("file", sorted((ROOT / "drivers").glob("*.py")), ids=lambda file: file.stem)
def test_drivers_import_nothing_of_the_server(file: Path) -> None:
    assert not [module for module in imported(file) if module.split(".")[0] in ("server", "rest_shim")]


@pytest.mark.parametrize("file", sorted((ROOT / "rest_shim").glob("*.py")), ids=lambda file: file.stem)
def test_the_shim_knows_of_the_server_only_enums_and_errors(file: Path) -> None:
    modules = {module for module in imported(file) if module.startswith("server.")}
    assert {module.split(".")[1] for module in modules} <= {"enums", "errors"}
