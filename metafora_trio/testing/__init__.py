"""Tools for tests of handlers, balancers and coordinators.

* `metafora_trio.testing.conformance`: the tests that every coordinator must pass.
* `metafora_trio.testing.history`: what really ran, and a checker that says whether it kept the promises.
* `metafora_trio.testing.simulation`: whole clusters in one thread, on virtual time.
* `metafora_trio.testing.pytest_plugin`: the fixture `metafora_cluster`; pytest finds it by itself.

This file imports none of them: pytest loads the plugin in every run, and the simulation uses private names of Trio.
"""
