"""torchdata.nodes 0.11: nodes put together as its guide "Migrating from torch.utils.data" says.

https://pytorch.org/data/0.11/migrate_to_nodes_from_utils.html: a sampler, a
``Batcher`` of indices, a ``ParallelMapper`` that makes and collates a whole batch
in each worker, a ``Prefetcher`` of ``num_workers * 2`` batches, a ``Loader``; processes
unless Python is free-threaded, since threads "might result in GIL contention".
That is :func:`whole_batches`. :func:`single_samples` maps the samples one by one
and batches what is finished, as the example with a sampler on
https://pytorch.org/data/0.11/getting_started_with_torchdata_nodes.html does.

Both have ``in_order=False``: in order, the reference says, a mapper is
"potentially blocking even if other items are available". Workers cannot be kept
between epochs (that guide promises ``persistent_workers`` for later): a ``Loader`` that is
iterated again starts them anew.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.loaders.request import Build, Request


class MakeBatch:
    """Makes the samples of a list of indices, and a batch of them."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset = dataset
        self._collate = collate

    def __call__(self, indices: list[int]) -> Any:
        """Make the batch, in a worker."""
        return self._collate([self._dataset[index] for index in indices])


def whole_batches(request: Request) -> Iterable[Any]:
    """Worker processes, each making a batch: the guide's own loader."""
    nodes: Any = importlib.import_module("torchdata.nodes")
    indices = nodes.Batcher(
        nodes.SamplerWrapper(request.sampler), batch_size=request.batch_size, drop_last=False
    )
    batches = nodes.ParallelMapper(
        indices,
        MakeBatch(request.dataset, request.collate),
        num_workers=request.num_workers,
        in_order=False,
        method="process",
    )
    return _prefetched(nodes, batches, request)


def single_samples(method: str) -> Build:
    """Worker processes or threads, each making a sample; a batch is what finished first."""

    def build(request: Request) -> Iterable[Any]:
        nodes: Any = importlib.import_module("torchdata.nodes")
        samples = nodes.ParallelMapper(
            nodes.SamplerWrapper(request.sampler),
            request.dataset.__getitem__,
            num_workers=request.num_workers,
            in_order=False,
            method=method,
            # "For small items, this may improve throughput" (reference of ParallelMapper).
            prebatch=request.samples_a_call if request.samples_a_call > 1 else None,
        )
        batches = nodes.Batcher(samples, batch_size=request.batch_size, drop_last=False)
        return _prefetched(nodes, nodes.Mapper(batches, request.collate), request)

    return build


def _prefetched(nodes: Any, batches: Any, request: Request) -> Iterable[Any]:
    ahead = nodes.Prefetcher(batches, prefetch_factor=request.num_batches_ahead)
    loader: Iterable[Any] = nodes.Loader(ahead)
    return loader
