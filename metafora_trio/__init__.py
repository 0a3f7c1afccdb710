"""Metafora for Trio: one, and only one, running instance of every long-running task in a cluster.

The layers, each importing only those before it:

    _errors _model/                     plain data, and pure decisions: no Trio
    _service_nursery _running_task events    helpers beside a body; what handlers and observers are given
    contract/                           what a broker must do: the only door for backends
    balancers/                          what a node may claim, asks for, gives up, and hands over
    _node/ _client/ _memory/            the consumer and its nursery; the client; the embedded coordinator
    testing/ cli/                       tools for tests; the command line

`metafora_trio.testing` is for tests of handlers, balancers and coordinators, `metafora_trio.cli` is the command
line. The ZooKeeper coordinator is the package `metafora_trio_zookeeper` of the same distribution (extra
`zookeeper`).
"""

from __future__ import annotations

from metafora_trio._client.client import Client as Client
from metafora_trio._client.client import open_client as open_client
from metafora_trio._client.status import NodesChanged as NodesChanged
from metafora_trio._client.status import NodeStatus as NodeStatus
from metafora_trio._client.status import StatusName as StatusName
from metafora_trio._client.status import TaskChanged as TaskChanged
from metafora_trio._client.status import TaskStatus as TaskStatus
from metafora_trio._client.watch import Watch as Watch
from metafora_trio._memory.coordinator import MemoryCoordinator as MemoryCoordinator
from metafora_trio._model.claim import Claim as Claim
from metafora_trio._model.command import Command as Command
from metafora_trio._model.command import CommandName as CommandName
from metafora_trio._model.node_info import NodeInfo as NodeInfo
from metafora_trio._model.state import Outcome as Outcome
from metafora_trio._model.state import StateName as StateName
from metafora_trio._model.state import StopReason as StopReason
from metafora_trio._model.state import TaskError as TaskError
from metafora_trio._model.state import TaskState as TaskState
from metafora_trio._model.task import Task as Task
from metafora_trio._node.consumer import Consumer as Consumer
from metafora_trio._node.consumer import ConsumerStatistics as ConsumerStatistics
from metafora_trio._node.consumer import open_consumer as open_consumer
from metafora_trio.balancers._base import Balancer as Balancer
from metafora_trio.contract._coordinator import Coordinator as Coordinator

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
from ._running_task import Handler as Handler
from ._running_task import RunningTask as RunningTask
from ._running_task import TaskLease as TaskLease
