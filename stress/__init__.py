"""What is measured, and what is tormented: scripts against a real ZooKeeper ensemble. See README.md."""

from __future__ import annotations
