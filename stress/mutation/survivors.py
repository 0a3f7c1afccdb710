"""The mutants that no test notices, and those of them that are accepted, each with a reason (`accepted.toml`)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ACCEPTED", "Survivor", "compare", "load_accepted"]

ACCEPTED = Path(__file__).with_name("accepted.toml")


@dataclass(frozen=True, slots=True, order=True)
class Survivor:
    """A mutant that survived, named so that it is still recognized after other lines of the module have changed.

    Attributes:
        module: the file, relative to the checkout.
        function: the function that was mutated; empty outside of functions.
        before: the lines that the mutation removed, without indentation.
        after: the lines that it put there.
    """

    module: str
    function: str
    before: str
    after: str

    @classmethod
    def from_diff(cls, module: str, function: str | None, diff: str) -> Survivor:
        """Make one from the unified diff of a mutation."""
        changes = [line for line in diff.splitlines() if line[:3] not in ("---", "+++")]
        removed, added = (
            " ".join(line[1:].strip() for line in changes if line.startswith(sign)).strip() for sign in "-+"
        )
        return cls(module, function or "", removed, added)

    def as_toml(self) -> str:
        """Return an entry for `accepted.toml`, without its reason."""
        fields = {"module": self.module, "function": self.function, "before": self.before, "after": self.after}
        return "\n".join(["[[accepted]]", *(f"{key} = {json.dumps(value)}" for key, value in fields.items())])


def load_accepted(path: Path = ACCEPTED) -> dict[Survivor, str]:
    """Return the accepted survivors with their reasons.

    Raises:
        ValueError: an entry has no reason, or is there twice.
    """
    accepted: dict[Survivor, str] = {}
    for entry in tomllib.loads(path.read_text()).get("accepted", []):
        reason = entry.pop("reason", "").strip()
        survivor = Survivor(**entry)
        if not reason:
            raise ValueError(f"{path.name}: no reason for\n{survivor.as_toml()}")
        if survivor in accepted:
            raise ValueError(f"{path.name}: twice\n{survivor.as_toml()}")
        accepted[survivor] = reason
    return accepted


def compare(
    found: Iterable[Survivor], accepted: Mapping[Survivor, str], modules: Iterable[str]
) -> tuple[list[Survivor], list[Survivor]]:
    """Compare the survivors of a run with the accepted ones of the modules that it mutated.

    Returns:
        The survivors that are not accepted, and the accepted ones that did not survive.
    """
    found, modules = set(found), set(modules)
    expected = {survivor for survivor in accepted if survivor.module in modules}
    return sorted(found - expected), sorted(expected - found)
