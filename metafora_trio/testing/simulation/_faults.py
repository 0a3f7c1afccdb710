"""The disturbances of a simulated cluster, and which assumption of the promises each of them breaks."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FAULTS"]

FAULTS: Mapping[str, str] = {
    "crash": "",
    "pause": "",
    "drift": "clocks drift less than 0.1 %: void for the tasks of that node",
    "linger": "scopes close by the end of the lease: void for a run that shields itself beyond it",
    "expire": "no session is expired early by hand: void for the tasks of that session",
    "partition": "",
    "delay": "",
    "lose_reply": "",
    "isolate_server": "",
    "lag_server": "",
    "kill_server": "",
    "elect": "",
}
"""By the name under which `SimulatedCluster.faults` counts it; empty where all promises go on to hold. (For a paused
process they say themselves what they mean: it counts as not running, and has 50 ms after it goes on.)"""
