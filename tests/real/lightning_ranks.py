"""A script: Lightning on two processes, whose sampler it puts into the loader itself."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import lightning
import torch

import hatchway

NUM_SAMPLES = 60


class Recording(lightning.LightningModule):
    """Notes what each epoch saw, and what it came from."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen[-1] += batch.int().tolist()
        return self.layer(batch[:, None]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    data = torch.arange(float(NUM_SAMPLES))
    loader = hatchway.DataLoader(
        data, batch_size=5, shuffle=True, num_workers=2, slow_after_s=1.5, persistent_workers=True
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    model = Recording()
    trainer.fit(model, loader)
    used = trainer.train_dataloader
    told = {
        "seen": model.seen,
        "is_ours": type(used) is hatchway.DataLoader,
        "is_rebuilt": used is not loader,
        "sampler": type(used.sampler).__name__,
        "slow_after_s": used.slow_after_s,
        "order": used.statistics().order,
        "num_batches": used.statistics().num_batches,
    }
    torch.save(told, folder / f"rank-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
