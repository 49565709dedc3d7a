"""Every module says in a sorted `__all__` what it offers; a package's `__init__.py` holds nothing else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path
    for package in ("llmsys", "cli", "gpu")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py" and not any(parent.is_symlink() for parent in path.parents)
)
PACKAGES = [path for path in MODULES if path.name == "__init__.py"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def exports(tree: ast.Module) -> list[str] | None:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return ast.literal_eval(value)
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                return ast.literal_eval(value)
    return None


def bound_names(tree: ast.Module) -> set[str]:
    """The names that a module's top level binds, those under `if` and `try` included."""
    names: set[str] = set()
    pending = list(tree.body)
    while pending:
        statement = pending.pop()
        match statement:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.If() | ast.Try() | ast.With():
                pending.extend(child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt))
                pending.extend(inner for handler in getattr(statement, "handlers", []) for inner in handler.body)
    return names


def by_kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each in alphabetical order: ruff's RUF022."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_lists_what_it_offers_in_order(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = exports(tree)

    assert listed is not None, "no __all__"
    assert listed == sorted(set(listed), key=by_kind)
    assert set(listed) <= bound_names(tree) | {"__version__"}


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_offers_exactly_its_public_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = {name for name in bound_names(tree) if not name.startswith("_")}

    assert {name for name in exports(tree) or [] if name != "__version__"} == public


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_init_holds_no_logic(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)

    assert [type(statement).__name__ for statement in tree.body if not isinstance(statement, allowed)] == []
