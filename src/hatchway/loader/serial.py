"""One pass over a loader without workers, with the same samples as with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter

from hatchway.loader.access import by_index
from hatchway.loader.cost import SLOW_QUANTILE, SampleTimes
from hatchway.loader.seeding import (
    collate_position,
    make_seeder,
    restore_generators,
    save_generators,
)
from hatchway.loader.statistics import LoaderStatistics, Meter


class SerialIterator(_BaseDataLoaderIter):
    """Loads in the calling process, whose own generators it leaves as they were."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        if loader.timeout != 0:
            raise ValueError(f"timeout must be 0 with num_workers=0, not {loader.timeout}")
        self._dataset = by_index(loader.dataset)
        self._seeder = make_seeder() if loader.seeding == "position" else None
        self._meter = Meter()
        self._times = SampleTimes(SLOW_QUANTILE, is_quantile=True)
        self._position = 0
        loader._statistics.follow(self)
        self._box = loader._statistics

    def statistics(self) -> LoaderStatistics:
        """What this pass did so far."""
        return self._meter.snapshot(
            sample_time_quantiles_s=self._times.quantiles(0.5, 0.75, 0.99, 1.0),
            slow_after_s=self._times.cut_s(),
            order="strict",
        )

    def _next_data(self) -> Any:
        asked = self._meter.asked()
        try:
            keys = next(self._sampler_iter)
        except StopIteration:
            self._meter.answered(asked, 0)
            self._box.keep(self, self.statistics())
            raise
        keys = list(keys) if self._auto_collation else [keys]
        first, self._position = self._position, self._position + len(keys)
        saved = save_generators() if self._seeder else None
        try:
            samples = [self._load(key, first + row) for row, key in enumerate(keys)]
            if self._seeder is not None:
                self._seeder.seed(int(self._base_seed), 0, collate_position(first))
            batch = self._collate_fn(samples if self._auto_collation else samples[0])
        finally:
            if saved is not None:
                restore_generators(saved)
        self._meter.answered(asked, len(keys))
        if self._pin_memory:
            batch = _utils.pin_memory.pin_memory(batch, self._pin_memory_device)
        return batch

    def _load(self, key: Any, position: int) -> Any:
        if self._seeder is not None:
            self._seeder.seed(int(self._base_seed), 0, position)
        asked = self._meter.asked()
        sample = self._dataset[key]
        self._times.observe(np.array([self._meter.asked() - asked], np.float32))
        return sample
