"""Coordinator: the client interface to a broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from metafora_trio._model.node_info import NodeInfo

from ._broker_client import BrokerClient
from ._session import Session

__all__ = ["Coordinator"]


class Coordinator(ABC):
    """The client interface to a broker: what a consumer and a client are given.

    Making one connects to nothing. Connections belong to the sessions and clients that it opens, and any number of
    those may be open at once.
    """

    connect_timeout: float = 10.0
    """Seconds after which an unreachable broker is reported."""

    @abstractmethod
    def open_session(self, node: NodeInfo) -> AbstractAsyncContextManager[Session]:
        """Join the cluster. The async context manager owns everything that runs for the session.

        On entering, the session is `current` and its view is complete: it shows this node, and all that the broker
        had stored when the node joined.

        The body runs in a cancel scope whose deadline is the lease's `cancel_at`. On a normal or cancelled exit,
        what was asked for to end claims (`release`, `finish` and so on) is carried out as far as a short, shielded
        time allows. Then the session is closed at the broker, which gives up every other claim at once. Exceptions of
        the body leave it unwrapped.

        Args:
            node: what to announce. Its identity is only the node's name; the session appends `.` and its own mark.

        Raises:
            InvalidName: on entering: the name breaks the rule (`check_node_name`).
            CoordinatorUnavailable: on entering: the node could not join within `connect_timeout`.
            SessionLost: on leaving: the session ended at the broker, or its lease ran out; the body was cancelled.
        """

    @abstractmethod
    def open_client(self) -> AbstractAsyncContextManager[BrokerClient]:
        """Connect as a client, and write nothing. Exceptions of the body leave it unwrapped.

        A client whose connection breaks reconnects by itself. It is in no lease, and its body is not cancelled.

        Raises:
            CoordinatorUnavailable: on entering: the broker was not reached within `connect_timeout`.
        """
