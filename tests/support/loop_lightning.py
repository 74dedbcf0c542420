"""Lightning's Trainer: the example, runs resumed within an epoch and behind it, overfitting."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
from loops import EPOCHS, OPTIONS, expected, look_at, run_example, tell

from pipelines import make_loader

#: Steps behind which a run is stopped.
STOP = 6
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Spy(pl.Callback):
    """Notes the batches, and stops after a step, or an epoch."""

    def __init__(self, stop: int | None = None) -> None:
        self.seen: list[int] = []
        self.stop = stop

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.seen.append(look_at(batch[0]))

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        if trainer.global_step == self.stop:
            trainer.save_checkpoint("within.ckpt")
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if self.stop is None and trainer.current_epoch == 0:
            trainer.save_checkpoint("behind.ckpt")


def main() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        example = run_example()

        def fit(spy: Spy, resume: str | None = None) -> list[int]:
            trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[spy], **QUIET)
            trainer.fit(example["Classifier"](classes=3), ckpt_path=resume)
            return spy.seen

        whole = fit(Spy())
        begun = fit(Spy(STOP))
        rest, behind = fit(Spy(), "within.ckpt"), fit(Spy(), "behind.ckpt")
    said = {str(each.message) for each in warned}
    tell(
        whole=whole,
        begun=begun,
        rest=rest,
        behind=behind,
        expected=expected(),
        overfitted=overfit(example),
        warned=[text for text in said if "loader" in text.lower() or "resum" in text],
    )


def overfit(example: dict[str, Any]) -> list[int]:
    """Two epochs of the same two batches."""
    spy = Spy()
    trainer = pl.Trainer(
        max_epochs=2, overfit_batches=2, limit_val_batches=0, callbacks=[spy], **QUIET
    )
    with make_loader("resident", "data/train.beton", **{**OPTIONS, "view": "eval"}) as loader:
        trainer.fit(example["Classifier"](classes=3), loader)
    return spy.seen


if __name__ == "__main__":
    main()
