"""Lightning: a Trainer's checkpoint in the middle of an epoch holds the loader's state, too.

python examples/frameworks/lightning_fit.py
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import TensorDataset

from hatchway import DataLoader  # the one line that changes

BATCH_SIZE = 4
STEPS_SAVED = 6


class Regression(lightning.LightningModule):
    """Fits a line, and notes which samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[int] = []

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        self.seen += x[:, 0].int().tolist()
        return torch.nn.functional.mse_loss(self.layer(x / 64), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, *, max_steps: int, checkpoint: Path | None = None) -> list[int]:
    """Train on 64 samples; the samples that were seen."""
    x = torch.arange(64.0)[:, None]
    loader = DataLoader(
        TensorDataset(x, x / 64), batch_size=BATCH_SIZE, shuffle=True, num_workers=2
    )
    saving = ModelCheckpoint(folder, filename="saved", every_n_train_steps=STEPS_SAVED)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        max_steps=max_steps,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Regression()
    trainer.fit(model, loader, ckpt_path=checkpoint)
    return model.seen


def main() -> None:
    """The second run sees just what the first one had not seen when it saved."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = train(folder, max_steps=STEPS_SAVED + 1)[: STEPS_SAVED * BATCH_SIZE]
        after = train(folder, max_steps=-1, checkpoint=folder / "saved.ckpt")
    assert sorted(before + after) == list(range(64))
    print(f"{len(before)} samples before the checkpoint, {len(after)} after it, each once")


if __name__ == "__main__":
    main()
