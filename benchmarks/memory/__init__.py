"""Benchmarks of hatchway.memory."""
