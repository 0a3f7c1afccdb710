"""The `Connection` on kazoo. No other part of the package uses threads."""
