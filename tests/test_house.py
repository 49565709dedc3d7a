"""The house bar: sizes, documentation, annotations, and what no file may hold."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE, MAX_FUNCTION, MAX_KERNEL = 400, 60, 80
DOCUMENTED = 0.95
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
TEXT = {".py", ".md", ".toml", ".txt", ".1", ".sh", ".yml", ".json"}
LOOSE_ENDS = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
UNLINKED = re.compile(rf"\b(?:{'|'.join(LOOSE_ENDS)})\b(?!.*https?://)")
MACHINE_PATH = re.compile(r"(?<![\w.\-~/])/(?:work|root|home)/[\w.]")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def own_files(*places: str) -> list[Path]:
    """The files under the places, links not followed, without what tools leave behind."""
    found = []
    for place in places:
        for path in sorted((ROOT / place).rglob("*")):
            linked = any(parent.is_symlink() for parent in path.parents)
            if path.is_file() and not linked and "__pycache__" not in path.parts:
                found.append(path)
    return found


SOURCES = [path for path in own_files("llmsys", "cli", "gpu", "man") if path.suffix == ".py"]
PYTHON = SOURCES + [path for path in own_files("tests") if path.suffix == ".py"]
TEXTS = [path for path in own_files("llmsys", "cli", "gpu", "man", "tests", "fixtures") if path.suffix in TEXT]
TEXTS += [path for path in sorted(ROOT.iterdir()) if path.suffix in TEXT or path.name == "Makefile"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, Function)]


def is_kernel(function: Function) -> bool:
    """Whether Triton compiles it: its arguments are pointers and numbers that Triton types by itself."""
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_has_at_most_60_lines_and_a_kernel_80(path):
    sizes = {
        node.name: (node.end_lineno - node.lineno + 1, MAX_KERNEL if is_kernel(node) else MAX_FUNCTION)
        for node in functions(path)
    }

    assert {name: size for name, (size, bar) in sizes.items() if size > bar} == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_opens_with_a_docstring(path):
    assert ast.get_docstring(parsed(path))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_named_for_one_idea(path):
    assert path.stem.strip("_") not in VAGUE


def test_public_functions_and_classes_are_documented():
    bare, public = [], 0
    for path in SOURCES:
        for node in parsed(path).body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                public += 1
                if not ast.get_docstring(node):
                    bare.append(f"{name_of(path)}:{node.lineno} {node.name}")

    assert public > 0
    assert len(bare) <= (1 - DOCUMENTED) * public, bare


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_parameter_and_result_is_annotated(path):
    missing = []
    for node in functions(path):
        if is_kernel(node):
            continue
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        given += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
        missing += [f"{node.name}({one.arg})" for one in given if not one.annotation and one.arg not in ("self", "cls")]
        if node.returns is None:
            missing.append(f"{node.name} ->")

    assert missing == []


@pytest.mark.parametrize("path", [path for path in SOURCES if "cli" not in path.parts[-2:]], ids=name_of)
def test_nothing_prints_outside_cli(path):
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]

    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"] == []


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_except_is_bare_and_none_swallows_everything(path):
    def swallows(node: ast.ExceptHandler) -> bool:
        broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        return node.type is None or (broad and all(isinstance(line, ast.Pass) for line in node.body))

    handlers = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ExceptHandler)]

    assert [handler.lineno for handler in handlers if swallows(handler)] == []


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_a_text_holds_no_loose_end_and_no_path_of_a_machine(path):
    lines = path.read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if UNLINKED.search(line) or MACHINE_PATH.search(line)] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"x = 1  # {LOOSE_ENDS[0]} tidy", True),
        (f"x = 1  # {LOOSE_ENDS[0]} https://example.org/issues/1", False),
        ("open('/" + "work/data')", True),
        ("see /" + "root/.cache", True),
        ("a/work/b and ./home/x and https://example.org/home/x", False),
    ],
)
def test_the_patterns_find_what_they_are_for(line, found):
    assert bool(UNLINKED.search(line) or MACHINE_PATH.search(line)) == found
