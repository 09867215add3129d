"""How far a loader works ahead, and how large its tables are for that. Pure."""

from __future__ import annotations

from hatchway.loader.board import BoardShape, power_of_two

# Batches that are put together before they are asked for, where their content
# is free: one for the training loop and one that a worker is collating.
DEPTH = 2
DEFAULT_PREFETCH_FACTOR = 2
_LEAST_LOOKAHEAD = 64
_MOST_BLOCKS = 1 << 20


def window_batches(num_workers: int, prefetch_factor: int, batch_size: int | None) -> int:
    """How many batches may be under way or finished before they are asked for.

    ``prefetch_factor`` for each worker, as in torch, but at least two; and at
    its default of 2 at least 64 samples, which small batches need to ride out a
    run of slow ones. The buffer's bound in bytes holds in any case.

    Args:
        num_workers: As the user said.
        prefetch_factor: As the user said.
        batch_size: Samples a batch; None where the user's batch sampler says.
    """
    batches = max(2, prefetch_factor * num_workers)
    if prefetch_factor == DEFAULT_PREFETCH_FACTOR and batch_size is not None:
        batches = max(batches, -(-_LEAST_LOOKAHEAD // batch_size))
    return batches


def board_shape(
    window: int,
    batch_size: int,
    *,
    free: bool,
    num_workers: int,
    num_positions: int | None = None,
    most_ahead: int = 0,
) -> BoardShape:
    """The tables of a pass over a loader.

    Args:
        window: How many batches may be planned and not delivered.
        batch_size: Samples a batch.
        free: Whether batches are made of whatever is finished.
        num_workers: How many workers there may be in all.
        num_positions: Size of the ring of positions, where batches have no known size.
        most_ahead: How many samples must be planned before a recorded batch can leave.
    """
    positions = num_positions
    if positions is None:
        ahead = 2 * (most_ahead + batch_size)
        positions = power_of_two(max(1024, 4 * window * batch_size, ahead))
    rings = power_of_two(2 * (window + 2) + positions // max(1, batch_size) * free)
    return BoardShape(
        positions=positions,
        homes=rings,
        outgoing=power_of_two(2 * DEPTH + 4) if free else rings,
        members=batch_size if free else 1,
        workers=num_workers,
        blocks=min(_MOST_BLOCKS, max(1024, 2 * positions)),
    )
