"""The conformance suite: subclass `CoordinatorConformance` to test a coordinator of your own."""

from __future__ import annotations

from ._subject import Subject as Subject
from ._subject import eventually as eventually
from ._suite import CoordinatorConformance as CoordinatorConformance
