"""Faults: the disturbances that a broker can cause, and the assumption of the promises that each of them breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CLOCKS_DRIFT_LITTLE", "NO_EARLY_EXPIRY", "SCOPES_CLOSE_IN_TIME", "Fault"]

CLOCKS_DRIFT_LITTLE = "clocks drift less than 0.1 %; otherwise no promise for the tasks of that node"
SCOPES_CLOSE_IN_TIME = "scopes close by the end of the lease; otherwise no promise for a run shielded beyond it"
NO_EARLY_EXPIRY = "no session is expired early by hand; otherwise no promise for the tasks of that session"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        inflict: inflicts the fault at once. It takes the arguments of a script's step by name: `node`, the name of a
            running node, if the fault affects one; and values that JSON can hold.
        breaks: the assumption that the fault breaks, and the tasks for which there is then no promise. Empty if all
            promises still hold. (Pausing a process breaks no assumption: the promises do not count it as running, and
            grant it 50 ms after it resumes. The same is true of a suspend, but there they grant it the time until its
            next heartbeat, too.)
    """

    inflict: Callable[..., None]
    breaks: str = ""
