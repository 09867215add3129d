"""Whether threads do for a dataset as well as processes, by trying both on its first samples."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import IterableDataset
from torch.utils.data._utils import worker as torch_worker

from hatchway.loader.access import by_index
from hatchway.loader.context import tell_key
from hatchway.loader.failure import CAUGHT
from hatchway.loader.options import length_of
from hatchway.loader.pool import launch
from hatchway.loader.process import become

# Threads start at once and take no memory of their own: a little slower is as good.
_AS_GOOD = 1.1
_TRIAL_S = 0.5
_FEWEST, _MOST = 4, 64
_NUM_WORKERS = 2
# What takes longer than that for the fewest samples is not tried further.
_LONGEST_S = 10.0
_START_S = 60.0


class Tried(NamedTuple):
    """What came of samples that were made.

    Attributes:
        num_samples: How many.
        seconds: How long they took together.
        num_failed: How many of them raised.
    """

    num_samples: int
    seconds: float
    num_failed: int


def choose_worker_type(loader: Any) -> Literal["process", "thread"]:
    """Run some samples of the dataset on two processes and on two threads, and compare.

    All in processes of their own, which begin as workers do: the training process's copy of
    the dataset, and its generators, are left alone. The samples are thrown away. Threads are
    chosen where no sample raises, and they take at most a tenth longer. Where there is no
    length, where samples take seconds, and where something fails, it is processes.
    """
    size = 0 if isinstance(loader.dataset, IterableDataset) else length_of(loader.dataset) or 0
    if size < _FEWEST:
        return "process"
    with contextlib.suppress(EOFError, OSError, *CAUGHT):
        with _trial(loader, [range(min(_MOST, size))], threads=True) as (alone,):
            first: Tried = _expect(alone, _START_S)
            if first.num_failed or first.num_samples < _FEWEST:
                return "process"
            alone.send(None)
            threads: Tried = _expect(alone, _LONGEST_S)
        shares = [range(part, first.num_samples, _NUM_WORKERS) for part in range(_NUM_WORKERS)]
        with _trial(loader, shares, threads=False) as pipes:
            for pipe in pipes:
                _expect(pipe, _START_S)
            begun = time.monotonic()
            for pipe in pipes:
                pipe.send(None)
            for pipe in pipes:
                _expect(pipe, _LONGEST_S)
            processes_s = time.monotonic() - begun
        if not threads.num_failed and threads.seconds <= _AS_GOOD * processes_s:
            return "thread"
    return "process"


@contextlib.contextmanager
def _trial(loader: Any, shares: Sequence[Sequence[int]], *, threads: bool) -> Iterator[list[Any]]:
    """Processes that try a share of the samples each; ended at the end."""
    context = loader.multiprocessing_context or torch.multiprocessing
    with contextlib.ExitStack() as ends:
        pipes = []
        for number, share in enumerate(shares):
            ours, theirs = context.Pipe()
            ends.callback(ours.close)
            process = context.Process(
                target=_serve,
                args=(loader.dataset, loader.worker_init_fn, number, share, theirs, threads),
                daemon=True,
            )
            try:
                launch(process)
            finally:
                theirs.close()
            ends.callback(_stop, process)
            pipes.append(ours)
        yield pipes


def _expect(pipe: Any, timeout_s: float) -> Any:
    if not pipe.poll(timeout_s):
        raise EOFError
    return pipe.recv()


def _stop(process: Any) -> None:
    process.kill()
    process.join()
    process.close()


def _serve(
    dataset: Any, init: Any, number: int, share: Sequence[int], pipe: Any, threads: bool
) -> None:
    become(f"hatchway-try-{number}", number, _NUM_WORKERS, 0, dataset)
    if init is not None:
        init(number)
    dataset = by_index(dataset)
    # Once for what only the first time costs: files that are read, caches that are filled.
    warmed = _run(dataset, share, _TRIAL_S)
    pipe.send(warmed)
    pipe.recv()
    if not threads:
        pipe.send(_run(dataset, share))
        return
    torch_worker._worker_info = None  # as it is in threads
    pipe.send(_with_threads(dataset, share[: warmed.num_samples]))


def _run(dataset: Any, share: Sequence[int], enough_s: float | None = None) -> Tried:
    """Make samples, one after the other; after the fewest only as long as said."""
    begun, num_failed = time.monotonic(), 0
    outer = tell_key(None)
    try:
        for count, index in enumerate(share):
            spent_s = time.monotonic() - begun
            if enough_s is not None and spent_s > (enough_s if count >= _FEWEST else _LONGEST_S):
                return Tried(count, spent_s, num_failed)
            tell_key(functools.partial(int, index))
            try:
                dataset[index]
            except CAUGHT:
                num_failed += 1
    finally:
        tell_key(outer)
    return Tried(len(share), time.monotonic() - begun, num_failed)


def _with_threads(dataset: Any, indices: Sequence[int]) -> Tried:
    """Make samples on threads."""
    barrier = threading.Barrier(_NUM_WORKERS + 1)
    found: list[Tried] = []

    def work(share: Sequence[int]) -> None:
        barrier.wait()
        found.append(_run(dataset, share))

    shares = [indices[part::_NUM_WORKERS] for part in range(_NUM_WORKERS)]
    threads = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.monotonic()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    return Tried(len(indices), seconds, sum(tried.num_failed for tried in found))
