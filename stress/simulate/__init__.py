"""The search for broken promises on virtual time.

`python -m stress.simulate` searches; `python -m stress.simulate.replay FILE` replays one history.
"""
