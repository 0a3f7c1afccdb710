"""Metafora for Trio: one, and only one, running instance of every long-running task in a cluster.

The layers, each importing only those before it:

    _errors _model/                     plain data, and pure decisions: no Trio
    _clock _trio_util _service_nursery  the wall clock, waiting, and a nursery for background helpers
    _running_task events                the objects passed to handlers and observers
    contract/                           the interface to a broker, and the only module a backend imports
    balancers/                          decide what a node claims, bids for, gives up and hands over
    _node/ _client/ _memory/            the consumer; the client; the embedded coordinator
    testing/ cli/                       test tools; the command line

`metafora_trio.testing` helps to test handlers, balancers and coordinators. `metafora_trio.cli` is the command line.
The ZooKeeper coordinator is the package `metafora_trio_zookeeper`, in the same distribution (extra `zookeeper`).
"""

from __future__ import annotations

from ._client.client import Client as Client
from ._client.client import open_client as open_client
from ._client.status import NodesChanged as NodesChanged
from ._client.status import NodeStatus as NodeStatus
from ._client.status import TaskChanged as TaskChanged
from ._client.status import TaskStatus as TaskStatus
from ._client.status import TaskStatusName as TaskStatusName
from ._client.watch import Watch as Watch
from ._clock import Clock as Clock
from ._errors import BrokerTooOld as BrokerTooOld
from ._errors import CoordinatorUnavailable as CoordinatorUnavailable
from ._errors import InvalidName as InvalidName
from ._errors import InvalidTask as InvalidTask
from ._errors import LayoutMismatch as LayoutMismatch
from ._errors import MetaforaError as MetaforaError
from ._errors import NamespaceNotFound as NamespaceNotFound
from ._errors import NodeNotFound as NodeNotFound
from ._errors import SessionLost as SessionLost
from ._errors import TaskExists as TaskExists
from ._errors import TaskFinished as TaskFinished
from ._errors import TaskNotFound as TaskNotFound
from ._memory.coordinator import MemoryCoordinator as MemoryCoordinator
from ._model.claim import Claim as Claim
from ._model.command import Command as Command
from ._model.command import CommandName as CommandName
from ._model.node_info import NodeInfo as NodeInfo
from ._model.state import Outcome as Outcome
from ._model.state import StateName as StateName
from ._model.state import StopReason as StopReason
from ._model.state import TaskError as TaskError
from ._model.state import TaskState as TaskState
from ._model.task import Task as Task
from ._node.consumer import Consumer as Consumer
from ._node.consumer import ConsumerStatistics as ConsumerStatistics
from ._node.consumer import open_consumer as open_consumer
from ._node.settings import ConsumerOptions as ConsumerOptions
from ._running_task import Handler as Handler
from ._running_task import RunningTask as RunningTask
from ._running_task import TaskLease as TaskLease
from .balancers._base import Balancer as Balancer
from .contract._coordinator import Coordinator as Coordinator
