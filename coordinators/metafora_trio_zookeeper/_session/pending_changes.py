"""PendingChanges: what has changed in a view since its user last looked."""

from __future__ import annotations

from metafora_trio.contract import AsyncBool, Changes

__all__ = ["PendingChanges"]


class PendingChanges:
    """Gathers changes until they are taken."""

    def __init__(self) -> None:
        self._changes = Changes()
        self._changed = AsyncBool()

    async def wait_changed(self) -> None:
        """Wait until `take_changes` would return something. A checkpoint; loses nothing when cancelled."""
        await self._changed.wait_value(True)

    def take_changes(self) -> Changes:
        """Return the changes since the last call."""
        changes, self._changes = self._changes, Changes()
        self._changed.value = False
        return changes

    def touch(self, task: str) -> None:
        """Report a task as changed."""
        self._changes.tasks[task] = None
        self._changed.value = True

    def touch_nodes(self) -> None:
        """Report the nodes, or this node's commands or record, as changed."""
        self._changes.nodes = True
        self._changed.value = True

    def touch_everything(self) -> None:
        """Report everything as changed."""
        self._changes.everything = True
        self._changed.value = True
