"""One pass over a loader with worker processes, seen from the training process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter

from hatchway.loader.background import LOOK_S, look_after_s
from hatchway.loader.board import Alive, Head, Running, Waiting
from hatchway.loader.commons import Commons
from hatchway.loader.cost import SampleTimes
from hatchway.loader.delivery import Delivered
from hatchway.loader.errors import LoaderTimeoutError
from hatchway.loader.failure import CopyFailure, Failure
from hatchway.loader.foresight import Foresight
from hatchway.loader.learning import learn, tell_cut
from hatchway.loader.ondevice import make_inbox
from hatchway.loader.options import (
    lookahead_batches,
    makes_batches_freely,
    most_workers,
    resolve_order,
)
from hatchway.loader.plan import Plan, nothing_upcoming
from hatchway.loader.pool_crew import adaptation_of, pool_of
from hatchway.loader.rescue import Rescue
from hatchway.loader.shared import wait_readable
from hatchway.loader.sharing import sharing_of
from hatchway.loader.sizing import commons_config
from hatchway.loader.statistics import LoaderStatistics, Meter
from hatchway.loader.task import task_of
from hatchway.loader.upcoming import OrderForecast

# A worker's sentinel stays quiet while a process that it forked lives: look by oneself.
_LONGEST_LOOK_S = 1.0
_BROKEN = (
    "{} interrupted this pass over the loader while a batch was handed over; to go on would "
    "lose or repeat samples: iterate over the loader anew"
)


class ParallelIterator(_BaseDataLoaderIter):
    """Plans positions, takes batches, and keeps the workers alive."""

    def __init__(self, loader: Any) -> None:
        if loader.prefetch_factor < 1:
            raise ValueError(
                f"prefetch_factor must be at least 1 with workers, not {loader.prefetch_factor}"
            )
        super().__init__(loader)
        self._passes = loader._passes
        self._pass = self._passes.begin(loader, self, 0)
        options = loader.options
        self._box = loader._statistics
        self._order = resolve_order(loader)
        self._meter = Meter()
        cut, is_quantile = options.slow_cut
        self._times = SampleTimes(cut, is_quantile=is_quantile)
        count = loader.worker_count
        num_workers = loader.num_workers if count is None else count.count
        sharing = self._sharing = sharing_of(loader)
        self._max_workers = most_workers(loader) if sharing is None else num_workers
        self._open = True
        self._is_handing_over = False
        self._broken_by = ""
        self._pid = os.getpid()
        self._helped = 0.0
        self._forecast = OrderForecast(loader)
        has_next = loader.persistent_workers and loader.prepare_next_epoch
        self._upcoming = self._forecast.upcoming if has_next else nothing_upcoming
        self._free = makes_batches_freely(loader)
        in_order = self._order == "strict"
        most = self._max_workers + (0 if sharing is None else sharing.num_guests)
        config = commons_config(loader, self._free, in_order, most, self._pass.script)
        self._commons = Commons(config, has_threads=loader.has_threads)
        self._board = self._commons.board
        self._visit = self._commons.locked(self._commons.training_process)
        head = self._board.head
        # Other ranks' workers need no seat of this one's.
        head[Head.NUM_SEATS] = num_workers if sharing is None else most
        tell_cut(self._board, self._times)
        self._foresight = Foresight(loader.costs, num_workers)
        self._plan = Plan(
            self._commons,
            window=lookahead_batches(loader, num_workers),
            batch_size=config.rules.batch_size if self._free else None,
            single=not self._auto_collation,
            foresight=self._foresight,
        )
        self._inbox = make_inbox(self._commons, loader.device)
        self._pin_memory &= loader.device is None
        told = loader.num_workers if count is None else self._max_workers
        task = task_of(loader, self._commons, self._pass.base_seed, num_workers=told)
        self._pool = pool_of(loader, task, sharing)
        self._rescue = Rescue(self._commons, self._pool, self._meter)
        self._adaptation = adaptation_of(
            loader, self._pool, self._plan, self._foresight, self._rescue.replace_dead
        )
        self._box.follow(self)
        try:
            self._begin(first=True)
        except BaseException:
            self._shutdown_workers()
            raise

    def statistics(self) -> LoaderStatistics:
        """What this pass did so far."""
        board = self._board
        self._inbox.release_dropped()
        return self._meter.snapshot(
            sample_time_quantiles_s=self._times.quantiles(0.5, 0.75, 0.99, 1.0),
            slow_after_s=self._times.cut_s(),
            buffer_bytes=self._commons.config.buffer_bytes,
            buffer_used_bytes=self._commons.heap.used_bytes(),
            buffer_peak_bytes=board.head[Head.PEAK],
            num_workers=min(board.head[Head.NUM_SEATS], self._max_workers),
            num_workers_reason="" if self._adaptation is None else self._adaptation.reason,
            num_workers_alive=self._pool.size if self._open else 0,
            num_guests=len(self._pool.guests.present()) if self._open else 0,
            num_copied_batches=self._inbox.num_copied,
            num_batches_ahead=self._inbox.num_ahead,
            order=self._order,
        )

    def _begin(self, *, first: bool, was_over: bool = False) -> None:
        """Plan the first window and get the workers going.

        Args:
            first: Whether there are no workers yet.
            was_over: Whether the pass before was delivered to its end.
        """
        self._foresight.begin()
        self._inbox.begin()
        plan, upcoming = self._plan, self._upcoming
        left: Iterator[Any] | None = self._sampler_iter
        goes_on = self._pass.goes_on
        if was_over and not goes_on:
            left = plan.check_prepared(self._sampler_iter)
            if plan.has_prepared:
                self._forecast.judge(was_right=left is None)
        if left is None:
            with self._visit:
                plan.adopt(self._sampler_iter, upcoming)
        else:
            if not first:
                self._abandon()
            head = self._board.head
            head[Head.BASE_SEED], head[Head.EPOCH] = self._pass.base_seed, self._pass.number
            progress = self._pass.progress if goes_on else None
            plan.begin(left, upcoming, progress, self._pass.script)
        self._pass.progress = plan.progress
        self._plan.draw(1)
        self._forecast.begin()
        with self._visit:
            self._plan.publish()
        if first:
            self._pool.start(0)
        self._plan.draw(None)
        with self._visit:
            self._plan.publish()
            if not first:
                self._pool.wake(self._pool.size)
        if first:
            self._pool.start_all(min(self._board.head[Head.NUM_SEATS], self._max_workers))
            if self._sharing is not None:
                self._sharing.meet()
        if self._adaptation is not None:
            self._adaptation.begin(time.monotonic(), 0.0)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        """Begin another epoch with the same workers (``persistent_workers=True``)."""
        self._is_handing_over = True
        try:
            super()._reset(loader, first_iter)
            was_over = self._pass.is_over
            self._pass = self._passes.begin(loader, self, self._pass.number + 1)
            self._meter = Meter()
            self._rescue.meter = self._meter
            self._box.follow(self)
            self._begin(first=False, was_over=was_over)
        except BaseException as error:
            self._close_if_broken(error)
            raise

    def _abandon(self) -> None:
        """Drop what is left of an epoch; samples that run are waited for."""
        board, commons = self._board, self._commons
        head = board.head
        while True:
            with self._visit:
                commons.schedule.abandon()
                busy = (board.running.array != Running.NOTHING) & (board.alive.array != Alive.GONE)
                if not busy.any():
                    self._plan.forget()
                    break
                # Who finishes rings. The idle sleep on; who waits for memory gives up.
                head[Head.WAITING] = Waiting.EPOCH_END
            commons.wake_for_memory()
            wait_readable([commons.bell.fileno(), *self._pool.sentinels()], 1.0)
            commons.bell.silence()
            self._rescue.replace_dead()

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            StopIteration: At the end of the epoch.
        """
        if torch.autograd.profiler._is_profiler_enabled:
            return super().__next__()  # as a named range, for 50 us
        batch = self._next_data()
        self._num_yielded += 1
        return batch

    def _next_data(self) -> Any:
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this iterator belongs to the process that forked this one; iterate over the "
                "loader anew here"
            )
        if not self._open:
            if self._broken_by:
                raise RuntimeError(_BROKEN.format(self._broken_by))
            raise StopIteration
        meter = self._meter
        asked = meter.asked()
        num_samples, is_failure = 0, False
        try:
            delivered = self._take(asked)
            if delivered is not None:
                self._note(delivered)
                batch = self._inbox.open(delivered)
                is_failure = isinstance(batch, Failure | CopyFailure)
                num_samples = 0 if is_failure else len(delivered.positions)
            meter.answered(asked, num_samples)
            self._plan.arrived()
            if self._pass.record is not None and delivered is not None:
                start = self._board.head[Head.EPOCH_START]
                self._pass.record.append(delivered.positions - start)
            self._is_handing_over = False
        except BaseException as error:
            meter.answered(asked, 0)
            self._close_if_broken(error)
            raise
        if delivered is None:
            self._pass.is_over = True
            self._box.keep(self, self.statistics())
            if not self._persistent_workers:
                self._shutdown_workers()
            raise StopIteration
        if is_failure:
            batch.reraise()
        if self._pin_memory:
            batch = _utils.pin_memory.pin_memory(batch, self._pin_memory_device)
        return batch

    def _note(self, delivered: Delivered) -> None:
        """Learn from the times and the order of a batch's samples."""
        positions, board = delivered.positions, self._board
        seconds = learn(
            board,
            positions,
            self._times,
            self._foresight,
            time.monotonic(),
            has_plain_indices=self._plan.has_plain_indices,
        )
        if self._adaptation is not None:
            self._adaptation.delivered(float(seconds.sum()))
        if self._order == "ready":
            ranks = positions - board.head[Head.EPOCH_START]
            first_rank = self._pass.progress.num_delivered - len(positions)
            self._meter.displaced(ranks, first_rank)

    def _close_if_broken(self, error: BaseException) -> None:
        """Close the iterator if ``error``, a Ctrl-C say, came where a batch may be lost by it."""
        if self._is_handing_over:
            self._broken_by = type(error).__name__
            self._plan.take_back()
            self._shutdown_workers()

    def _take(self, asked: float) -> Delivered | None:
        """Wait for the next batch; None at the end of the epoch."""
        board, commons, plan = self._board, self._commons, self._plan
        head, delivery = board.head, commons.delivery
        self._is_handing_over = True
        self._adapt()
        plan.draw(1)
        while True:
            self._inbox.release_dropped()
            with self._visit:
                plan.publish()
                holds_back = self._free and delivery.compose(now_s=time.monotonic())
                delivered = delivery.take()
                if delivered is not None:
                    plan.delivered(delivered.positions)
                    if self._free:
                        delivery.compose(now_s=time.monotonic())
                    head[Head.WAITING] = Waiting.NOTHING
                elif delivery.finished():
                    break
                else:
                    head[Head.WAITING] = Waiting.BATCH_OR_SLOW if holds_back else Waiting.BATCH
                self._pool.wake(plan.work_left())
                commons.wake_for_memory()
            if delivered is not None:
                if asked - self._helped > LOOK_S:
                    self._help()  # what is slow now may hold all workers in the loop's step
                return delivered
            if not (plan.draw(None) or self._adapt(waits=True)):
                out, slept = head[Head.OUT_HEAD], time.monotonic()
                is_held = head[Head.HELD_OUT] == out + 1
                self._sleep(asked, holds_back=holds_back)
                slept_s = time.monotonic() - slept
                self._meter.starved_s += slept_s
                if is_held:
                    self._meter.stalled(out, slept_s)
        self._is_handing_over = False
        plan.end()
        return None

    def _adapt(self, *, waits: bool = False) -> bool:
        """Have the number of workers follow the load; whether one was started."""
        adaptation, has_started = self._adaptation, self._pool.start_next()
        if adaptation is None or has_started:
            return has_started
        now = time.monotonic()
        if now >= adaptation.next_s:
            adaptation.look(now, self._meter.starved_s)
        return waits and adaptation.grow()

    def _help(self) -> None:
        if self._order == "ready" and self._adaptation is None:
            self._helped = time.monotonic()
            self._rescue.help(self._board.head[Head.NUM_SEATS], self._max_workers)

    def _sleep(self, asked: float, *, holds_back: bool) -> None:
        """Wait for a batch, for a worker's death, or for samples to become slow."""
        bell = self._commons.bell
        look_s = None
        if self._order == "ready":
            look_s = look_after_s(self._times.cut_s(), holds_back=holds_back)
        self._is_handing_over = False
        if self._timeout > 0:
            left_s = asked + self._timeout - time.monotonic()
            if left_s <= 0:
                raise LoaderTimeoutError(
                    f"DataLoader timed out after {self._timeout} seconds without a batch; "
                    f"{self._rescue.describe_running()}"
                )
            look_s = left_s if look_s is None else min(look_s, left_s)
        look_s = _LONGEST_LOOK_S if look_s is None else min(look_s, _LONGEST_LOOK_S)
        begun = time.monotonic()
        if self._adaptation is not None:
            look_s = min(look_s, max(0.0, self._adaptation.next_s - begun))
        awaits = self._plan.awaits
        readable = wait_readable([bell.fileno(), *self._pool.sentinels(), *awaits], look_s)
        self._is_handing_over = True
        waited_long = time.monotonic() - begun >= _LONGEST_LOOK_S
        woken_by = set(readable)
        if bell.fileno() in woken_by:
            bell.silence()
        if woken_by - {bell.fileno(), *awaits} or waited_long or not self._pool.size:
            self._rescue.replace_dead()
        if not woken_by:
            self._help()

    @property
    def _workers(self) -> list[Any]:  # torch's name, which others look at
        return self._pool.everyone

    @property
    def is_open(self) -> bool:
        """Whether there are workers of this process; not after an end that an exception forced."""
        return self._open and os.getpid() == self._pid

    def _shutdown_workers(self) -> None:
        """Stop the workers; batches that were handed out stay valid."""
        if self._open:
            self._open = False
            try:
                last = self.statistics()
                self._inbox.close()
            finally:
                self._pool.close()
            self._box.keep(self, last)

    def __del__(self, is_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        # At exit the pool's own finalizer has stopped the workers; globals may be gone.
        has_pool = getattr(self, "_pool", None) is not None
        if has_pool and not is_exit() and os.getpid() == self._pid:
            self._shutdown_workers()
