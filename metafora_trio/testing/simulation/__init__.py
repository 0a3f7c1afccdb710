"""Clusters on virtual time: many processes in one thread, the same every time."""

from __future__ import annotations

from ._client import Expectations as Expectations
from ._client import SimulatedClient as SimulatedClient
from ._faults import FAULTS as FAULTS
from ._monitor import BrokenPromise as BrokenPromise
from ._monitor import Monitor as Monitor
from ._monitor import Place as Place
from ._monitor import WatchedRun as WatchedRun
from ._node import SimulatedNode as SimulatedNode
from ._node import WatchedHandler as WatchedHandler
from ._world import Process as Process
from ._world import World as World
