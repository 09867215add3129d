"""Rows of a Hugging Face table: ``python -m benchmarks.tables``.

A table of 128 token ids and a label a row, in torch's format, in random order, through 2
workers to a consumer that takes batches as fast as they come. *Milliseconds a batch* is the time
from the first batch's arrival to the last one's, over the batches but the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch.utils.data

from benchmarks.arguments import positive
from benchmarks.figures import spread
from benchmarks.suite import rotated

NUM_ROWS = 40_000
NUM_TOKENS = 128
BATCH_SIZE = 32
NUM_WORKERS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0."""
    options = _parser().parse_args(arguments)
    try:
        table = _table(options.rows)
    except ImportError as error:
        raise SystemExit(f"{error}; `make test` installs it") from error
    loaders = _loaders()
    batch_ms: dict[str, list[float]] = {name: [] for name in loaders}
    for repeat in range(options.repeats):
        for name in rotated(list(loaders), repeat):
            batch_ms[name].append(_batch_ms(loaders[name](table)))
    print(f"{options.rows} rows of {NUM_TOKENS} token ids, batch {BATCH_SIZE}, 2 workers")
    for name, values in batch_ms.items():
        over = spread(mine / theirs for mine, theirs in zip(values, batch_ms["torch"], strict=True))
        print(f"{name}: {spread(values).text()} ms a batch, over torch {over.text()}")
    return 0


def _table(num_rows: int) -> Any:
    import datasets

    tokens = np.random.default_rng(0).integers(30_000, size=(num_rows, NUM_TOKENS)).tolist()
    rows = {"input_ids": tokens, "label": list(range(num_rows))}
    return datasets.Dataset.from_dict(rows).with_format("torch")


def _loaders() -> dict[str, Callable[[Any], Any]]:
    from hatchway import DataLoader

    def made(kind: Any, **more: Any) -> Callable[[Any], Any]:
        arguments = {"batch_size": BATCH_SIZE, "shuffle": True, "num_workers": NUM_WORKERS, **more}
        return lambda table: kind(table, **arguments)

    return {
        "torch": made(torch.utils.data.DataLoader),
        "torch, prefetch_factor=8": made(torch.utils.data.DataLoader, prefetch_factor=8),
        "Hatchway": made(DataLoader),
        "Hatchway, order='strict'": made(DataLoader, order="strict"),
        "Hatchway, batched_fetch=False": made(DataLoader, batched_fetch=False),
    }


def _batch_ms(loader: Any) -> float:
    num_rows, arrivals = 0, []
    for batch in loader:
        arrivals.append(time.perf_counter())
        num_rows += len(batch["label"])
    if num_rows != len(loader.dataset):
        raise AssertionError(f"{num_rows} rows came, of {len(loader.dataset)}")
    return (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1) * 1e3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description="Rows of a Hugging Face table, with torch's loader and with Hatchway's.",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="default: 5")
    parser.add_argument("--rows", type=positive, default=NUM_ROWS, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
