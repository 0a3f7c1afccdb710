"""Plain data and pure decisions: no Trio, no I/O. Everything here can be tested without an event loop."""
