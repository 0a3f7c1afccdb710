"""The mutants: deliberate bugs, each of which switches off one rule of the protocol. The simulation must find them."""

from __future__ import annotations

from collections.abc import Mapping

from . import node as node
from . import zookeeper as zookeeper
from .mutant import Mutant as Mutant

__all__ = ["MUTANTS", "Mutant", "mutants_of"]

_OF_THE_NODE: tuple[Mutant, ...] = (
    node.released_before_closed,
    node.stuck_scope_parks_its_node,
    node.claimed_is_owned,
    node.claim_on_its_way_out_starts,
    node.ended_task_opens,
    node.identity_is_the_name,
    node.loser_keeps_its_claim,
    node.bid_never_withdrawn,
    node.bid_withdrawn_unconditionally,
    node.given_to_nobody,
    node.drain_waits_for_an_heir,
    node.drained_node_stays,
    node.donor_and_heir_miscount,
    node.children_outlive_their_run,
    node.token_of_one_byte,
    node.lease_without_budget,
    node.late_heartbeat_counts_in_full,
)
_OF_A_BROKER: Mapping[str, tuple[Mutant, ...]] = {
    "zookeeper": (
        zookeeper.lease_is_no_deadline,
        zookeeper.lease_not_looked_at_on_opening,
        zookeeper.lease_counts_from_the_reply,
        zookeeper.first_heartbeat_counts_in_full,
        zookeeper.new_timeout_ignored,
        zookeeper.longer_timeout_trusted,
        zookeeper.read_is_proof_of_life,
        zookeeper.suspend_not_noticed,
        zookeeper.no_barrier_on_reconnect,
        zookeeper.no_resync_after_reconnect,
        zookeeper.no_watches_after_reconnect,
        zookeeper.tombstone_missed_by_a_resync,
        zookeeper.node_news_lost_during_a_resync,
        zookeeper.claims_again_while_pending,
        zookeeper.ambiguous_claim_forgotten,
        zookeeper.done_without_conditions,
        zookeeper.claim_goes_before_the_task,
        zookeeper.leaving_marks_dropped,
        zookeeper.refusal_ends_the_session,
        zookeeper.deleted_outright,
        zookeeper.lost_submit_acknowledged,
        zookeeper.stale_write_accepted,
    )
}
MUTANTS: tuple[Mutant, ...] = (*_OF_THE_NODE, *(each for some in _OF_A_BROKER.values() for each in some))
"""All mutants. Every name occurs once."""


def mutants_of(broker: str) -> tuple[Mutant, ...]:
    """Return the mutants to search for with a broker: those of the node, and the broker's own."""
    return (*_OF_THE_NODE, *_OF_A_BROKER.get(broker, ()))
