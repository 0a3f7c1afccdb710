"""Tools for tests of handlers, balancers and coordinators.

* `metafora_trio.testing.conformance`: the tests that every coordinator must pass.
* `metafora_trio.testing.history`: a record of what actually ran, and a checker that finds broken promises.
* `metafora_trio.testing.simulation`: whole clusters in one thread, on virtual time.
* `metafora_trio.testing.pytest_plugin`: the fixture `metafora_cluster`, which pytest finds by itself.

This file imports none of them, because pytest loads the plugin in every run and the simulation uses private names of
Trio.
"""
