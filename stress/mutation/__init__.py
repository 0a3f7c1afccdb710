"""A mutation run over the protocol's code: does a test fail if the code is changed? `python -m stress.mutation`."""
