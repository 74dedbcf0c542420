"""accelerate on two processes: the example, what `prepare` does, an epoch that is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator, debug_launcher
from loops import OPTIONS, expected, look_at, run_example, tell
from torch import distributed

from pipelines import make_loader

WORLD = 2


def work(main: Any) -> None:
    """One process: the example's training, and one of our own."""
    # As `accelerate launch` and torchrun tell; what launches here is for tests, and does not.
    os.environ |= {"LOCAL_RANK": str(distributed.get_rank()), "LOCAL_WORLD_SIZE": str(WORLD)}
    main()
    accelerator = Accelerator()
    rank = accelerator.process_index
    place = {"rank": rank, "world": accelerator.num_processes, "device": accelerator.device}
    loader = make_loader("resident", "data/train.beton", **OPTIONS, **place)
    found: dict[str, Any] = {"is_itself": accelerator.prepare(loader) is loader, "seen": []}
    accelerator.register_for_checkpointing(loader)
    labels = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        for step, (images, answers) in enumerate(loader):
            found["seen"].append(look_at(images))
            labels.append(accelerator.gather(answers).tolist())
            if (epoch, step) == (1, 1):
                accelerator.save_state("within")
    accelerator.load_state("within")
    loader.set_epoch(1)
    found |= {"rest": [look_at(images) for images, _ in loader], "labels": labels}
    Path(f"{rank}.json").write_text(json.dumps(found))


def main() -> None:
    example = run_example("example")
    debug_launcher(work, (example["main"],), WORLD)
    with make_loader("resident", "data/train.beton", **OPTIONS) as loader:
        labels = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            labels += [answers.tolist() for _, answers in loader]
    tell(
        ranks=[json.loads(Path(f"{rank}.json").read_text()) for rank in range(WORLD)],
        expected=[expected(rank=rank, world=WORLD) for rank in range(WORLD)],
        labels=labels,
    )


if __name__ == "__main__":
    main()
