"""What a loader would do with samples of known times: the live decisions on a simulated clock.

Imports no torch.
"""

from hatchway.loader.simulator.outcome import Outcome
from hatchway.loader.simulator.run import LOADERS, TITLES, Job, simulate
from hatchway.loader.simulator.setting import Costs, Setting

__all__ = ["LOADERS", "TITLES", "Costs", "Job", "Outcome", "Setting", "simulate"]
