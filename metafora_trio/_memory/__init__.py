"""The embedded coordinator, and the shortest example of how to write one."""
