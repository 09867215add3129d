"""The public class: a drop-in for ``torch.utils.data.DataLoader``."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, IterableDataset, Sampler

from hatchway.loader.accelerated import KeptLoaders
from hatchway.loader.costmodel import CostModel
from hatchway.loader.options import (
    LoaderOptions,
    cost_model,
    fetches_batches,
    most_workers,
    resolve_num_workers,
    wants_sharing,
)
from hatchway.loader.rendezvous import AgreedName, Bond, Places
from hatchway.loader.state import PassBook
from hatchway.loader.statistics import LoaderStatistics, StatisticsBox
from hatchway.loader.worker_count import AutoCount, WorkerCount

T_co = TypeVar("T_co", covariant=True)


class DataLoader(TorchLoader[T_co]):
    """A ``torch.utils.data.DataLoader`` in which a slow sample stalls nobody else.

    Samples, not batches, are what workers take. Every position of the sampler
    is in exactly one batch of its epoch, or its failure is raised. What a
    sample contains depends on the base seed, the epoch and its position only.
    Batches are views of shared memory and stay valid for as long as they are
    kept. After MinatoLoader (arXiv:2509.10712).

    All arguments of torch's class have torch's meaning and defaults. With an
    ``IterableDataset`` torch's own workers run, unless it is a :class:`DeferredDataset`.

    Args:
        dataset: As in torch.
        batch_size: As in torch.
        shuffle: As in torch.
        sampler: As in torch.
        batch_sampler: As in torch; it says what each batch holds in any order.
        num_workers: As in torch; 0 loads in the calling process, one sample
            after the other, with the same contents. ``"auto"``: begins with one a core
            and follows the load, up to ``max_workers``, without background workers.
        collate_fn: As in torch; runs in a worker, on views of shared memory.
        pin_memory: As in torch; pinned by the calling thread.
        drop_last: As in torch.
        timeout: As in torch.
        worker_init_fn: As in torch.
        multiprocessing_context: As in torch.
        generator: As in torch.
        prefetch_factor: As in torch: how many batches each worker may be ahead;
            at the default of 2 together at least 64 samples.
        persistent_workers: As in torch.
        pin_memory_device: As in torch.
        in_order: As in torch; False means ``order="ready"`` unless ``order`` says
            otherwise.
        order: ``"strict"``: torch's batches, in torch's order. ``"ready"``: a
            batch is made of the finished samples that come first in the
            sampler's order, so that a slow sample leaves in a later batch.
            ``"auto"``: ``"ready"`` where the order is random anyway, otherwise,
            and with torch's deterministic algorithms, ``"strict"``.
        slow_after_s: Seconds from which a running sample is slow and another
            worker takes its place in the fast lane; None for the 75th
            percentile of recent times (at least twice their median).
        buffer_bytes: Bound of the shared buffer; None for a quarter of the
            memory that this process can take.
        max_workers: Bound of ``num_workers="auto"``; None for 32, or twice the cores
            where that is more.
        max_background_workers: How many workers may be started besides
            ``num_workers`` when slow samples hold all of these; None for as
            many again. Their ids go on from ``num_workers``.
        max_displacement: By how many positions after its turn a sample may come with
            ``order="ready"``; None for any number. The loop waits rather than exceed
            it; see ``LoaderStatistics.num_bound_stalls``.
        sample_sizes: One number an index that grows with what its sample costs, the
            bytes of its file say: what is known of it before it was loaded once.
        prepare_next_epoch: With ``persistent_workers=True``, whether workers that have
            nothing left to do make what the next pass begins with, where the sampler's
            next order can be foreseen (torch's own samplers, lists and ranges).
        record_order: Whether the order of each pass is recorded and part of
            :meth:`state_dict`.
        replay: Such a state, or the path of a file that ``torch.save`` wrote it to: the
            first pass has the order and the contents of the recorded one. A state that is
            loaded beside it says whether that pass is over.
        device: Where the tensors of a batch, and whatever else in it has a method
            ``to``, arrive: on a GPU, or on any device as ``torch.device`` takes it.
            The next batch is copied while this one is used, if it is ready by then.
            None leaves batches in shared memory. With it ``pin_memory`` does nothing.
        seeding: ``"position"``: before each sample Python's, NumPy's and torch's
            global generators are set from (base seed, epoch, position).
            ``"torch"``: once a worker, as torch does. Not with threads: global generators
            are everybody's there; see :func:`hatchway.sample_seed`.
        batched_fetch: Whether a worker loads all of a batch, as in torch: at once where the
            dataset can (``__getitems__``). None: if it has that method. False: one
            sample at a time (``__getitem__``), so that a slow one delays no other.
        worker_type: ``"process"``, or ``"thread"`` for datasets whose work releases the GIL
            and that many threads may use at once: workers start at once and share what the
            dataset holds. ``"auto"``: whichever is faster on some of the first samples,
            which are made for that and thrown away (threads, if they are as fast).
        share_workers: Whether the ranks of a job on one host share their workers: each
            rank starts ``num_workers``, and all of them go to whichever rank is nearest to
            starving. No background workers, no threads, no ``num_workers="auto"``. Without
            other ranks it means nothing. None: what ``HATCHWAY_SHARE_WORKERS=1`` says.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.
    """

    # Of the process, since it is the program that all ranks have in common.
    _places: ClassVar[Places] = Places()
    _agreed_name: ClassVar[AgreedName] = AgreedName()
    _kept: ClassVar[KeptLoaders] = KeptLoaders()

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int | Literal["auto"] = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        order: str = "auto",
        slow_after_s: float | None = None,
        buffer_bytes: int | None = None,
        max_workers: int | None = None,
        max_background_workers: int | None = None,
        max_displacement: int | None = None,
        sample_sizes: Any = None,
        prepare_next_epoch: bool = True,
        record_order: bool = False,
        replay: Any = None,
        device: str | int | torch.device | None = None,
        seeding: str = "position",
        batched_fetch: bool | None = None,
        worker_type: str = "process",
        share_workers: bool | None = None,
    ) -> None:
        if worker_type == "thread" and multiprocessing_context is not None:
            raise ValueError(
                f"multiprocessing_context={multiprocessing_context!r} has no meaning with "
                "worker_type='thread'; leave one of them out"
            )
        if worker_type == "thread" and isinstance(dataset, IterableDataset):
            raise ValueError(
                "worker_type='thread' is not possible with an IterableDataset, which processes "
                "read; leave it out"
            )
        count = resolve_num_workers(num_workers, max_workers, max_background_workers)
        # Each under its own name: frameworks rebuild loaders from attributes.
        self.order = order
        self.slow_after_s = slow_after_s
        self.buffer_bytes = buffer_bytes
        self.max_workers = max_workers
        self.max_background_workers = max_background_workers
        self.max_displacement = max_displacement
        self.sample_sizes = sample_sizes
        self.prepare_next_epoch = prepare_next_epoch
        self.record_order = record_order
        self.replay = replay
        self.device = device
        self.seeding = seeding
        self.batched_fetch = batched_fetch
        self.worker_type = worker_type
        self.share_workers = share_workers
        self.bond = Bond(self._places.next())
        self._chosen_worker_type: str | None = None
        _ = self.options  # or raise
        self._costs: CostModel | None = None
        self._worker_count: WorkerCount | None = None
        self._passes = PassBook()
        self._statistics = StatisticsBox()
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            count,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        _ = self.wants_shared_workers, fetches_batches(self)  # or raise
        self._kept.add(self)

    def __getstate__(self) -> dict[str, Any]:
        # Persistent workers serve this loader, in this process, and no copy of it.
        return {**vars(self), "_iterator": None}

    def __getattr__(self, name: str) -> Any:
        self._kept.is_asked(self, name)
        return self.__getattribute__(name)  # raises what it raised

    @property
    def wants_shared_workers(self) -> bool:
        """Whether workers are shared with the other ranks on this host, if there are any."""
        return wants_sharing(self)

    @property
    def options(self) -> LoaderOptions:
        """Hatchway's own arguments as they are now, checked."""
        return LoaderOptions(
            self.order,
            self.slow_after_s,
            self.buffer_bytes,
            self.max_background_workers,
            self.max_displacement,
            self.device,
            self.seeding,
            self.worker_type,
            self.share_workers,
            self.batched_fetch,
        )

    @property
    def has_threads(self) -> bool:
        """Whether the workers are threads; ``"auto"`` is decided once, when this is asked."""
        if self.worker_type != "auto":
            return self.worker_type == "thread"
        if self._chosen_worker_type is None:
            from hatchway.loader.worker_type import choose_worker_type

            self._chosen_worker_type = choose_worker_type(self)
        return self._chosen_worker_type == "thread"

    @property
    def costs(self) -> CostModel:
        """What the samples of the dataset cost, learned over all passes."""
        if self._costs is None:
            # A batch that is loaded at once says nothing about its samples.
            dataset = () if fetches_batches(self) else self.dataset
            self._costs = cost_model(dataset, self.sample_sizes)
        return self._costs

    @property
    def worker_count(self) -> WorkerCount | None:
        """Decides how many workers there are with ``num_workers="auto"``; else None."""
        if not isinstance(self.num_workers, AutoCount):
            return None
        if self._worker_count is None:
            self._worker_count = WorkerCount(self.num_workers, most_workers(self))
        return self._worker_count

    def statistics(self) -> LoaderStatistics:
        """What the latest pass over this loader did so far, as a snapshot."""
        return self._statistics.read()

    def state_dict(self) -> dict[str, Any]:
        """Where the latest pass stands, to go on from there in another process.

        Taken between two batches: what ``next()`` has returned is delivered, what was
        made ahead is not. Small: displaced positions as ranges, a byte an index for the
        learned costs, a few kilobytes for generators. It holds plain values only, so
        that ``torch.load`` reads it with ``weights_only=True``, unless the dataset or
        sampler put other things into their own ``state_dict()``, which is included.
        As in torchdata's ``StatefulDataLoader``.
        """
        return self._passes.save(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next pass go on from a state: with exactly what was not delivered.

        The number of workers may be another. Contents are the same with
        ``seeding="position"``, whatever the order. A pass that runs is given up.

        Args:
            state_dict: From :meth:`state_dict`.

        Raises:
            StateError: If it does not fit this loader (dataset length, batch size,
                seed, ...) or is damaged; when the pass begins, if the sampler does not
                yield what it yielded then.
        """
        self._passes.load(self, state_dict)

    def __iter__(self) -> Any:
        if not getattr(self._iterator, "is_open", True):
            self._iterator = None  # persistent workers that an exception ended
        if self.replay is not None and not self._passes.has_replayed:
            self._passes.replay(self, self.replay)
        is_new = self._iterator is None or not self.persistent_workers
        with self._passes.entering(self, draws_base_seed=is_new):
            return super().__iter__()

    def _get_iterator(self) -> Any:
        from hatchway.loader.passes import begin

        return begin(self)


# A worker that is started anew imports the script, and so this module, but begins no pass:
# its first sample does not wait for what only a pass needs. (`parent_process()` is set later.)
if not getattr(multiprocessing.current_process(), "_inheriting", False):
    import hatchway.loader.passes  # noqa: F401
