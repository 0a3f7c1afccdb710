"""Chaos on real servers and processes: `python -m stress.chaos`."""
