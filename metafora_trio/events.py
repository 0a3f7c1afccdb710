"""What a consumer does, as typed events: `with consumer.subscribe() as events: async for event in events: ...`."""

from __future__ import annotations

from ._events import BalancerFailed as BalancerFailed
from ._events import Event as Event
from ._events import LeaseAtRisk as LeaseAtRisk
from ._events import OrderDone as OrderDone
from ._events import OrderRejected as OrderRejected
from ._events import SessionEnded as SessionEnded
from ._events import SessionOpened as SessionOpened
from ._events import TaskClaimed as TaskClaimed
from ._events import TaskEnded as TaskEnded
from ._events import TaskGivenUp as TaskGivenUp
from ._events import TaskOverran as TaskOverran
from ._events import TaskStarted as TaskStarted
from ._events import TaskStopFailed as TaskStopFailed
from ._events import TaskStopped as TaskStopped
from ._events import TaskStopping as TaskStopping
from ._state import StopReason as StopReason
