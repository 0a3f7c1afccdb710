"""Clusters on virtual time: many processes in one thread, with the same result every time.

Tests use `SimulatedCluster`. The author of a backend implements `SimulatedBroker`, with `NodeProcesses` or
`SharedProcess` to host nodes and `MemoryBroker` as the example. `World` provides the virtual time below both.
"""

from __future__ import annotations

from metafora_trio._clock import TrioClock as TrioClock

from ._broker import BrokerContents as BrokerContents
from ._broker import BrokerFactory as BrokerFactory
from ._broker import SimulatedBroker as SimulatedBroker
from ._broker import SimulationContext as SimulationContext
from ._client import Expectations as Expectations
from ._client import SimulatedClient as SimulatedClient
from ._cluster import SimulatedCluster as SimulatedCluster
from ._faults import NO_EARLY_EXPIRY as NO_EARLY_EXPIRY
from ._faults import Fault as Fault
from ._handler import WatchedHandler as WatchedHandler
from ._hosts import NodeProcesses as NodeProcesses
from ._hosts import SharedPlace as SharedPlace
from ._hosts import SharedProcess as SharedProcess
from ._memory_broker import MemoryBroker as MemoryBroker
from ._monitor import BrokenPromise as BrokenPromise
from ._monitor import Monitor as Monitor
from ._node import SimulatedNode as SimulatedNode
from ._runs import Place as Place
from ._runs import WatchedRun as WatchedRun
from ._submissions import Submission as Submission
from ._submissions import Submissions as Submissions
from ._world import Process as Process
from ._world import World as World
