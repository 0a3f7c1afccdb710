"""The layers: which part of the core may import which. The tests read import statements, and execute none."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest


def folder_of(package: str) -> Path:
    """Return the folder of a package, in the checkout or installed, without importing it: kazoo may be missing."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


CORE = folder_of("metafora_trio")
ZOOKEEPER = folder_of("metafora_trio_zookeeper")
ROOT = Path(__file__).parents[1]
STRESS, EXAMPLES = ROOT / "stress", ROOT / "examples"
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

ZOOKEEPER_LAYERS = (
    {"_connection"},
    {"_connection_base", "_replies"},
    {"_layout", "_server_status"},
    {"_errors", "_plain_connection"},
    {"_namespace"},
    {"_session"},
    {"_client", "_admin", "_kazoo"},
    {"_coordinator"},
    {"_url"},
    {""},  # the package itself
    {"testing"},
)
"""The parts of the ZooKeeper package, lowest first, under the same rule."""
SEAM = {"_connection", "_connection_base"}
"""All that `_kazoo` may import from the package. It implements the seam and knows nothing about sessions."""


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


def parts(file: Path, package: Path) -> set[str]:
    """Return the parts of a package that a file imports from; empty for the package itself."""
    modules = [module.split(".") for module in imports(file, package.parent)]
    return {module[1] if module[1:] else "" for module in modules if module[0] == package.name}


def part(file: Path, package: Path) -> str:
    """Return the part of a package that a file is in; empty for the package itself."""
    return file.relative_to(package).with_suffix("").parts[0].replace("__init__", "")


def upwards(file: Path, package: Path, layers: tuple[set[str], ...]) -> set[str]:
    """Return the parts that a file imports though they are not below its own."""
    layer = {name: number for number, names in enumerate(layers) for name in names}
    here = part(file, package)
    return {name for name in parts(file, package) - {here} if layer[name] >= layer[here]}


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=lambda file: str(file.relative_to(CORE)))
def test_the_core_imports_downwards_only(file: Path) -> None:
    """No import points upwards, so no cycle joins two parts."""
    assert upwards(file, CORE, LAYERS) == set()


@pytest.mark.parametrize("file", sorted(ZOOKEEPER.rglob("*.py")), ids=lambda file: str(file.relative_to(ZOOKEEPER)))
def test_the_zookeeper_package_imports_downwards_only(file: Path) -> None:
    """The same holds in the ZooKeeper package."""
    assert upwards(file, ZOOKEEPER, ZOOKEEPER_LAYERS) == set()


def test_kazoo_is_behind_the_seam() -> None:
    """Only the coordinator imports the part with threads, when it connects. That part imports only the seam."""
    inside = sorted(ZOOKEEPER.joinpath("_kazoo").glob("*.py"))
    outside = [file for file in ZOOKEEPER.rglob("*.py") if file not in inside]
    assert {name for file in inside for name in parts(file, ZOOKEEPER)} - {"_kazoo"} == SEAM
    assert [file.name for file in outside if "_kazoo" in parts(file, ZOOKEEPER)] == ["_coordinator.py"]
    at_once = ast.parse(ZOOKEEPER.joinpath("_coordinator.py").read_text()).body
    assert not any("_kazoo" in ast.unparse(line) for line in at_once if isinstance(line, ast.Import | ast.ImportFrom))


@pytest.mark.parametrize("package", [CORE, ZOOKEEPER, STRESS], ids=lambda package: package.name)
def test_no_import_cycles(package: Path) -> None:
    """Imports for type checking and imports inside functions count."""
    graph: dict[str, set[str]] = {}
    for file in package.rglob("*.py"):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = imports(file, package.parent) - {module}
    cycle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
    assert cycle == []


@pytest.mark.parametrize("folder", [ZOOKEEPER, STRESS, EXAMPLES], ids=lambda folder: folder.name)
def test_others_import_public_modules_only(folder: Path) -> None:
    """Backends, benchmarks and examples import public modules only. Mutants, which patch private parts, are exempt."""
    for_tests = {f"metafora_trio.testing.{name}" for name in ("conformance", "history", "simulation")}
    found: dict[str, set[str]] = {}
    for file in sorted(set(folder.rglob("*.py")) - set(STRESS.glob("mutants/*.py"))):
        inside = file.relative_to(folder)
        allowed = {*USERS, *(for_tests if folder == STRESS or "testing" in inside.parts else ())}
        if bad := {module for module in ours(file, folder.parent) if module not in allowed}:
            found[str(inside)] = bad
    assert found == {}
