"""Benchmarks, searches for bugs, and chaos runs, on simulated or real ZooKeeper ensembles. See README.md."""

from __future__ import annotations
