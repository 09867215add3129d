"""What ``hatchway simulate`` prints: a table and what was assumed, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hatchway import __version__
from hatchway.loader.simulator import TITLES, Outcome, Setting

# Raised by one whenever a field is removed or changes its meaning.
JSON_SCHEMA = 1
_WIDEST = 200
_COLUMNS = (
    "\nepoch",
    "over\nlimit",
    "busy,\n%",
    "waits,\n%",
    "longest\nwait, s",
    "late, samples:\nmedian/p99/max",
    "p99,\nbatches",
    "first\nbatch, s",
    "extra\nworkers",
)


@dataclass(frozen=True)
class Report:
    """The outcomes of all loaders.

    Attributes:
        source: Where the times come from.
        times_s: Seconds of each sample.
        setting: What was simulated.
        outcomes: By loader, one an epoch.
    """

    source: str
    times_s: Sequence[float]
    setting: Setting
    outcomes: Mapping[str, Sequence[Outcome]]

    def assumed(self) -> list[str]:
        """What was assumed, a sentence a line."""
        setting, costs = self.setting, self.setting.costs
        if setting.num_cores is None:
            cores = "samples wait, so that any number run at once"
        else:
            cores = f"samples compute, at most {setting.num_cores:g} at full speed at once"
        lines = [
            f"Assumed: shuffled (seed {setting.seed}); {cores}; a sample costs a loader "
            f"{costs.sample_s:g} s beyond its time, a worker {costs.fork_s:g} s to start, anew in "
            "each epoch; memory never runs short.",
        ]
        if setting.num_devices > 1:
            lines.append(
                f"{setting.num_devices} devices train in step, each with its own rank: samples are "
                "dealt as DistributedSampler does, and the workers divided: that loaders can "
                "share them is not simulated."
            )
        lines.append(
            "Limit: the work evenly split on the workers asked for, or the devices' steps. Extra "
            "workers are beyond those: Hatchway's as it starts them, MinatoLoader's as many as "
            "front workers. MinatoLoader is our model of what is published."
        )
        return lines

    def summary(self) -> str:
        """The job in one line."""
        setting = self.setting
        step_s = next(iter(self.outcomes.values()))[0].step_s
        median, longest = np.quantile(self.times_s, [0.5, 1.0])
        devices = "device" if setting.num_devices == 1 else "devices"
        return (
            f"{len(self.times_s)} samples of {self.source} (median {median:.3g} s, longest "
            f"{longest:.3g} s), {setting.num_workers} workers, {setting.num_devices} {devices}, "
            f"batches of {setting.batch_size}, a step every {step_s:.3g} s"
        )

    def show(self) -> None:
        """Print a table."""
        from rich import box
        from rich.console import Console
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("\nloader", no_wrap=True)
        for title in _COLUMNS:
            table.add_column(title, justify="right", no_wrap=True)
        for loader, epochs in self.outcomes.items():
            for number, outcome in enumerate(epochs, 1):
                title = TITLES[loader] if number == 1 else ""
                table.add_row(Text(title), *map(Text, _cells(number, outcome)))
        # Never wrapped, so that a row stays a row in a pipe.
        console = Console(soft_wrap=True, highlight=False)
        console.print(Text(self.summary(), style="bold"))
        wide = Console(width=_WIDEST)
        width = Measurement.get(wide, wide.options, table).maximum
        Console(width=width, highlight=False).print(table)
        for line in self.assumed():
            console.print(Text(line, style="dim"))

    def to_json(self) -> str:
        """The same as a JSON object whose layout ``schema`` numbers."""
        document = {
            "schema": JSON_SCHEMA,
            "hatchway": __version__,
            "source": self.source,
            "num_samples": len(self.times_s),
            "setting": asdict(self.setting),
            "assumed": self.assumed(),
            "loaders": [
                {
                    "loader": loader,
                    "title": TITLES[loader],
                    "epochs": [_figures(outcome) for outcome in epochs],
                }
                for loader, epochs in self.outcomes.items()
            ],
        }
        return json.dumps(document, indent=2)


def _cells(number: int, outcome: Outcome) -> list[str]:
    return [
        str(number),
        f"{outcome.over_limit:.2f}",
        f"{outcome.busy_share * 100:.0f}",
        f"{outcome.wait_share * 100:.1f}",
        f"{outcome.longest_wait_s:.2f}",
        "/".join(map(str, outcome.late_samples)),
        str(outcome.late_batches_p99),
        f"{outcome.first_batch_s:.2f}",
        str(outcome.num_background_workers),
    ]


def _figures(outcome: Outcome) -> dict[str, Any]:
    median, p99, most = outcome.late_samples
    return {
        "epoch_s": outcome.epoch_s,
        "limit_s": outcome.limit_s,
        "over_limit": outcome.over_limit,
        "step_s": outcome.step_s,
        "num_batches": outcome.num_batches,
        "num_samples": outcome.num_samples,
        "busy_share": outcome.busy_share,
        "wait_s": outcome.wait_s,
        "wait_share": outcome.wait_share,
        "longest_wait_s": outcome.longest_wait_s,
        "first_batch_s": outcome.first_batch_s,
        "late_samples_median": median,
        "late_samples_p99": p99,
        "late_samples_max": most,
        "late_batches_p99": outcome.late_batches_p99,
        "num_background_workers": outcome.num_background_workers,
    }
