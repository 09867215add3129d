"""How far after their turn in the sampler's order samples came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class Displacement:
    """By how much samples came late: 0 for those on time or early. Over all samples.

    Attributes:
        samples_median, samples_p99: In places of the order.
        batches_median, batches_p99: In batches, each sample's own beside the one that
            stock torch puts it in.
    """

    samples_median: int
    samples_p99: int
    batches_median: int
    batches_p99: int


def measure_displacement(
    order: Sequence[int], batches: Sequence[torch.Tensor], batch_size: int
) -> Displacement:
    """Compare the indices in ``batches`` with the sampler's ``order``, which has each once."""
    due = np.empty(len(order), dtype=np.int64)
    due[np.asarray(order)] = np.arange(len(order))
    came = torch.cat(list(batches)).numpy()
    num_batch = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    late_samples = np.arange(len(came)) - due[came]
    late_batches = num_batch - due[came] // batch_size
    return Displacement(
        samples_median=_quantile(late_samples, 0.5),
        samples_p99=_quantile(late_samples, 0.99),
        batches_median=_quantile(late_batches, 0.5),
        batches_p99=_quantile(late_batches, 0.99),
    )


def _quantile(late: npt.NDArray[np.int64], probability: float) -> int:
    return int(np.quantile(late.clip(min=0), probability, method="inverted_cdf"))
