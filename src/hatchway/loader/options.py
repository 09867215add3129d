"""What a user can ask of the loader beyond torch's arguments, checked and resolved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from hatchway.loader.accelerated import is_accelerates
from hatchway.loader.access import fetches_batches as can_fetch_batches
from hatchway.loader.access import is_deferred, is_iterable
from hatchway.loader.cost import SLOW_QUANTILE
from hatchway.loader.costmodel import CostModel
from hatchway.loader.devices import device_of
from hatchway.loader.heap import ADDRESSES_PER_BYTE
from hatchway.loader.machine import (
    available_address_bytes,
    available_memory_bytes,
    cpu_quota,
)
from hatchway.loader.window import window_batches
from hatchway.loader.worker_count import AutoCount

_LEAST_BUFFER_BYTES = 1 << 20
_DEFAULT_LEAST_BUFFER_BYTES = 64 << 20
# Of workers to begin with there must be room for this much each.
_FIRST_WORKER_BYTES = 256 << 20
# Samples that wait (for a network, say) keep many more workers busy than there are cores.
_DEFAULT_MOST_WORKERS = 32


@dataclass(frozen=True)
class LoaderOptions:
    """Hatchway's own arguments, as the user gave them.

    Attributes:
        order: What a batch is made of; see ``DataLoader``.
        slow_after_s: Seconds, or None for the 75th percentile of recent times.
        buffer_bytes: Bound of the shared buffer, or None for a quarter of the
            memory that this process can take.
        max_background_workers: Bound of additional workers, or None for
            ``num_workers``.
        max_displacement: How many positions after its turn a sample may come, or
            None for any number.
        device: Where batches arrive, or None for the shared buffer.
        seeding: Whether generators are seeded for each position or as in torch.
        worker_type: Whether workers are processes or threads, or what does better.
        share_workers: Whether the ranks of this host share workers, or None for what the
            environment says.
        batched_fetch: Whether the dataset is asked for whole batches, or None if it can be.
    """

    order: str
    slow_after_s: float | None
    buffer_bytes: int | None
    max_background_workers: int | None
    max_displacement: int | None
    device: str | int | torch.device | None
    seeding: str
    worker_type: str = "process"
    share_workers: bool | None = None
    batched_fetch: bool | None = None

    def __post_init__(self) -> None:
        if self.order not in ("auto", "strict", "ready"):
            raise ValueError(f"order must be 'auto', 'strict' or 'ready', not {self.order!r}")
        if self.seeding not in ("position", "torch"):
            raise ValueError(f"seeding must be 'position' or 'torch', not {self.seeding!r}")
        if self.worker_type not in ("process", "thread", "auto"):
            raise ValueError(
                f"worker_type must be 'process', 'thread' or 'auto', not {self.worker_type!r}"
            )
        _seconds("slow_after_s", self.slow_after_s)
        _whole("buffer_bytes", self.buffer_bytes, _LEAST_BUFFER_BYTES)
        _whole("max_background_workers", self.max_background_workers, 0)
        _whole("max_displacement", self.max_displacement, 0)
        if self.device is not None:
            device_of(self.device)
        for name in ("share_workers", "batched_fetch"):
            value = getattr(self, name)
            if value not in (None, True, False):
                raise TypeError(f"{name} must be a bool or None, not {value!r}")
        if self.share_workers and self.worker_type != "process":
            raise ValueError(
                f"share_workers=True needs worker_type='process', not {self.worker_type!r}: other "
                "ranks cannot use the threads of this one"
            )
        if self.share_workers and self.max_background_workers:
            raise ValueError(
                f"max_background_workers={self.max_background_workers} has no meaning with "
                "share_workers=True: other ranks' workers come where slow samples hold the own "
                "ones; leave one of them out"
            )

    @property
    def slow_cut(self) -> tuple[float, bool]:
        """The cut between fast and slow, and whether it is a quantile."""
        if self.slow_after_s is None:
            return SLOW_QUANTILE, True
        return self.slow_after_s, False


def _seconds(name: str, value: object) -> None:
    if value is None:
        return
    allowed = "a number of seconds above 0, or None for the 75th percentile of recent sample times"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be {allowed}, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be {allowed}, not {value!r}")


def _whole(name: str, value: object, least: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int or None, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def default_buffer_bytes() -> int:
    """A quarter of the memory that this process can take, at least 64 MiB.

    Less where ``ulimit -v`` bounds the addresses: the buffer takes several times
    its size of them, and they must not all be taken.
    """
    nbytes = max(_DEFAULT_LEAST_BUFFER_BYTES, available_memory_bytes() // 4)
    addresses = available_address_bytes()
    if addresses is not None:
        nbytes = min(nbytes, max(_LEAST_BUFFER_BYTES, addresses // (2 * ADDRESSES_PER_BYTE)))
    return nbytes


def cost_model(dataset: Any, sizes: Any) -> CostModel:
    """A model of what the samples of ``dataset`` cost, with the user's ``sample_sizes``.

    Raises:
        ValueError: If there is not one finite number for each sample.
    """
    num_indices = length_of(dataset) or 0
    if sizes is None:
        return CostModel(num_indices)
    numbers = np.asarray(sizes, np.float64)
    if numbers.shape != (num_indices,):
        raise ValueError(
            f"sample_sizes must hold one number for each of the {num_indices} samples of the "
            f"dataset, not have the shape {numbers.shape}"
        )
    if not np.isfinite(numbers).all():
        first = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(f"sample_sizes[{first}] must be a finite number, not {numbers[first]}")
    return CostModel(num_indices, numbers)


def resolve_order(loader: Any) -> Literal["strict", "ready"]:
    """What ``order="auto"`` means for this loader.

    ``"ready"`` where the order was random anyway or ``in_order=False`` asks for
    it; ``"strict"`` where a reader may rely on the order, or where torch's
    deterministic algorithms are switched on.
    """
    order: str = loader.order
    if order == "strict" or order == "ready":
        return order  # type: ignore[return-value]
    if not loader.in_order:
        return "ready"
    if torch.are_deterministic_algorithms_enabled():
        return "strict"
    return "ready" if _is_random(loader) else "strict"


def resolve_num_workers(
    num_workers: object, max_workers: int | None, max_background_workers: int | None
) -> int:
    """What ``num_workers`` means here: an int, for ``"auto"`` an ``AutoCount``.

    Raises:
        ValueError: If a bound has nothing to bound.
        TypeError: If it is neither, or ``max_workers`` is no int.
    """
    _whole("max_workers", max_workers, 1)
    if isinstance(num_workers, str):
        if num_workers != "auto":
            raise TypeError(f"num_workers must be an int or 'auto', not {num_workers!r}")
        num_workers = AutoCount(min(first_num_workers(), max_workers or _DEFAULT_MOST_WORKERS))
    if isinstance(num_workers, AutoCount):
        if max_background_workers is not None:
            raise ValueError(
                f"max_background_workers={max_background_workers} has no meaning with "
                "num_workers='auto', which adds workers as they are needed: bound them all by "
                "max_workers="
            )
    elif max_workers is not None:
        raise ValueError(
            f"max_workers={max_workers} bounds num_workers='auto', and num_workers is "
            f"{num_workers!r}; leave one of them out"
        )
    return num_workers  # type: ignore[return-value]


def wants_sharing(loader: Any) -> bool:
    """Whether workers are to be shared, if there are other ranks to share them with.

    ``HATCHWAY_SHARE_WORKERS=1`` means those loaders that could say so themselves.

    Raises:
        ValueError: If the loader says so, and that their number follows the load.
    """
    is_auto = isinstance(loader.num_workers, AutoCount)
    if loader.share_workers and is_auto:
        raise ValueError(
            "share_workers=True needs a number of workers a rank, not num_workers='auto'"
        )
    says = loader.share_workers
    if says is None:
        could = loader.worker_type == "process" and not loader.max_background_workers
        says = os.environ.get("HATCHWAY_SHARE_WORKERS") == "1" and could and not is_auto
    return bool(says) and loader.num_workers > 0


def first_num_workers() -> int:
    """How many workers ``"auto"`` begins with: one a core, as far as there is memory."""
    in_memory = available_memory_bytes() // _FIRST_WORKER_BYTES
    return max(1, min(int(cpu_quota()), in_memory))


def most_workers(loader: Any) -> int:
    """How many workers there may be in all, background workers included."""
    num_workers: int = loader.num_workers
    if isinstance(num_workers, AutoCount):
        return loader.max_workers or max(_DEFAULT_MOST_WORKERS, 2 * num_workers)
    if resolve_order(loader) != "ready":
        return num_workers
    extra = loader.max_background_workers
    return num_workers + (num_workers if extra is None else extra)


def most_seats(loader: Any) -> int:
    """How many workers there may be, without background workers."""
    is_auto = isinstance(loader.num_workers, AutoCount)
    return most_workers(loader) if is_auto else loader.num_workers


def lookahead_batches(loader: Any, num_workers: int) -> int:
    """How many batches may be under way or finished before they are asked for.

    Args:
        loader: The user's.
        num_workers: How many workers it has.
    """
    batch_size = None if has_own_batches(loader) else loader.batch_size or 1
    return window_batches(num_workers, loader.prefetch_factor, batch_size)


def has_own_batches(loader: Any) -> bool:
    """Whether the user's ``batch_sampler`` says what each batch holds.

    Also one that was put into a loader made with a ``batch_size``, or was changed there: as
    loaders do that begin an endless pass once, and take an epoch after the other from it.
    """
    batches = loader.batch_sampler
    if batches is None or loader.batch_size is None:
        return batches is not None
    if is_iterable(loader.dataset) or is_deferred(loader.dataset) or is_accelerates(batches):
        return False
    if type(batches) is not BatchSampler:
        return True
    return bool((batches.batch_size, batches.drop_last) != (loader.batch_size, loader.drop_last))


def fetches_batches(loader: Any) -> bool:
    """Whether the dataset is asked for whole batches, not for one sample after the other.

    Raises:
        ValueError: If it is to be, and cannot.
    """
    wanted, dataset = loader.batched_fetch, loader.dataset
    if wanted and (not loader._auto_collation or is_iterable(dataset) or is_deferred(dataset)):
        raise ValueError(
            "batched_fetch=True needs a map-style dataset and batches; "
            f"{type(dataset).__name__} with batch_size={loader.batch_size} has none"
        )
    if wanted is None:
        wanted = loader._auto_collation and can_fetch_batches(dataset)
    if wanted and loader.sample_sizes is not None:
        raise ValueError(
            f"sample_sizes= says what each sample costs, and {type(dataset).__name__} is "
            "asked for whole batches; pass batched_fetch=False as well"
        )
    return bool(wanted)


def makes_batches_freely(loader: Any) -> bool:
    """Whether batches are made of whatever is finished, not of the sampler's own."""
    is_ready = resolve_order(loader) == "ready" and not has_own_batches(loader)
    return is_ready and loader.batch_size is not None and not fetches_batches(loader)


def length_of(sized: Any) -> int | None:
    """Its length, or None if it has none."""
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None


def _is_random(loader: Any) -> bool:
    sampler = loader.sampler
    if has_own_batches(loader):
        if type(loader.batch_sampler) is not BatchSampler:
            return False
        sampler = loader.batch_sampler.sampler
    if isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        return True
    is_distributed = isinstance(sampler, torch.utils.data.distributed.DistributedSampler)
    return bool(is_distributed and sampler.shuffle)
