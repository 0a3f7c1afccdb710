"""The contract between Metafora and a broker, with the data and helpers that authors of coordinators need.

Implement `Coordinator`, `Session` and `BrokerClient`; their docstrings are the contract. `MemoryCoordinator` is the
example to read, `metafora_trio.testing.conformance` has the tests, and `docs/howto/write-a-coordinator.md` names the
steps. The doctor and the demonstration of the command line use what `Diagnosable` and `Removable` describe.
"""

from __future__ import annotations

from metafora_trio._errors import InvalidRecord as InvalidRecord
from metafora_trio._model.changes import Changes as Changes
from metafora_trio._model.claim import Claim as Claim
from metafora_trio._model.claim import ClaimKind as ClaimKind
from metafora_trio._model.command import Command as Command
from metafora_trio._model.command import QueuedCommand as QueuedCommand
from metafora_trio._model.json_record import JsonRecord as JsonRecord
from metafora_trio._model.lease import MIN_SESSION_TIMEOUT as MIN_SESSION_TIMEOUT
from metafora_trio._model.lease import Lease as Lease
from metafora_trio._model.lease import LeaseTerms as LeaseTerms
from metafora_trio._model.node_info import MAX_NOTICES as MAX_NOTICES
from metafora_trio._model.node_info import NodeInfo as NodeInfo
from metafora_trio._model.node_info import node_name as node_name
from metafora_trio._model.props import decode_props as decode_props
from metafora_trio._model.state import TaskState as TaskState
from metafora_trio._model.stored_task import StoredTask as StoredTask
from metafora_trio._model.stored_task import TaskSnapshot as TaskSnapshot
from metafora_trio._model.task import Task as Task
from metafora_trio._model.task import check_node_name as check_node_name
from metafora_trio._model.task import check_task_id as check_task_id
from metafora_trio._model.view import ClaimAdded as ClaimAdded
from metafora_trio._model.view import ClaimRemoved as ClaimRemoved
from metafora_trio._model.view import ClusterView as ClusterView
from metafora_trio._model.view import NodeAdded as NodeAdded
from metafora_trio._model.view import NodeRemoved as NodeRemoved
from metafora_trio._model.view import TaskAdded as TaskAdded
from metafora_trio._model.view import TaskDeleted as TaskDeleted
from metafora_trio._model.view import TaskRemoved as TaskRemoved
from metafora_trio._model.view import ViewEvent as ViewEvent
from metafora_trio._service_nursery import open_service_nursery as open_service_nursery
from metafora_trio._trio_util import AsyncBool as AsyncBool
from metafora_trio._trio_util import RepeatedEvent as RepeatedEvent

from ._broker_client import BrokerClient as BrokerClient
from ._coordinator import Coordinator as Coordinator
from ._session import Session as Session
from ._session import TaskRefused as TaskRefused
from ._upkeep import Diagnosable as Diagnosable
from ._upkeep import Diagnosis as Diagnosis
from ._upkeep import Finding as Finding
from ._upkeep import Level as Level
from ._upkeep import Removable as Removable
