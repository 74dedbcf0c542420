"""One training step: forward, loss, backward, update, and nothing around it.

A global batch may be divided twice: among processes, and each one's share into pieces that fit in
memory. However it is divided, the gradients are those of the whole batch, and so is the step (up
to the order in which floats are added, and to batch norm, which sees a piece at a time, or with
`model.sync_bn` all processes' pieces).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, reduce

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from fastft.config.train import How
from fastft.model.loss import Loss
from fastft.model.optim import WeightAverage
from fastft.train.distributed import ALONE, World
from fastft.train.step_graph import Capture, StepGraph
from pipelines.vision import StochasticDepth

#: What these numbers are for, beside those that `pipelines.plan` draws from the same seed.
_MASKS = 3
#: Names under which timm's layers and networks keep how often they drop something.
_RATES = ("drop_prob", "drop_rate", "prob", "drop")
#: The compiler behind `torch.compile`.
BACKEND = "inductor"
#: Steps launched kernel by kernel before a graph is captured: cuDNN picks its kernels in them, and
#: the optimizer makes its states. Source: PyTorch's documentation, "CUDA semantics", which warms up
#: with three.
_WARM_STEPS = 3


class TrainStep:
    """The computation of a step; calling it waits for nothing on the device.

    What a network draws by itself, the masks of dropout and stochastic depth, it draws from a
    generator that is set anew before each step, from the seed, the step's number and the rank.
    So a run that goes on from a checkpoint draws what it would have drawn had it not ended, and no
    generator's state need be kept; processes drop different things.

    Full batches may be computed another way than the rest, see `prepare`.

    Attributes:
        scaler: of the loss, for float16 alone, which has too few exponent bits for small gradients.
        micro_batch: the most images at once, 0 for no limit.
        prepared_s: how long the last compilation or capture took, its first step included; 0: there
            was none.
        on_failure: is told why one failed, before the step is computed as usual; may raise.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        device: torch.device,
        amp_dtype: torch.dtype | None,
        average: WeightAverage | None = None,
        world: World = ALONE,
        micro_batch: int = 0,
        sync_bn: bool = False,
        clip_grad: float = 0.0,
        seed: int | None = None,
        capture: Capture | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: on `device`; of several processes, in DistributedDataParallel before the first
                step.
            optimizer: of its parameters.
            loss: what is minimized.
            device: where it is computed.
            amp_dtype: what autocast computes in; None for float32.
            average: follows the weights.
            world: the processes.
            micro_batch: the most images at once; 0 takes a share whole. The same for all.
            sync_bn: the model's batch norm is of `model.sync_bn`.
            clip_grad: largest norm of the gradients of all parameters together; 0: any.
            seed: of what the network draws; None leaves torch's generators alone.
            capture: how a step is captured; None: as CUDA does.
        """
        self._optimizer, self._loss, self._device = optimizer, loss, device
        self._amp_dtype, self._average, self._world = amp_dtype, average, world
        self.micro_batch, self._sync_bn, self._seed = micro_batch, sync_bn, seed
        self._capture, self._how, self._full = capture, "off", (0, 0)
        self._clip_grad = clip_grad
        self.prepared_s = 0.0
        self.on_failure: Callable[[Exception], None] = _raise
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16)
        self.model = model

    @property
    def model(self) -> nn.Module:
        """The network as it is wrapped; may be set to the same network in another wrapping.

        DistributedDataParallel takes in the parameters that learn when it is made: when others are
        thawed, it has to be made again.
        """
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._model = model
        self._ddp = model if isinstance(model, DistributedDataParallel) else None
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        # With joint statistics every process has to run every piece, whatever is in it.
        self._runs_empty = self._sync_bn and bool(self._norms)
        draws = self._seed is not None and any(map(_draws, model.modules()))
        self._generator = _generator(self._device) if draws else None
        self._forget()

    @property
    def device(self) -> torch.device:
        """The device that computes steps."""
        return self._device

    @property
    def inputs(self) -> list[torch.Tensor]:
        """Tensors that full batches may be rendered into in turn, to save a copy; see StepGraph."""
        return [] if self._graph is None else self._graph.inputs

    def find_obstacle(self, how: How) -> str:
        """The reason why a way cannot compute steps of this network; empty if it can."""
        if how == "graph":
            if self._device.type != "cuda" and self._capture is None:
                return "needs a CUDA GPU"
            if self._world.size > 1:
                return f"takes one process, not {self._world.size}"
            if self.scaler.is_enabled():
                return "does not go with float16, whose scale changes from step to step"
            if self._generator is not None:
                return "does not go with a network that draws random numbers"
        return ""

    def prepare(self, how: How, batch: int, size: int) -> None:
        """Compute full batches in a way from the next step on; all others stay as they are.

        `default` is `torch.compile`: kernels made for this network, whose last digits differ.
        `graph` is one launch of the usual kernels, see StepGraph, after a few usual steps.

        Args:
            how: the way; `off` for the usual one.
            batch: images of a full batch, of all processes together.
            size: their side, px: others come while images grow.
        """
        self._how, self._full, self.prepared_s = how, (batch, size), 0.0
        self._forget()

    def _forget(self) -> None:
        """Compile and capture anew, for other parameters may learn."""
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._graph: StepGraph | None = None
        self._warm_steps = 0

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        count: int | None = None,
        step: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Learn from a batch.

        Args:
            images: [b, 3, S, S] on the device, channels_last, normalized: this process's share; b
                may be 0.
            labels: int64[b] on the device, or of mixed images and other tasks float32[b, C].
            count: images of the global batch; None: as many in every process as here.
            step: the step's number in the run, for what the network draws; None lets it draw on.

        Returns:
            This process's part of the loss that was minimized (the sum over the processes is the
            whole) and its number of right answers, scalars on the device.
        """
        assert self._ddp is not None or self._world.size == 1, "processes that would drift apart"
        if count is None:
            count = len(labels) * self._world.size
        if self._generator is not None and step is not None:
            parts = np.random.SeedSequence((self._seed or 0, step, self._world.rank, _MASKS))
            self._generator.manual_seed(int(parts.generate_state(1, np.uint64)[0]))
        loss, right = self._compute_somehow(images, labels, count)
        if self._average is not None:
            self._average.update(self._model)
        return loss, right

    def _compute_somehow(
        self, images: torch.Tensor, labels: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A step, in the way that was prepared if the batch is full."""
        if self._how == "off" or (count, images.shape[-1]) != self._full:
            return self._compute(images, labels, count, self._model)
        if self._how == "graph":
            if self._graph is not None and self._graph.fits(images):
                return self._graph(images, labels)
            if self._graph is not None or self._warm_steps < _WARM_STEPS:
                self._warm_steps += 1
                return self._compute(images, labels, count, self._model)
        if self._compiled is not None:
            return self._compute(images, labels, count, self._compiled)
        began_s = time.perf_counter()
        try:
            result = self._compute_anew(images, labels, count)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # once, to say how long it took
        except Exception as error:  # whatever a compiler raises
            self.prepare("off", *self._full)
            self._optimizer.zero_grad(set_to_none=True)
            self.on_failure(error)
            return self._compute(images, labels, count, self._model)
        self.prepared_s = time.perf_counter() - began_s
        return result

    def _compute_anew(
        self, images: torch.Tensor, labels: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first step of a way."""
        if self._how == "graph":
            compute = partial(self._compute, count=count, model=self._model)
            self._graph = StepGraph(compute, self._optimizer, images, labels, self._capture)
            return self._graph(images, labels)
        self._compiled = torch.compile(self._model, backend=BACKEND, dynamic=False)
        return self._compute(images, labels, count, self._compiled)

    def _compute(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        count: int,
        model: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward, backward and update; leaves no gradients."""
        results = []
        for piece, answers, is_last in self._pieces(images, labels, count):
            # DDP averages the gradients over the processes, once for all pieces, in the last one's
            # backward pass; the sum is wanted.
            with nullcontext() if is_last or self._ddp is None else self._ddp.no_sync():
                with torch.autocast(
                    self._device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None
                ):
                    logits = self._forward(piece, model)
                    loss = self._loss(logits, answers, count)
                self.scaler.scale(loss * self._world.size).backward()  # type: ignore[no-untyped-call]
            results.append((loss.detach(), self._loss.count_right(logits.detach(), answers)))
        if self._clip_grad:
            self._clip()
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        losses, rights = zip(*results, strict=True)
        return reduce(torch.add, losses), reduce(torch.add, rights)

    def _clip(self) -> None:
        """Scale the gradients of the whole batch down, of all pieces and processes.

        Nothing is read on the host. Where float16's have become infinite the scaler has noted it,
        and leaves the step out, whatever the norm makes of them.
        """
        self.scaler.unscale_(self._optimizer)
        groups = self._optimizer.param_groups
        parameters = [each for group in groups for each in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self._clip_grad, foreach=True)

    def _pieces(
        self, images: torch.Tensor, labels: torch.Tensor, count: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """The pieces to run, and whether each is the last, which every process runs."""
        pieces = 1
        if self.micro_batch:
            largest_share = -(-count // self._world.size)
            pieces = max(1, -(-largest_share // self.micro_batch))
        parts = zip(images.tensor_split(pieces), labels.tensor_split(pieces), strict=True)
        for number, (piece, answers) in enumerate(parts, 1):
            if len(answers) or number == pieces or self._runs_empty:
                yield piece, answers, number == pieces

    def _forward(
        self, images: torch.Tensor, model: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Logits [b, C]."""
        if len(images) or self._runs_empty:
            return model(images)
        # One image of which nothing is taken: all gradients are zero, DDP gets them from everyone.
        # A truly empty batch is not for every layer on every device.
        with self._keep_statistics():
            logits: torch.Tensor = self._model(images.new_zeros(1, *images.shape[1:]))
        return logits[:0]

    @contextmanager
    def _keep_statistics(self) -> Iterator[None]:
        learning = [norm for norm in self._norms if norm.training]
        for norm in learning:
            norm.eval()
        try:
            yield
        finally:
            for norm in learning:
                norm.train()


def _raise(error: Exception) -> None:
    raise error


def _draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training."""
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0)
    if isinstance(module, (_DropoutNd, StochasticDepth)):
        return bool(module.p > 0)
    if not type(module).__module__.startswith("timm."):
        return False
    rates = (getattr(module, name, 0.0) for name in _RATES)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _generator(device: torch.device) -> torch.Generator:
    """The one that a device's layers draw from: set in 9 us; all devices' take 80 to 130 (Xeon)."""
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]
