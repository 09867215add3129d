"""What holds for the source tree as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "hatchway"
MAX_LINES = 400
# Files that may be longer, each with its reason. Splitting is better.
LONGER_FILES: dict[str, str] = {}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common"}


def sources(*folders: str) -> list[Path]:
    suffixes = {".py", ".pyi", ".cpp", ".hpp", ".h", ".c"}
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    )


def test_no_source_file_is_longer_than_one_sitting() -> None:
    too_long = {}
    for path in sources("src", "native", "tests", "benchmarks", "tools", "examples"):
        name = path.relative_to(ROOT).as_posix()
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_LINES and name not in LONGER_FILES:
            too_long[name] = num_lines
    assert not too_long, f"more than {MAX_LINES} lines; split by idea: {too_long}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [
        path.relative_to(ROOT).as_posix()
        for path in sources("src", "native", "tests", "benchmarks", "tools")
        if VAGUE_NAMES & {path.stem, path.parent.name}
    ]
    assert not vague, f"name each after its one idea: {vague}"


def torch_imports(tree: ast.AST) -> list[tuple[int, bool]]:
    """Return (line, whether it runs when the module is imported) of each torch import."""
    found: list[tuple[int, bool]] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.level == 0:
                names = [child.module or ""]
            found.extend(
                (child.lineno, at_import) for name in names if name.split(".")[0] == "torch"
            )
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing_only = isinstance(child, ast.If) and ast.unparse(child.test) in (
                "TYPE_CHECKING",
                "typing.TYPE_CHECKING",
            )
            visit(child, at_import and not deferred and not typing_only)

    visit(tree, True)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch", [(1, True)]),
        ("from torch.utils import data", [(1, True)]),
        ("def f():\n    import torch.cuda", [(2, False)]),
        ("if TYPE_CHECKING:\n    import torch", [(2, False)]),
        ("class C:\n    import torch", [(2, True)]),
        ("import torchlike\nfrom .torch import x", []),
    ],
)
def test_the_import_scan_sees_when_torch_is_imported(
    source: str, expected: list[tuple[int, bool]]
) -> None:
    assert torch_imports(ast.parse(source)) == expected


def test_only_the_loader_imports_torch_and_the_command_line_only_late() -> None:
    wrong = []
    for path in sources("src"):
        parts = path.relative_to(SOURCES).parts
        for line, at_import in torch_imports(ast.parse(path.read_text(encoding="utf-8"))):
            # The demo's modules define models, so they need torch to exist; that
            # its entry imports them late is what the test below proves.
            late = parts[0] == "cli" and (not at_import or parts[1] == "demo")
            if parts[0] != "loader" and not late:
                wrong.append(f"{path.relative_to(ROOT).as_posix()}:{line}")
    assert not wrong, f"torch belongs to hatchway.loader: {wrong}"


@pytest.mark.parametrize(
    "module",
    [
        "hatchway",
        "hatchway.base",
        "hatchway.cli",
        "hatchway.cli.demo",
        "hatchway.cli.doctor",
        "hatchway.cli.simulate.report",
        "hatchway.disk",
        "hatchway.loader.machine",
        "hatchway.loader.simulator",
        "hatchway.checkpoint",
        "hatchway.memory",
    ],
)
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
