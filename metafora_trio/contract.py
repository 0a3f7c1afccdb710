"""What authors of coordinators need besides the classes of `metafora_trio` itself.

The contract is in the docstrings of `Coordinator`, `Session` and `BrokerClient`; `MemoryCoordinator` is the example,
and `metafora_trio.testing.CoordinatorConformance` the test.
"""

from __future__ import annotations

from ._lease import MIN_SESSION_TIMEOUT as MIN_SESSION_TIMEOUT
from ._lease import LeaseTerms as LeaseTerms
from ._task import check_node_name as check_node_name
from ._task import check_task_id as check_task_id
from ._task import decode_props as decode_props
from ._upkeep import Diagnosable as Diagnosable
from ._upkeep import Diagnosis as Diagnosis
from ._upkeep import Finding as Finding
from ._upkeep import Level as Level
from ._upkeep import Removable as Removable
from ._view import ClaimAdded as ClaimAdded
from ._view import ClaimRemoved as ClaimRemoved
from ._view import NodeAdded as NodeAdded
from ._view import NodeRemoved as NodeRemoved
from ._view import TaskAdded as TaskAdded
from ._view import TaskDeleted as TaskDeleted
from ._view import TaskRemoved as TaskRemoved
from ._view import ViewEvent as ViewEvent
