"""The training loop: steps, evaluation, and where it stands, so that it can go on from there."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from fastft.config.checks import plain
from fastft.config.train import TrainConfig
from fastft.model.built import BuiltModel
from fastft.model.freezing import freeze, set_training
from fastft.model.loading import load_state
from fastft.model.optim import (
    WeightAverage,
    find_optimizer,
    pack_optimizer,
    set_learning_rate,
    unpack_optimizer,
)
from fastft.model.sync_bn import synchronize_batch_norm
from fastft.model.tasks import find_goal
from fastft.runs.checkpoint import Checkpoint
from fastft.runs.folder import LAST
from fastft.runs.metrics import Waits
from fastft.runs.preprocessing import pack_preprocessing
from fastft.system.environment import environment
from fastft.system.progress import epoch_progress
from fastft.system.signals import Stopped, StopSignals
from fastft.train.compiling import Compiling, name_setup
from fastft.train.costs import Costs
from fastft.train.distributed import distribute
from fastft.train.evaluate import Evaluation, evaluate
from fastft.train.inputs import Inputs
from fastft.train.micro_batch import find_micro_batch
from fastft.train.pace import Mark, Pace, tuned
from fastft.train.recorder import Recorder
from fastft.train.result import TrainResult, tell_epoch
from fastft.train.resume import require_fit
from fastft.train.run_state import RunState, identify
from fastft.train.step import TrainStep
from fastft.train.step_log import StepLog
from pipelines.errors import DataError

_PACKAGES = ("torch", "cpu", "gpu")


class Trainer:
    """The state of one run: model, optimizer, files, position.

    Attributes:
        step: one training step.
        optimizer: of all parameters, the frozen ones included.
        goal: its task.
        loss: what is minimized.
        frozen: modules that stay in eval mode.
        state: where the run stands, as of the last checkpoint.
    """

    def __init__(
        self,
        config: TrainConfig,
        inputs: Inputs,
        built: BuiltModel,
        console: Console,
        stop: StopSignals | None = None,
        costs: Costs | None = None,
    ) -> None:
        """Prepare a run from its beginning.

        Args:
            config: filled in by `resolve_inputs` and `resolve_rates`.
            inputs: opened for this config.
            built: the model.
            console: where progress and notes go.
            stop: who says that it is time to end; None: nobody.
            costs: is told where the seconds go.
        """
        self._config, self._inputs, self._built, self._console = config, inputs, built, console
        self._device, self._world = inputs.device, inputs.world
        self._stop, self._costs = stop or StopSignals(), costs or Costs()
        self._model: nn.Module = built.model.to(self._device)
        self.goal = find_goal(inputs.train.source)
        self.loss = self.goal.make_loss(config, inputs.train.source, self._device)
        self._meaning = self.goal.meaning
        with self._costs.of("rehearsal"):
            micro_batch = self._find_micro_batch()
        if config.sync_bn and self._world.size > 1:
            self._model = synchronize_batch_norm(self._model)
        self.frozen = freeze(built, config.freeze)
        self.optimizer = find_optimizer(config, built)
        self._average = WeightAverage(self._model, config.ema) if config.ema else None
        inputs.train.seed = config.seed
        self._per_epoch = len(inputs.train)
        self.step = TrainStep(
            self._model,
            self.optimizer,
            self.loss,
            device=self._device,
            amp_dtype=inputs.amp_dtype,
            average=self._average,
            world=self._world,
            micro_batch=micro_batch,
            sync_bn=config.sync_bn,
            clip_grad=config.clip_grad,
            seed=config.seed,
        )
        assert config.batch_size is not None
        self._compiling = Compiling(
            config.compile,
            self.step,
            batch=config.batch_size,
            size=config.size,
            world=self._world,
            say=lambda line: console.print(line, markup=False),
            setup=name_setup(
                self._device,
                arch=built.arch,
                px=config.size,
                frozen=config.freeze or "nothing",
                images=-(-config.batch_size // self._world.size),
                amp=inputs.amp_dtype,
                optimizer=config.optimizer,
                processes=self._world.size,
            ),
        )
        self._last_good, self._begun_s = "", time.perf_counter()
        self._has_trained, self._offered = False, 0
        found = environment()
        self.state = RunState(
            data={
                "train": identify(inputs.train.source),
                "eval": identify(inputs.evaluation.source),
            },
            how={
                "loader": config.loader,
                "device": self._device.type,
                "amp": str(inputs.amp_dtype),
                "processes": self._world.size,
                **{name: found[name] for name in _PACKAGES},
            },
        )

    def restore(self, checkpoint: Checkpoint, state: RunState, path: Path) -> None:
        """Stand where a checkpoint says.

        Raises:
            DataError: it does not belong to this model, its optimizer or the settings.
        """
        assert self._config.batch_size is not None
        require_fit(
            checkpoint,
            state,
            model=self._model,
            optimizer=self.optimizer,
            scaler=self.step.scaler,
            has_average=self._average is not None,
            batch_size=self._config.batch_size,
            path=path,
        )
        load_state(self._model, checkpoint.model)
        unpack_optimizer(self.optimizer, checkpoint.optimizer)
        if checkpoint.scaler:  # empty where the run was not in float16
            self.step.scaler.load_state_dict(dict(checkpoint.scaler))
        if self._average is not None and checkpoint.ema is not None:
            self._average.restore(checkpoint.ema, state.averaged)
        self.state = replace(state, how=self.state.how)
        self._meaning = self._meaning.after(checkpoint.score, checkpoint.outputs.thresholds)
        self._compiling.restore(state.compiled)
        self._last_good = f"; {path} is that {state}"

    def run(self, *, trusts_last: bool = False, recorder: Recorder | None = None) -> TrainResult:
        """Train what is left of all epochs; what has been reached is in the run folder.

        Args:
            trusts_last: whether the run goes on from LAST, which then is known to be whole.
            recorder: takes rows and checkpoints; None: one that writes the run folder.
        """
        config, state = self._config, self.state
        first = state.epoch * self._per_epoch + state.sums.steps
        self._begun_s = time.perf_counter() - state.seconds
        with recorder or Recorder(
            config,
            self._console,
            is_main=self._world.is_main,
            keep_bytes=state.metrics_bytes,
            first_step=first,
            costs=self._costs,
            trusts_last=trusts_last,
        ) as recorder:
            try:
                while not state.is_done:
                    self._epoch(recorder)
            except DataError as error:
                if not str(error.where).startswith("step "):
                    raise
                remedy = error.remedy + self._last_good
                raise DataError(error.where, error.found, error.expected, remedy) from None
            with self._costs.of("checkpoints"):
                recorder.finish(state)
        self._compiling.save()
        seconds = time.perf_counter() - self._begun_s
        return TrainResult(config.out, tuple(state.rows), state.best[0], seconds)

    def _epoch(self, recorder: Recorder) -> None:
        """Train what is left of an epoch, evaluate, and save."""
        config, state, epoch = self._config, self.state, self.state.epoch
        self._prepare(epoch)
        log = StepLog(
            epoch, epoch * self._per_epoch, self.loss, self._world, recorder.write, state.sums
        )
        trained_s = state.sums.seconds
        with self._stop.deferred():
            began = Mark(self._device)
            with self._costs.of("later_epochs" if self._has_trained else "first_epoch"):
                self._take_steps(log, recorder)
            ended = Mark(self._device)
            with self._costs.of("evaluation"):
                result = self._evaluate(log, recorder)
                # Steps are queued on a GPU; that the last of them has ended is known only now.
                log.sums.seconds = trained_s + ended.seconds_since(began)
                eval_s = Mark(self._device).seconds_since(ended)
            row = log.epoch_metrics(result, config.epoch_size(epoch), eval_s)
            self._meaning = self._meaning.after(row.score, result.thresholds)
            recorder.write(row)
            state.finish_epoch(row, epochs=config.epochs, patience=config.patience)
            with self._costs.of("checkpoints"):
                self._save(recorder, best=state.best_epoch == epoch)
        told = {"training": self._inputs.train, "evaluation": self._inputs.evaluation}
        tell_epoch(self._console, config, row, state, told)

    def _prepare(self, epoch: int) -> None:
        """Let the model and the loader be what this epoch wants, where the run stands in it."""
        config, loader = self._config, self._inputs.train
        if self.frozen and config.unfreeze_epoch and epoch >= config.unfreeze_epoch:
            self._model.requires_grad_(True)
            self.frozen = ()
            self.step.model = self._model  # which is wrapped anew, with all that learns
        if self._world.size > 1 and self.step.model is self._model:
            self.step.model = distribute(self._model, self._device)
        set_training(self._model, self.frozen)
        self._compiling.decide((config.epochs - epoch) * self._per_epoch - self.state.sums.steps)
        loader.set_size(config.epoch_size(epoch))
        loader.load_state_dict(
            {"seed": config.seed, "epoch": epoch, "consumed": self.state.consumed}
        )

    def _take_steps(self, log: StepLog, recorder: Recorder) -> None:
        """The steps of an epoch that are left."""
        config, loader = self._config, self._inputs.train
        steps, waits = config.epochs * self._per_epoch, Waits()
        pace, started = Pace(self._device), time.perf_counter()
        with (
            epoch_progress(
                self._console, log.epoch, config.epochs, self._per_epoch, log.steps
            ) as advance,
            tuned(self._device, config.epoch_size(log.epoch) == config.size),
        ):
            for images, labels in waits.over(loader):
                if not self._has_trained:
                    self._costs.move("first_batch", waits.last_s)
                    self._has_trained = True
                before, consumed = self.state.consumed, loader.state_dict()["consumed"]
                step = log.first + log.steps
                lr = set_learning_rate(self.optimizer, config.schedule, step, steps, config.warm_up)
                loss, right = self.step(images, labels, consumed - before, step)
                pace.step()
                self._offer_inputs()
                now = time.perf_counter()
                self._costs.move("compile", self._compiling.took(now - started - waits.last_s))
                log.add(loss, right, consumed - before, lr, waits.last_s, now - started)
                started, self.state.consumed = now, consumed
                is_last = log.steps == self._per_epoch
                if is_last or log.is_due or recorder.reads_at(step + 1):
                    self._read(log, recorder, step + 1, is_last=is_last)
                advance(log.last_loss, log.img_per_s)

    def _offer_inputs(self) -> None:
        """Let the loader render into a captured step's inputs, or no longer into them."""
        if len(self.step.inputs) != self._offered:
            self._offered = len(self.step.inputs)
            self._inputs.train.render_into(self.step.inputs)

    def _read(self, log: StepLog, recorder: Recorder, step: int, *, is_last: bool) -> None:
        """Read what is there of the losses; stop or save after `step` steps if that is due.

        Whether to save within an epoch is the first process's to say; all of them hear it where
        they hear of a stop, and take in all losses first: a saved state has no step too few.
        """
        saves = not is_last and recorder.is_due(step)
        told = log.read([self._stop.requested, saves], now=recorder.reads_at(step))
        if not told:
            return
        signal, saves = int(max(flags[0] for flags in told)), any(flags[1] for flags in told)
        if signal or saves:
            log.flush()
        self._stop_if_asked(signal, recorder)
        if saves and not is_last:
            with self._costs.of("checkpoints"):
                self._save(recorder)

    def _evaluate(self, log: StepLog, recorder: Recorder) -> Evaluation:
        """Evaluate the model, or the average of its weights, as it is on all processes.

        On a GPU that is queued behind the last steps, whose losses are read after it.
        """
        model = self._model if self._average is None else self._average.model
        # Each process has seen its own share; the first one's statistics are the run's.
        self._world.broadcast(model.buffers())

        def batches() -> Any:
            for batch in self._inputs.evaluation:
                yield batch
                if self._stop.requested:
                    return

        found = evaluate(
            model,
            batches(),
            device=self._device,
            amp_dtype=self._inputs.amp_dtype,
            world=self._world,
            goal=self.goal,
        )
        log.flush()
        asked = self._world.gather([self._stop.requested])
        self._stop_if_asked(int(max(flag for (flag,) in asked)), recorder)
        return found

    def _stop_if_asked(self, signal: int, recorder: Recorder) -> None:
        """Save where the run stands and leave, if any process was asked to: `signal` is not 0."""
        if not signal:
            return
        self._save(recorder, wait=True)
        said = f"stopped{self._last_good}; continue with fastft train --resume {self._config.out}"
        raise Stopped(signal, said if self._world.is_main else "")

    def _save(self, recorder: Recorder, *, best: bool = False, wait: bool = False) -> None:
        """Save where the run stands, unless the last step broke the weights: the next one tells."""
        state = self.state
        norm = nn.utils.get_total_norm(self._model.parameters())
        if not torch.isfinite(norm):  # waits for a GPU, as reading the loss has just done
            return
        step = state.epoch * self._per_epoch + state.sums.steps
        recorder.save(lambda: self._checkpoint(recorder), step, best=best, wait=wait)
        self._last_good = f"; {self._config.out / LAST} is that {state}"

    def _checkpoint(self, recorder: Recorder) -> Checkpoint:
        config, state = self._config, self.state
        state.metrics_bytes = recorder.metrics_bytes
        state.seconds = time.perf_counter() - self._begun_s
        state.compiled = self._compiling.how
        state.averaged = 0 if self._average is None else self._average.steps
        return Checkpoint(
            model=self._model.state_dict(),
            arch=self._built.arch,
            classes=self._inputs.classes,
            size=config.size,
            view=config.judged_view,
            epoch=state.epoch,
            accuracy=(state.rows[-1].eval_accuracy or 0.0) if state.rows else 0.0,
            optimizer=pack_optimizer(self.optimizer),
            scaler=self.step.scaler.state_dict(),
            config=plain(config),
            ema=None if self._average is None else self._average.model.state_dict(),
            progress=state.pack(),
            preparation=asdict(self._inputs.train.source.preparation),
            meaning=self._meaning.pack(),
            preprocessing=pack_preprocessing(self._inputs.preprocessing),
        )

    def _find_micro_batch(self) -> int:
        """Most images at once, the same for all processes; 0 for no limit."""
        config, world = self._config, self._world
        if config.micro_batch or self._device.type != "cuda":
            return config.micro_batch
        assert config.batch_size is not None
        found = find_micro_batch(
            self._built.model,
            self.loss,
            share=-(-config.batch_size // world.size),
            size=config.size,
            classes=len(self._inputs.classes),
            device=self._device,
            amp_dtype=self._inputs.amp_dtype,
        )
        limits = [int(limit) for (limit,) in world.gather([found]) if limit]
        return min(limits, default=0)
