"""Transformers: a Trainer whose training data comes from the loader.

python examples/frameworks/transformers_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from hatchway import DataLoader


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Rows of eight tokens; the label says whether the first one is even."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.tensor([index, *torch.randint(64, (7,)).tolist()]),
            "labels": torch.tensor(index % 2),
        }


class Classifier(torch.nn.Module):
    """Averages embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 8)
        self.head = torch.nn.Linear(8, 2)
        self.seen: list[int] = []

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += input_ids[:, 0].tolist()
        logits = self.head(self.embedding(input_ids).mean(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class HatchwayTrainer(Trainer):
    """Transformers builds its own loader; this method is where to put another."""

    def get_train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            sampler=self._get_train_sampler(self.train_dataset),
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
        )
        prepared: DataLoader[dict[str, torch.Tensor]] = self.accelerator.prepare(loader)
        return prepared


def main() -> None:
    """Two epochs."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=2,
            per_device_train_batch_size=4,
            dataloader_num_workers=2,
            dataloader_pin_memory=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        model = Classifier()
        trainer = HatchwayTrainer(model=model, args=arguments, train_dataset=Tokens())
        result = trainer.train()
    assert sorted(model.seen) == sorted([*range(64)] * 2)
    print(f"{result.global_step} steps, every sample once in each of 2 epochs")


if __name__ == "__main__":
    main()
