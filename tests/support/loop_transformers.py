"""Hugging Face's Trainer: the example, and a run that is resumed within an epoch."""

from __future__ import annotations

from typing import Any

from loops import STEPS, expected, look_at, run_example, tell
from transformers import TrainerCallback

#: Steps behind which a run is stopped.
STOP = STEPS + 2


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = control.should_save = state.global_step == STOP


def main() -> None:
    example = run_example()
    seen: list[int] = []

    class Spying(example["PhotoTrainer"]):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            seen.append(look_at(inputs["pixel_values"]))
            return super().training_step(model, inputs, *rest)

    def train(folder: str, resume: str | None = None, **options: Any) -> list[int]:
        seen.clear()
        example["make_trainer"].__globals__["PhotoTrainer"] = Spying
        trainer = example["make_trainer"](folder, disable_tqdm=True, save_strategy="no")
        if resume is None and folder == "begun":
            trainer.add_callback(Stop())
        trainer.train(resume_from_checkpoint=resume)
        return list(seen)

    whole, begun = train("whole"), train("begun")
    rest = train("rest", f"begun/checkpoint-{STOP}")
    tell(
        whole=whole,
        begun=begun,
        rest=rest,
        expected=expected(),
        evaluated=example["trainer"].evaluate(),
    )


if __name__ == "__main__":
    main()
