"""Metafora for Trio: one, and only one, running instance of every long-running task in a cluster.

The layers, each importing only those before it:

    _errors _task _state _view _order _lease    plain data and its rules
    _plan _reconcile                            decisions: pure functions of that data
    _coordinator _upkeep contract               the contract with a broker
    _running _balancer events                   what users implement, and what they are told
    _service _watchdog                          helpers beside a body, and a look from outside the event loop
    _runner _planner _orders _membership _consumer   the node: its nursery, and one child nursery a task
    _status _client                             submit, delete, look, command, wait, watch
    _memory                                     the embedded coordinator

`metafora_trio.testing` is for tests of handlers, balancers and coordinators, `metafora_trio.cli` is the command
line. The ZooKeeper coordinator is the package `metafora_trio_zookeeper` of the same distribution (extra
`zookeeper`).
"""

from __future__ import annotations

from ._balancer import Balancer as Balancer
from ._balancer import BalancerContext as BalancerContext
from ._balancer import FairBalancer as FairBalancer
from ._balancer import GreedyBalancer as GreedyBalancer
from ._client import Client as Client
from ._client import NodesChanged as NodesChanged
from ._client import NodeStatus as NodeStatus
from ._client import TaskChanged as TaskChanged
from ._client import TaskStatus as TaskStatus
from ._client import Watch as Watch
from ._client import open_client as open_client
from ._consumer import Consumer as Consumer
from ._consumer import ConsumerStatistics as ConsumerStatistics
from ._consumer import open_consumer as open_consumer
from ._coordinator import BrokerClient as BrokerClient
from ._coordinator import Changes as Changes
from ._coordinator import Coordinator as Coordinator
from ._coordinator import Session as Session
from ._coordinator import TaskFacts as TaskFacts
from ._coordinator import TaskRecord as TaskRecord
from ._errors import BrokerTooOld as BrokerTooOld
from ._errors import CoordinatorUnavailable as CoordinatorUnavailable
from ._errors import InvalidName as InvalidName
from ._errors import InvalidTask as InvalidTask
from ._errors import LayoutMismatch as LayoutMismatch
from ._errors import MetaforaError as MetaforaError
from ._errors import NodeNotFound as NodeNotFound
from ._errors import SessionLost as SessionLost
from ._errors import TaskExists as TaskExists
from ._errors import TaskFinished as TaskFinished
from ._errors import TaskNotFound as TaskNotFound
from ._events import Event as Event
from ._lease import Lease as Lease
from ._memory import MemoryCoordinator as MemoryCoordinator
from ._order import Command as Command
from ._order import CommandName as CommandName
from ._order import Order as Order
from ._running import Handler as Handler
from ._running import RunningTask as RunningTask
from ._running import TaskLease as TaskLease
from ._state import Outcome as Outcome
from ._state import StateName as StateName
from ._state import StopReason as StopReason
from ._state import TaskError as TaskError
from ._state import TaskState as TaskState
from ._task import Task as Task
from ._view import Claim as Claim
from ._view import ClaimKind as ClaimKind
from ._view import ClusterView as ClusterView
from ._view import NodeInfo as NodeInfo
from ._watchdog import OnOverrun as OnOverrun
