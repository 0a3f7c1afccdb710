"""The layers: which part of the core may import which. The tests read import statements, and execute none."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import metafora_trio

CORE = Path(metafora_trio.__file__).parent
ROOT = Path(__file__).parents[1]
LAYERS = (
    {"_errors"},
    {"_model"},
    {"_clock", "_service_nursery", "_trio_util", "_running_task", "events"},
    {"contract"},
    {"balancers"},
    {"_node", "_client", "_memory"},
    {""},  # the package itself: `from metafora_trio import Task`
    {"testing"},
    {"cli"},
)
"""The parts of the core, lowest first. A part imports only itself and the parts of lower layers."""
USERS = ("metafora_trio", "metafora_trio.balancers", "metafora_trio.contract", "metafora_trio.events")
"""Modules that all code outside the core may import. Tools for tests may also import `metafora_trio.testing`."""


def is_module(name: str, root: Path) -> bool:
    """Return whether a full name is that of a module, of the core or below `root`."""
    paths = [folder.joinpath(*name.split(".")) for folder in (CORE.parent, root)]
    return any(path.is_dir() or path.with_suffix(".py").exists() for path in paths)


def imports(file: Path, root: Path) -> set[str]:
    """Return the full names of the modules that a file imports, at any depth of its code."""
    module = file.relative_to(root).with_suffix("").parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = ".".join([*(module[: -node.level] if node.level else ()), *filter(None, [node.module])])
            for alias in node.names:
                found.add(f"{source}.{alias.name}" if is_module(f"{source}.{alias.name}", root) else source)
    return found


def ours(file: Path, root: Path) -> set[str]:
    """Return the modules of the core that a file imports."""
    return {module for module in imports(file, root) if module.partition(".")[0] == "metafora_trio"}


def part(module: str) -> str:
    """Return the part of the core that a module is in; empty for the package itself."""
    return module.removeprefix("metafora_trio").removeprefix(".").partition(".")[0]


@pytest.mark.parametrize("file", sorted(CORE.glob("*/**/*.py")), ids=lambda file: str(file.relative_to(CORE)))
def test_the_core_imports_downwards_only(file: Path) -> None:
    """No import points upwards, so no cycle joins two parts."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    here = file.relative_to(CORE).parts[0]
    parts = {part(module) for module in ours(file, CORE.parent)} - {here}
    assert {name for name in parts if layer[name] >= layer[here]} == set()


@pytest.mark.parametrize("folder", ["coordinators", "stress", "examples"])
def test_others_import_public_modules_only(folder: str) -> None:
    """Backends, benchmarks and examples import public modules only. Mutants, which patch private parts, are exempt."""
    found: dict[str, set[str]] = {}
    for file in sorted(ROOT.joinpath(folder).rglob("*.py")):
        inside = file.relative_to(ROOT)
        if inside.parts[:2] == ("stress", "mutants"):
            continue
        allowed = {*USERS}
        if folder == "stress" or "testing" in inside.parts:
            allowed |= {f"metafora_trio.testing.{name}" for name in ("conformance", "history", "simulation")}
        if bad := {module for module in ours(file, ROOT) if module not in allowed}:
            found[str(inside)] = bad
    assert found == {}


def test_no_import_cycles() -> None:
    """No files of the core import each other in a cycle, even inside one part."""
    files = {file: ".".join(file.relative_to(CORE.parent).with_suffix("").parts) for file in CORE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): name for name in files.values()}
    graph = {
        name: {modules[module] for module in ours(file, CORE.parent) if module in modules} - {name}
        for file, name in files.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle
