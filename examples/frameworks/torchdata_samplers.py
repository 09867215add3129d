"""torchdata: its samplers, and its StatefulDataLoader's way to stop and go on.

python examples/frameworks/torchdata_samplers.py
"""

from __future__ import annotations

from torchdata.stateful_dataloader.sampler import RandomSampler

from hatchway import DataLoader  # in place of torchdata.stateful_dataloader.StatefulDataLoader


def main() -> None:
    """Stop after 5 of 16 batches; another loader goes on with the rest."""
    data = list(range(64))

    def loader(num_workers: int) -> DataLoader[int]:
        return DataLoader(data, batch_size=4, sampler=RandomSampler(data), num_workers=num_workers)

    first = loader(2)
    batches = iter(first)
    before = [number for _ in range(5) for number in next(batches).tolist()]
    state = first.state_dict()
    del batches

    second = loader(1)
    second.load_state_dict(state)
    after = [number for batch in second for number in batch.tolist()]
    assert sorted(before + after) == data
    print(f"{len(before)} samples before the stop, {len(after)} after it, each once")


if __name__ == "__main__":
    main()
