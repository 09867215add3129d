"""Whether threads do for a dataset as well as processes, by trying both on its first samples."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset

from hatchway.loader.access import by_index
from hatchway.loader.failure import CAUGHT
from hatchway.loader.options import length_of

# Threads start at once and take no memory of their own: a little slower is as good.
_AS_GOOD = 1.1
_TRIAL_S = 0.5
_FEWEST, _MOST = 4, 64
_NUM_WORKERS = 2
_PATIENCE_S = 60.0


def choose_worker_type(loader: Any) -> Literal["process", "thread"]:
    """Run some samples of the dataset on two processes and on two threads, and compare.

    They are thrown away. What a sample raises is left for the pass that asks for it.
    Where the dataset has no length, or processes cannot be tried, it is processes.
    """
    if isinstance(loader.dataset, IterableDataset):
        return "process"
    dataset = by_index(loader.dataset)
    size = length_of(loader.dataset) or 0
    if size < _FEWEST:
        return "process"
    context = loader.multiprocessing_context or torch.multiprocessing
    begun = time.monotonic()
    _run(dataset, [0])
    first_s = time.monotonic() - begun
    count = max(_FEWEST, min(_MOST, size, int(_TRIAL_S / max(first_s, 1e-6))))
    indices = list(range(count))
    shares = [indices[part::_NUM_WORKERS] for part in range(_NUM_WORKERS)]
    _run(dataset, indices)  # what reading them for the first time costs is no matter here
    processes_s = _with_processes(dataset, shares, context)
    if processes_s is None:
        return "process"
    return "thread" if _with_threads(dataset, shares) <= _AS_GOOD * processes_s else "process"


def _run(dataset: Any, indices: Sequence[int]) -> None:
    for index in indices:
        with contextlib.suppress(*CAUGHT):
            dataset[index]


def _with_threads(dataset: Any, shares: Sequence[Sequence[int]]) -> float:
    """Seconds that threads take for the samples together."""
    barrier = threading.Barrier(len(shares) + 1)

    def work(share: Sequence[int]) -> None:
        barrier.wait()
        _run(dataset, share)

    threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.monotonic()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun


def _with_processes(dataset: Any, shares: Sequence[Sequence[int]], context: Any) -> float | None:
    """Seconds that processes take for the samples together; None if one failed."""
    with contextlib.ExitStack() as ends:
        pipes = []
        for share in shares:
            ours, theirs = context.Pipe()
            ends.callback(ours.close)
            process = context.Process(target=_serve, args=(dataset, share, theirs), daemon=True)
            process.start()
            theirs.close()
            ends.callback(_stop, process)
            pipes.append(ours)
        with contextlib.suppress(EOFError, OSError):
            for pipe in pipes:
                _expect(pipe)  # it is up
            begun = time.monotonic()
            for pipe in pipes:
                pipe.send(None)
            for pipe in pipes:
                _expect(pipe)
            return time.monotonic() - begun
    return None


def _expect(pipe: Any) -> None:
    if not pipe.poll(_PATIENCE_S):
        raise EOFError
    pipe.recv()


def _serve(dataset: Any, share: Sequence[int], pipe: Any) -> None:
    torch.set_num_threads(1)
    pipe.send(None)
    pipe.recv()
    _run(dataset, share)
    pipe.send(None)


def _stop(process: Any) -> None:
    process.terminate()
    process.join()
    process.close()
