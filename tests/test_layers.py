"""The layers: which room may import which. The tests read import statements; they import nothing of what they check."""

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
"""The rooms of the core, lowest first. A room imports only itself and the rooms of lower layers."""
USERS = ("metafora_trio", "metafora_trio.balancers", "metafora_trio.contract", "metafora_trio.events")
"""What everything outside the core may import; besides, tools for tests may import `metafora_trio.testing`."""


def is_module(name: str, root: Path) -> bool:
    """Whether a full name is that of a module, of the core or below `root`."""
    paths = [folder.joinpath(*name.split(".")) for folder in (CORE.parent, root)]
    return any(path.is_dir() or path.with_suffix(".py").exists() for path in paths)


def imports(file: Path, root: Path) -> set[str]:
    """The modules that a file imports, at any depth of its code, by their full names."""
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
    """The modules of the core that a file imports."""
    return {module for module in imports(file, root) if module.partition(".")[0] == "metafora_trio"}


def room(module: str) -> str:
    """The room of the core that a module is in; empty for the package itself."""
    return module.removeprefix("metafora_trio").removeprefix(".").partition(".")[0]


@pytest.mark.parametrize("file", sorted(CORE.glob("*/**/*.py")), ids=lambda file: str(file.relative_to(CORE)))
def test_the_core_imports_downwards_only(file: Path) -> None:
    """No arrow points upwards, and so no circle joins two rooms."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    here = file.relative_to(CORE).parts[0]
    rooms = {room(module) for module in ours(file, CORE.parent)} - {here}
    assert {name for name in rooms if layer[name] >= layer[here]} == set()


@pytest.mark.parametrize("folder", ["coordinators", "stress", "examples"])
def test_others_come_in_by_the_doors(folder: str) -> None:
    """Backends, benchmarks and examples import public modules only. Mutants patch private parts: that is their job."""
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


def test_no_circles() -> None:
    """No files of the core import each other in a circle, also inside one room."""
    files = {file: ".".join(file.relative_to(CORE.parent).with_suffix("").parts) for file in CORE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): name for name in files.values()}
    graph = {
        name: {modules[module] for module in ours(file, CORE.parent) if module in modules} - {name}
        for file, name in files.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
