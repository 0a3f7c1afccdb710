"""The mutation run: which mutants mean nothing, and how its survivors are compared with the accepted ones."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from stress.mutation.command import main
from stress.mutation.meaningless import meaningless
from stress.mutation.survivors import Survivor, compare, load_accepted
from stress.mutation.targets import TARGETS

ROOT = Path(__file__).parents[2]
DIFF = """--- mutation diff ---
--- a/one.py
+++ b/one.py
@@ -1,3 +1,3 @@
 def f(x):
-    if x < 3:
+    if x <= 3:
         return x
"""
FOUND = Survivor("one.py", "f", "if x < 3:", "if x <= 3:")
OTHER = Survivor("one.py", "f", "return x", "pass")
ELSEWHERE = Survivor("two.py", "g", "return y", "pass")


def source_of(module: str) -> Path:
    """Return a module's file, in the checkout or installed, without importing it: kazoo may be missing."""
    path = Path(module.removeprefix("coordinators/"))
    spec = find_spec(path.parts[0])
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1] / path


def test_a_survivor_is_recognized_by_its_lines() -> None:
    """Its place in the module does not matter, so other changes do not make it a new one."""
    assert Survivor.from_diff("one.py", "f", DIFF) == FOUND
    assert Survivor.from_diff("one.py", "f", DIFF.replace("-1,3 +1,3", "-9,3 +9,3").replace("    if", "  if")) == FOUND


def test_new_survivors_and_those_that_are_gone() -> None:
    """Survivors that are accepted in other modules are not expected."""
    accepted = {OTHER: "a reason", ELSEWHERE: "a reason"}
    assert compare([FOUND, OTHER], accepted, ["one.py"]) == ([FOUND], [])
    assert compare([FOUND, FOUND], accepted, ["one.py"]) == ([FOUND], [OTHER])
    assert compare([], accepted, ["two.py"]) == ([], [ELSEWHERE])


def test_entries_can_be_copied_from_the_output(tmp_path: Path) -> None:
    file = tmp_path / "accepted.toml"
    file.write_text(f'{FOUND.as_toml()}\nreason = "a reason"\n\n{OTHER.as_toml()}\nreason = "another"\n')
    assert load_accepted(file) == {FOUND: "a reason", OTHER: "another"}


@pytest.mark.parametrize("text", [FOUND.as_toml(), f'{FOUND.as_toml()}\nreason = "r"\n' * 2])
def test_each_is_accepted_once_and_with_a_reason(tmp_path: Path, text: str) -> None:
    file = tmp_path / "accepted.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"no reason|twice"):
        load_accepted(file)


def test_the_accepted_ones_are_about_the_code_as_it_is() -> None:
    """An entry about a line that has been changed since must be looked at again."""
    accepted = load_accepted()
    assert accepted
    modules = {target.module for target in TARGETS.values()}
    for survivor in accepted:
        assert survivor.module in modules
        assert survivor.before in [line.strip() for line in source_of(survivor.module).read_text().splitlines()]


def test_what_is_mutated_and_by_which_tests_exists() -> None:
    for target in TARGETS.values():
        assert source_of(target.module).is_file(), target
        assert all(ROOT.joinpath(path).is_file() for path in target.tests), target


def test_parts_where_a_mutation_means_nothing() -> None:
    source = """
__all__ = ["A"]
@dataclass(frozen=True)
class A:
    x: int | None = 3
    y: int = field(default=4, repr=False)
def f(a: int | str = 5) -> int | None:
    z: int = 6
    return a if a is None else 7
"""
    lines = source.splitlines()
    found = {lines[start[0] - 1][start[1] : end[1]] for start, end in meaningless(source)}
    assert found == {'["A"]', "True", "int | None", "int", "False", "int | str"}


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["nothing"])
    assert exit.value.code == 2
    assert "no module nothing" in capsys.readouterr().err
