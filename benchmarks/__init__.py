"""Benchmarks of Hatchway's data loader beside its peers: ``python -m benchmarks``.

Every figure is paired with its peer's in the same run, and with the limit: the
same work on the same number of worker processes without any transport, or the
device's steps alone, whichever takes longer.
"""
