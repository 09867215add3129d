"""The last batch of a process that Accelerate filled up with samples from the beginning.

``gather_for_metrics`` cuts off the end of the last batches. What fills them up must lie there,
and so leave in no earlier batch: it is planned when nothing before it is unfinished.
"""

from __future__ import annotations

from hatchway.loader.board import Head, Status
from hatchway.loader.commons import Commons


def may_follow(commons: Commons) -> bool:
    """Whether the batch that comes next may be planned now. Holds the lock."""
    board, head = commons.board, commons.board.head
    begin, end = head[Head.TAIL], head[Head.PUBLISHED]
    if end - head[Head.EPOCH_START] != commons.config.rules.filled_from:
        return True
    return not board.count(board.status, begin, end, Status.PLANNED, Status.CLAIMED)
