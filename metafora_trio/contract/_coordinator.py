"""Coordinator: the client interface to a broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from metafora_trio._model.node_info import NodeInfo

from ._broker_client import BrokerClient
from ._session import Session

__all__ = ["Coordinator"]


class Coordinator(ABC):
    """The client interface to a broker; swapped through the Consumer's constructor."""

    connect_timeout: float = 10.0
    """Seconds after which an unreachable broker is reported."""

    @abstractmethod
    def open_session(self, node: NodeInfo) -> AbstractAsyncContextManager[Session]:
        """Join the cluster; the async context manager owns everything that runs for the session.

        Args:
            node: what to announce; its identity is the node's name only, the session adds its own mark.

        The body runs in a cancel scope whose deadline is the lease. On a normal or cancelled exit the session is
        closed at the broker (bounded, shielded), which gives up every claim. Exceptions of the body leave
        it unwrapped.

        Raises:
            CoordinatorUnavailable: on entering: the broker was not reached within `connect_timeout`.
            SessionLost: on leaving: the session ended, or its lease ran out; the body was cancelled.
        """

    @abstractmethod
    def open_client(self) -> AbstractAsyncContextManager[BrokerClient]:
        """Connect as a client. Exceptions of the body leave it unwrapped.

        Raises:
            CoordinatorUnavailable: the broker was not reached within `connect_timeout`.
        """
