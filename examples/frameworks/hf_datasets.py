"""Hugging Face datasets: a table in torch's format.

python examples/frameworks/hf_datasets.py
"""

from __future__ import annotations

import datasets

from hatchway import DataLoader  # the one line that changes


def main() -> None:
    """One epoch in random order; every row once."""
    rows = {"number": list(range(64)), "text": [f"row {number}" for number in range(64)]}
    data = datasets.Dataset.from_dict(rows).with_format("torch")
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=2)
    numbers = []
    for batch in loader:
        assert batch["text"] == [f"row {number}" for number in batch["number"].tolist()]
        numbers += batch["number"].tolist()
    assert sorted(numbers) == list(range(64))
    print(f"{len(numbers)} rows in {len(loader)} batches, each once")


if __name__ == "__main__":
    main()
