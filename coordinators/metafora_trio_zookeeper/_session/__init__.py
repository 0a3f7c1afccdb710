"""One membership of one node, on one connection."""
