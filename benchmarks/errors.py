"""What can go wrong in a benchmark run."""


class BenchmarkError(Exception):
    """A run whose figures must not be used: samples lost or doubled, or no end in time."""
