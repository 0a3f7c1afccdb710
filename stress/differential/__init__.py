"""The simulated ZooKeeper compared with a real one: `python -m stress.differential`."""
