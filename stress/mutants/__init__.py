"""Deliberate bugs, and whether the simulation finds them: `python -m stress.mutants`.

Mutants replace private parts of the library: that is their purpose, and the only reason for anything in `stress/` to
import private modules.
"""
