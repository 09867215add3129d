"""The measured figures as JSON, with what one needs to judge them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hatchway import __version__
from hatchway.cli.demo.experiment import Summary


def report(summaries: Sequence[Summary], *, setting: dict[str, Any]) -> dict[str, Any]:
    """Return the setting, the machine, and every epoch with its timeline."""
    return {
        "setting": setting,
        "machine": {
            "cpu": _cpu_model(),
            "num_cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": version("numpy"),
            "hatchway": __version__,
        },
        "loaders": [
            {
                "name": summary.name,
                "epochs": [
                    {
                        "epoch_s": record.timeline.epoch_s,
                        "busy_share": record.timeline.busy_share,
                        "first_batch_s": record.timeline.first_batch_s,
                        "longest_wait_s": record.timeline.longest_wait_s,
                        "num_displaced": record.num_displaced,
                        "max_displacement": record.max_displacement,
                        "others_share": record.others_share,
                        "losses": record.losses,
                        "busy": [asdict(step) for step in record.timeline.busy],
                    }
                    for record in summary.epochs
                ],
            }
            for summary in summaries
        ],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
