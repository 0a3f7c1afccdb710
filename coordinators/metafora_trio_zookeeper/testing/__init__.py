"""ZooKeeper ensembles for tests.

* `metafora_trio_zookeeper.testing.real`: servers as plain java processes on this machine, and proxies that disturb the
  network.
* `metafora_trio_zookeeper.testing.simulated`: an ensemble on virtual time, in one process, with more kinds of faults.
"""
