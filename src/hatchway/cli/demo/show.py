"""The demo from the first line on screen to the last: prepare, measure, run, compare."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hatchway.cli.demo.calibration import SampleCost, choose_plan, choose_workers, measure
from hatchway.cli.demo.dataset import SegmentationVolumes
from hatchway.cli.demo.device import PacedDevice
from hatchway.cli.demo.experiment import EpochRecord, Summary, faults, run_epoch
from hatchway.cli.demo.neighbours import WORTH_A_WARNING
from hatchway.cli.demo.picture import draw
from hatchway.cli.demo.preprocessing import RandomBalancedCrop
from hatchway.cli.demo.report import report
from hatchway.cli.demo.screen import Screen
from hatchway.cli.demo.setting import FULL, QUICK, Contender, contenders
from hatchway.cli.demo.shapes import read_cases, spread_over_sizes
from hatchway.cli.demo.sources import load_sources
from hatchway.cli.demo.training import TrainingDevice, measure_step_s
from hatchway.cli.demo.volumes import BYTES_PER_VOXEL, cut_cases, enclosing_shape, write_scans

_MIB = 1 << 20


class Show:
    """One run of the demo; the methods stand in the order in which they run.

    Args:
        args: The options of the command.
        folder: Where volumes and unfinished files may lie; the caller removes it.
        hatchway_loader: Stands in for Hatchway's loader in tests.
        screen: Where to print.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        folder: Path,
        *,
        hatchway_loader: Callable[..., Iterable[Any]] | None = None,
        screen: Screen | None = None,
    ) -> None:
        self._started_s = time.monotonic()
        if hatchway_loader is None:
            from hatchway import DataLoader

            hatchway_loader = DataLoader
        self._args = args
        self._folder = folder
        self._size = QUICK if args.quick else FULL
        self._contenders = contenders(args.order, hatchway_loader)
        self._screen = screen or Screen()
        self._gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self._workers: int = args.workers or 2

    def run(self) -> int:
        """Run it all; return 0 if every loader delivered every case once, otherwise 1."""
        if self._gpu is None:
            self._screen.line(
                "No GPU that torch can use: the step is a paced stand-in for a device."
            )
        samples = self._prepare()
        cost = self._measure(samples)
        step_s = self._choose_step(cost)
        num_cases, num_epochs = self._choose_plan(cost, step_s)
        samples = samples.spread(num_cases)
        records = [
            self._run_one(contender, samples, epoch, num_epochs, step_s)
            for epoch in range(num_epochs)
            for contender in self._contenders
        ]
        summaries = [
            Summary(name, tuple(record for record in records if record.name == name))
            for name in (contender.name for contender in self._contenders)
        ]
        self._show(summaries, len(samples), step_s)
        if self._args.json is not None:
            self._write_json(summaries, len(samples), step_s, cost)
        return self._conclude(summaries, len(samples))

    def _prepare(self) -> SegmentationVolumes:
        size = self._size
        cases = spread_over_sizes(read_cases(size.scale), size.num_cases)
        scan_shape = enclosing_shape(cases)
        with self._screen.progress("preparing volumes", 4) as advance:
            sources = load_sources()
            advance(1)
            scans = []
            for scan in write_scans(sources, scan_shape, self._folder):
                scans.append(scan)
                advance(1)
        slices, height, width = scan_shape
        megabytes = len(scans) * slices * height * width * BYTES_PER_VOXEL // _MIB
        self._screen.line(
            f"Data: {len(cases)} volumes of the sizes of KiTS19, scaled by {size.scale} and cut "
            f"from {', '.join(source.description for source in sources)} "
            f"({megabytes} MiB in a temporary folder)."
        )
        crop = RandomBalancedCrop((size.crop_side,) * 3)
        cuts = cut_cases(cases, scan_shape, len(scans), self._args.seed)
        return SegmentationVolumes(scans, cuts, crop, seed=self._args.seed)

    def _measure(self, samples: SegmentationVolumes) -> SampleCost:
        chosen = samples.indices_by_size(self._size.num_measured)
        with self._screen.progress("measuring samples", 2 * len(chosen)) as advance:
            cost = measure(
                samples,
                chosen,
                num_workers=self._workers,
                seed=self._args.seed,
                on_sample=lambda: advance(1),
            )
        self._screen.line(
            f"Preprocessing: MLPerf's for the 3-D U-Net (crop, flips, cast, brightness, noise). "
            f"A crop anywhere takes {1e3 * cost.anywhere_s:.0f} ms, one around foreground "
            f"({cost.oversampling:.0%} of samples) {1e3 * cost.foreground_s:.0f} ms: "
            f"means of {cost.num_measured} samples on {self._workers} workers."
        )
        return cost

    def _choose_step(self, cost: SampleCost) -> float:
        batch_size = self._args.batch_size
        if self._gpu is None:
            step_s = cost.batch_s(batch_size, self._workers)
            self._screen.line(
                f"Stand-in: {1e3 * step_s:.0f} ms a step, the time in which {self._workers} "
                f"workers prepare a batch of {batch_size}: demand equals capacity."
            )
            return step_s
        shape = (batch_size, 1, *(self._size.crop_side,) * 3)
        step_s = measure_step_s(
            TrainingDevice("cuda", seed=self._args.seed),
            torch.zeros(shape),
            torch.zeros(shape, dtype=torch.uint8),
            repeats=5,
        )
        if self._args.workers is None:
            num_cpus = len(os.sched_getaffinity(0))
            self._workers = choose_workers(
                cost, step_s=step_s, batch_size=batch_size, num_cpus=num_cpus
            )
        self._screen.line(
            f"Device: {self._gpu}, a 3-D U-Net trains, {1e3 * step_s:.0f} ms a step of "
            f"{batch_size}; {self._workers} workers."
        )
        return step_s

    def _choose_plan(self, cost: SampleCost, step_s: float) -> tuple[int, int]:
        batch_size = self._args.batch_size
        batch_s = max(step_s, cost.batch_s(batch_size, self._workers))
        plan = choose_plan(
            batch_s * self._size.num_cases / batch_size,
            self._size.num_cases,
            seconds_left=self._size.total_s - (time.monotonic() - self._started_s),
            num_loaders=len(self._contenders),
            batch_size=batch_size,
        )
        if self._args.epochs is not None:
            return self._size.num_cases, self._args.epochs
        if plan.num_cases < self._size.num_cases:
            self._screen.line(
                f"This machine is busy or slow: {plan.num_cases} of {self._size.num_cases} cases."
            )
        return plan.num_cases, plan.num_epochs

    def _run_one(
        self,
        contender: Contender,
        samples: SegmentationVolumes,
        epoch: int,
        num_epochs: int,
        step_s: float,
    ) -> EpochRecord:
        seed = self._args.seed
        loader = contender.loader_class(
            samples.at_epoch(epoch),
            batch_size=self._args.batch_size,
            shuffle=True,
            num_workers=self._workers,
            pin_memory=self._gpu is not None,
            generator=torch.Generator().manual_seed(seed + epoch),
            # The same start for all, and the cheapest; the workers never touch the GPU.
            multiprocessing_context="fork",
            **contender.options,
        )
        device = PacedDevice(step_s) if self._gpu is None else TrainingDevice("cuda", seed=seed)
        title = contender.name if num_epochs == 1 else f"{contender.name}  {epoch + 1}/{num_epochs}"
        with self._screen.progress(title, len(samples)) as advance:
            record = run_epoch(contender.name, loader, device, on_batch=advance)
        self._screen.finished(title, record)
        return record

    def _show(self, summaries: Sequence[Summary], num_cases: int, step_s: float) -> None:
        num_steps = len(summaries[0].shown.timeline.busy)
        device = f"{self._gpu}, training a 3-D U-Net" if self._gpu else "a paced stand-in"
        setting = (
            f"{num_cases} volumes of KiTS19 sizes, batches of {self._args.batch_size}, "
            f"{self._workers} workers"
        )
        self._screen.table(
            summaries,
            title=f"One epoch: {setting};\nthe device is {device}",
            floor=(
                f"The device's {num_steps} steps alone take {num_steps * step_s:.2f} s. "
                "Longest wait: after the first batch."
            ),
        )
        self._warn_of_others(summaries)
        several = ""
        if len(summaries[0].epochs) > 1:
            several = f"; of {len(summaries[0].epochs)} epochs each the one of median length"
        unfinished = self._folder / "picture.png"
        draw(
            summaries,
            unfinished,
            title=f"One epoch with each loader; the device is {device}",
            subtitle=f"{setting}, {1e3 * step_s:.0f} ms a step{several}",
        )
        shutil.move(unfinished, self._args.output)
        self._screen.line(f"Picture: {self._args.output}")

    def _write_json(
        self, summaries: Sequence[Summary], num_cases: int, step_s: float, cost: SampleCost
    ) -> None:
        setting = {
            "step": self._gpu or "paced stand-in for a device",
            "step_s": step_s,
            "num_cases": num_cases,
            "batch_size": self._args.batch_size,
            "num_workers": self._workers,
            "order": self._args.order,
            "seed": self._args.seed,
            "size": asdict(self._size),
            "sample_cost": asdict(cost),
        }
        unfinished = self._folder / "report.json"
        unfinished.write_text(json.dumps(report(summaries, setting=setting), indent=1) + "\n")
        shutil.move(unfinished, self._args.json)
        self._screen.line(f"Figures: {self._args.json}")

    def _conclude(self, summaries: Sequence[Summary], num_cases: int) -> int:
        wrong = [
            f"{summary.name}: {fault}"
            for summary in summaries
            for record in summary.epochs
            for fault in faults(record, num_cases)
        ]
        for line in wrong:
            self._screen.line(f"[red]{line}[/red]")
        if wrong:
            return 1
        self._screen.line(
            f"Every loader delivered each of the {num_cases} cases exactly once in each epoch."
        )
        self._tell_displaced(summaries)
        self._screen.line(
            "In your own code, one line changes: [bold]from hatchway import DataLoader[/bold]"
        )
        return 0

    def _tell_displaced(self, summaries: Sequence[Summary]) -> None:
        displaced = [summary.shown for summary in summaries if summary.shown.num_displaced]
        if not displaced:
            return
        farthest = max(record.max_displacement or 0 for record in displaced)
        most = max(record.num_displaced or 0 for record in displaced)
        self._screen.line(
            f"Hatchway delivered up to {most} of them after their turn, by {farthest} positions "
            'at most; order="strict" keeps torch\'s order.'
        )

    def _warn_of_others(self, summaries: Sequence[Summary]) -> None:
        shares = {each.name: each.shown.others_share or 0.0 for each in summaries}
        if max(shares.values()) > WORTH_A_WARNING:
            took = ", ".join(f"{share:.0%} beside {name}" for name, share in shares.items())
            self._screen.line(
                f"[yellow]Other programs took of the CPUs {took}: compare with care, or run it "
                "again when they are done.[/yellow]"
            )
