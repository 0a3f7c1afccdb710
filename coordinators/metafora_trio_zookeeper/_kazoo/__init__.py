"""The `Connection` on kazoo: the only room with threads."""
