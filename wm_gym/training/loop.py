"""The one training loop: resumable at the exact step, atomic, logged, bounded in time.

A recipe gives a function from the step number to a loss. Because batches and noise are functions of
(seed, step), nothing but the step, the weights and the optimiser has to be stored to resume
exactly.

Under `accelerate launch` (or torchrun) every process calls the step function for its own rows of
the global batch; gradients are averaged, so N processes take the same steps as one.
"""

from __future__ import annotations

import io
import json
import pickle
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from wm_gym.checkpoints import CheckpointError, write_atomically
from wm_gym.errors import UserError
from wm_gym.run_lock import RunLock
from wm_gym.run_settings import check_run_settings, plain_settings

if TYPE_CHECKING:
    from accelerate import Accelerator

StepFunction = Callable[[int], tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how to optimise."""

    steps: int = 10_000
    """Optimiser steps in all."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    final_learning_rate_fraction: float = 0.7
    """Learning rate at the last step, as a fraction of the peak."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate gets there."""
    warmup_steps: int = 500
    """Steps of linear warm-up."""
    cosine_after_warmup: bool = False
    """Begin the decay where the warm-up ends, as published, instead of at step 0; recipes that
    count their length in epochs do."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW moments."""
    weight_decay: float = 2e-3
    """AdamW weight decay, on matrices only."""
    clip: float = 1.0
    """Gradient norm limit."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps none."""
    ema_from_start: bool = False
    """Keep that decay from the first step on. By default early averages follow the weights closely,
    so that short runs are not dominated by where they started; a teacher must not follow."""
    save_every: int = 500
    """Steps between resumable checkpoints."""
    log_every: int = 20
    """Steps between log lines."""
    max_minutes: float = 0.0
    """Stop, resumably, after this many minutes of this process; 0 is no limit."""

    def __post_init__(self) -> None:
        """Check what is counted."""
        for name, least in (("steps", 0), ("warmup_steps", 0), ("save_every", 1), ("log_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}; expected at least {least}")


def generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A CPU torch generator that is a function of (seed, step, stream)."""
    state = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up to the peak, and a cosine or a line from the peak to its final fraction.

    By default the decay begins at step 0 and the warm-up scales its start; with
    `cosine_after_warmup` the two follow each other and the peak is reached.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    first = min(config.warmup_steps, config.steps - 1) if config.cosine_after_warmup else 0
    progress = min(1.0, max(0, step - first) / max(1, config.steps - first))
    floor = config.final_learning_rate_fraction
    left = 1 - progress if config.decay == "linear" else 0.5 * (1 + np.cos(np.pi * progress))
    return float(config.learning_rate * warmup * (floor + (1 - floor) * left))


def planned(config: LoopConfig, epochs: int, epoch_steps: int) -> LoopConfig:
    """The published schedule where no number of steps is given.

    Args:
        config: returned as it is unless its `steps` are 0.
        epochs: length.
        epoch_steps: optimiser steps of one epoch, which is also the warm-up where that is 0.
    """
    if config.steps:
        return config
    return replace(
        config,
        steps=epochs * epoch_steps,
        warmup_steps=config.warmup_steps or epoch_steps,
        cosine_after_warmup=True,
    )


def row_shares(batch: int, accumulation: int, process: int, processes: int) -> list[slice]:
    """Rows of the global batch that a process computes, one slice per accumulated part.

    Raises:
        ValueError: if the batch cannot be divided equally.
    """
    parts = processes * accumulation
    size = batch // parts
    if size * parts != batch or not size:
        raise UserError(
            f"batch {batch} does not divide over {processes} processes with "
            f"{accumulation} accumulated parts each; choose a multiple of {parts}"
        )
    first = process * accumulation
    return [slice(n * size, (n + 1) * size) for n in range(first, first + accumulation)]


def make_optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


class TrainingLoop:
    """Runs a recipe's steps; nobody else may train in its folder until `run` has ended.

    Args:
        folder: run folder; holds `state.pt`, `log.jsonl` and TensorBoard files.
        module: what is trained.
        config: loop settings.
        fingerprint: settings that must not change between a run and its resumption.
        accelerator: from accelerate; one on the default device is made if None.

    Raises:
        CheckpointError: if the state in the folder is damaged.
        RunSettingsError: if it was made with another fingerprint.
        InUseError: if another process trains in the folder.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        config: LoopConfig,
        *,
        fingerprint: Mapping[str, object],
        accelerator: Accelerator | None = None,
    ) -> None:
        from accelerate import Accelerator

        self.folder = folder
        self.config = config
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        self.optimizer = make_optimizer(module, config)
        self.module, self.optimizer = self.accelerator.prepare(module, self.optimizer)
        self.bare: nn.Module = self.accelerator.unwrap_model(self.module)
        self.ema = {k: v.detach().clone() for k, v in self.bare.state_dict().items()}
        self.fingerprint = plain_settings(fingerprint)
        self.step = 0
        self.seconds = 0.0
        self._release: Callable[[], object] = lambda: None
        if self.accelerator.is_main_process:
            # held from before the state is read; a loop that is dropped unrun gives it back, too
            self._release = weakref.finalize(self, RunLock.of_folder(folder).acquire().release)
        try:
            self._resume()
        except BaseException:
            self._release()
            raise

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.pt"

    def _resume(self) -> None:
        if not self._state_file.exists():
            return
        try:
            state = torch.load(self._state_file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self._state_file} cannot be read ({error}); delete it to train from the start, "
                "or choose another --out"
            ) from error
        check_run_settings(
            self._state_file, state["fingerprint"], self.fingerprint,
            remedy="resume with the same settings, or choose another --out",
        )  # fmt: skip
        self.bare.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = {key: value.to(self.ema[key]) for key, value in state["ema"].items()}
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the resumable state atomically."""
        if not self.accelerator.is_main_process:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "module": self.bare.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema,
                "step": self.step,
                "seconds": self.seconds,
                "fingerprint": self.fingerprint,
            },
            buffer,
        )
        write_atomically(self._state_file, buffer.getvalue())

    def weights(self) -> dict[str, torch.Tensor]:
        """Averaged weights if an EMA is kept, else the current ones."""
        return dict(self.ema if self.config.ema else self.bare.state_dict())

    def _update_ema(self) -> None:
        warm = 1.0 if self.config.ema_from_start else (1 + self.step) / (10 + self.step)
        decay = min(self.config.ema, warm)
        with torch.no_grad():
            for key, value in self.bare.state_dict().items():
                if value.is_floating_point():
                    self.ema[key].lerp_(value, 1 - decay)
                else:
                    self.ema[key].copy_(value)

    def _accumulate(
        self, parts: Sequence[StepFunction]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        """Add up the gradients of a step's parts; the mean loss and the mean of what they log."""
        losses: list[torch.Tensor] = []
        logs: list[Mapping[str, torch.Tensor | float]] = []
        for number, part in enumerate(parts, start=1):
            # processes exchange gradients once, with the last part
            waiting = number < len(parts)
            with self.accelerator.no_sync(self.module) if waiting else nullcontext():
                loss, values = part(self.step)
                self.accelerator.backward(loss / len(parts))
            losses.append(loss.detach())
            logs.append(values)
        means = {key: sum(row[key] for row in logs) / len(logs) for key in logs[0]}
        return torch.stack(losses).mean(), means

    def _mean(self, value: float | torch.Tensor) -> float:
        """The mean of a value over all processes."""
        if self.accelerator.num_processes == 1:
            return float(value)
        value = torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device)
        return float(self.accelerator.reduce(value.detach(), reduction="mean"))  # pyright: ignore

    def _out_of_time(self, started: float) -> bool:
        """Whether the time limit is over for any process: all must stop at the same step."""
        limit = self.config.max_minutes
        return bool(limit) and self._mean(time.monotonic() - started > 60 * limit) > 0

    def run(
        self,
        step_function: StepFunction | Sequence[StepFunction],
        *,
        every: int = 0,
        callback: Callable[[int], Mapping[str, float] | None] | None = None,
    ) -> int:
        """Train until the last step or the time limit.

        Args:
            step_function: step number → (loss, values to log); several of them are equal parts of
                one step's batch, whose gradients are accumulated.
            every: steps between callbacks; 0 never calls.
            callback: called by the main process with the step number; what it returns is logged.

        Returns:
            The step reached.
        """
        try:
            return self._run(step_function, every, callback)
        finally:
            self._release()

    def _run(
        self,
        step_function: StepFunction | Sequence[StepFunction],
        every: int,
        callback: Callable[[int], Mapping[str, float] | None] | None,
    ) -> int:
        from torch.utils.tensorboard import SummaryWriter

        config, main = self.config, self.accelerator.is_main_process
        parts = [step_function] if callable(step_function) else list(step_function)
        self.folder.mkdir(parents=True, exist_ok=True)
        if main:
            self._forget_lost_steps()
        writer = SummaryWriter(str(self.folder)) if main else None
        started, before = time.monotonic(), self.seconds
        bar = tqdm(total=config.steps, initial=self.step, disable=not main, mininterval=10)
        while self.step < config.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, self.step)
            loss, logs = self._accumulate(parts)
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.clip)
            # the norm is the same in all processes, so they stop together
            if not (torch.isfinite(loss) and (norm is None or torch.isfinite(norm))):
                raise FloatingPointError(
                    f"loss is {loss.item()} or its gradient is not finite at step {self.step}; the "
                    f"last state in {self.folder} is intact: resume it with a lower "
                    "--loop.learning-rate"
                )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if config.ema:
                self._update_ema()
            self.seconds = before + time.monotonic() - started
            values: dict[str, Any] = {}
            if self.step % config.log_every == 0:
                values = {"loss": loss, **logs}
                values = {key: self._mean(value) for key, value in values.items()}
                values["gradient_norm"] = norm
            if main and callback is not None and every and self.step % every == 0:
                values.update(callback(self.step) or {})
            if values and writer is not None:
                self._log(writer, bar, values)
            bar.update()
            out_of_time = self._out_of_time(started)
            if self.step % config.save_every == 0 or self.step == config.steps or out_of_time:
                self.save()
            if out_of_time:
                break
        bar.close()
        if writer is not None:
            writer.close()
        self.accelerator.wait_for_everyone()
        return self.step

    def _forget_lost_steps(self) -> None:
        """Drop log lines of steps that a killed run took after its last checkpoint."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= self.step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:  # cut off by the kill
                continue
        write_atomically(path, "".join(kept).encode())

    def _log(self, writer, bar: tqdm, values: Mapping[str, float | torch.Tensor | None]) -> None:
        row = {key: float(value) for key, value in values.items() if value is not None}
        for key, value in row.items():
            writer.add_scalar(key, value, self.step)
        if "loss" in row:  # a row may hold measurements only
            bar.set_postfix({"loss": f"{row['loss']:.4f}"}, refresh=False)
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        line |= {key: round(value, 6) for key, value in row.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
