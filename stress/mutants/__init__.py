"""Deliberate bugs that the simulation must find: `python -m stress.mutants`.

Mutants replace private parts of the library. That is their purpose, and the only reason why anything in `stress/` may
import private modules of the core.
"""
