"""Faults: what a broker can do to a simulated cluster, and the assumption of the promises that each of them breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CLOCKS_DRIFT_LITTLE", "NO_EARLY_EXPIRY", "SCOPES_CLOSE_IN_TIME", "Fault"]

CLOCKS_DRIFT_LITTLE = "clocks drift less than 0.1 %: void for the tasks of that node"
SCOPES_CLOSE_IN_TIME = "scopes close by the end of the lease: void for a run that shields itself beyond it"
NO_EARLY_EXPIRY = "no session is expired early by hand: void for the tasks of that session"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        inflict: makes it happen at once. It takes the arguments of a step of a script by name: `node`, the name of a
            node that runs, where the fault concerns one; and values that JSON can hold.
        breaks: the assumption that it breaks, and for which tasks the promises are void then. Empty where all promises
            still hold. (A paused process needs no assumption: the promises do not count it as running, and grant it
            50 ms after it goes on.)
    """

    inflict: Callable[..., None]
    breaks: str = ""
