"""The engine: trains one network, tests it, and can be killed at any moment.

Everything that decides about the weights lies in :meth:`Training.state`: what is trained, the schedule, all random
states and the position in the epoch. The data's own draws are functions of seed, epoch and position.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from gac_sj._utils.files import write_atomically
from gac_sj._utils.randomness import derive_seed, random_state, seed_all, seeded, set_random_state
from gac_sj.analysis import firing_rates
from gac_sj.checkpoint.runs import build_model
from gac_sj.data import BatchAugmentation
from gac_sj.nn.sync_batchnorm import convert_sync_batchnorm
from gac_sj.training.build import Data
from gac_sj.training.checkpoints import Checkpoints
from gac_sj.training.distributed import DistributedContext
from gac_sj.training.evaluation import Evaluation, evaluate
from gac_sj.training.objective import Objective
from gac_sj.training.optimisation import create_optimizer, create_schedule
from gac_sj.training.record import Record
from gac_sj.training.settings import Settings
from gac_sj.training.signals import Signals, start

__all__ = ["InterruptedRunError", "NonFiniteLossError", "Training"]

_logger = logging.getLogger(__name__)
# Between these steps the processes of a run do not wait for each other, nor for the GPU.
_STEPS_BETWEEN_CHECKS = 10
# What a check may ask for; all processes do the largest that one of them wants.
_GO_ON, _SAVE, _STOP, _FAIL = range(4)


class InterruptedRunError(RuntimeError):
    """SIGTERM or SIGINT came; the state is in a checkpoint."""

    def __init__(self, number: int, where: str):
        self.exit_code = 128 + number
        super().__init__(f"{signal.Signals(number).name} came {where}; the same command continues there.")


class NonFiniteLossError(FloatingPointError):
    """A loss, weight or statistic became infinite or not a number; the last checkpoint is from before."""


class Training:
    """One run: build it, then :meth:`run` it. A run that was killed continues from its last checkpoint.

    Args:
        settings: of the run.
        data: its sets.
        world: the processes that share it.
        folder: for checkpoints, weights and records; None keeps nothing.

    Raises:
        ValueError: settings that do not fit each other or the folder's earlier run.
    """

    def __init__(self, settings: Settings, data: Data, world: DistributedContext, folder: Path | None = None):
        self.settings, self.data, self.world, self.folder = settings, data, world, folder
        if folder is not None:
            Record.check(folder, settings)
        seed_all(derive_seed(settings.seed, "weights"))
        model = build_model(settings, data).to(world.device)
        if settings.sync_bn:
            model = convert_sync_batchnorm(model)
        if settings.grad_checkpointing:
            model.set_grad_checkpointing()
        if settings.spikes_as_bytes:
            model.set_spikes_as_bytes()
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model
        # after the weights, so that every encoder sees the same draws whatever its weights needed
        seed_all(derive_seed(settings.seed, "model", world.rank))
        self.ema = ModelEmaV3(model, settings.ema, use_warmup=True) if settings.ema is not None else None
        objective: nn.Module = Objective(model, settings)
        if settings.compile:
            objective = torch.compile(objective)
        if world.size > 1:
            objective = DistributedDataParallel(objective)
        self.objective = objective
        self.optimizer = create_optimizer(model, settings)
        self.loader = data.training(settings, model, world)
        self.test_loader = data.testing(settings, model, world)
        self.augment = BatchAugmentation(
            settings, len(data.train.classes), data.size, world.device, cutout=data.images is None
        )
        self.schedule = create_schedule(self.optimizer, settings, len(self.loader))
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings.amp == "fp16")
        self.epoch = self.batch = self.step = 0
        #: of the running epoch: loss and number of right answers summed over images, images, seconds
        self.totals = {"loss": 0.0, "correct": 0.0, "images": 0, "seconds": 0.0}
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep_checkpoints) if folder else None
        self.record: Record | None = None
        self.last: tuple[Evaluation, dict[str, float]] | None = None

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and kept: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.module

    def run(self) -> tuple[Evaluation, dict[str, float]]:
        """Train to the end; the last test and the firing rates during it.

        Raises:
            InterruptedRunError: a signal came.
            NonFiniteLossError: a loss that is not finite.
            CorruptImageError: an image that cannot be read.
        """
        state = self.checkpoints.load() if self.checkpoints and self.world.is_first else None
        state = self.world.from_first(state)
        if state is not None:
            self.load_state(state)
            self._say(f"continues in epoch {self.epoch + 1} after {self.batch} of {len(self.loader)} batches")
        if self.folder is not None and self.world.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.record = Record(self.folder, self.settings, self.epoch + 1)
        try:
            with Signals() as self.signals:
                while self.epoch < self.settings.epochs:
                    self._train_epoch()
                    self._end_epoch()
                if self.last is None:  # finished before
                    self.last = self._test()
        finally:
            if self.record:
                self.record.close()
        return self.last

    def _train_epoch(self) -> None:
        self.model.train()
        self.loader.set_epoch(self.epoch, self.batch)
        written = started = time.monotonic()
        pending: list[tuple[float, Tensor, Tensor, int]] = []
        batches = start(self.loader)
        with self._progress("epoch", len(self.loader), self.batch) as progress:
            while self.batch < len(self.loader):
                images, labels = next(batches)
                pending.append(self._train_step(images, labels))
                self.batch += 1
                last = self.batch == len(self.loader)
                if last or self.world.device.type == "cpu" or self.batch % _STEPS_BETWEEN_CHECKS == 0:
                    finite = self._settle(pending)
                    now = time.monotonic()
                    self.totals["seconds"] += now - started
                    started = now
                    due = self.folder is not None and now - written >= 60 * self.settings.checkpoint_minutes
                    wish = _FAIL if not finite else _STOP if self.signals.number else _SAVE if due or last else _GO_ON
                    wish = self.world.max(wish)
                    if wish in (_SAVE, _STOP) and self.world.max(len(self._spoilt())):
                        wish = _FAIL  # never into a checkpoint
                    if wish == _FAIL:
                        raise NonFiniteLossError(self._explain(pending))
                    pending.clear()
                    if wish != _GO_ON:
                        self._save()
                        written = started = time.monotonic()
                    if wish == _STOP:
                        self._stop()
                    self._show(progress)

    def _train_step(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor, Tensor, int]:
        """One optimiser step; learning rate, loss sum, right answers and number of images."""
        settings, parts = self.settings, self.settings.accumulate
        draw = seeded(settings.seed, "batch", self.epoch, self.batch, self.world.rank)
        with draw if self.augment.is_random else nullcontext():
            images, labels = self.augment(images, labels, self.epoch)
        if settings.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        self.step += 1
        self.schedule.step_update(self.step)
        total, correct = 0.0, 0
        over_batch = images.dim() - 4  # sequences have time in front
        for part, (x, y) in enumerate(zip(images.chunk(parts, over_batch), labels.chunk(parts)), 1):
            wait = part < parts and isinstance(self.objective, DistributedDataParallel)
            with self.objective.no_sync() if wait else nullcontext():
                loss, logits = self.objective(x, y)
                self.scaler.scale(loss / parts).backward()
            total = total + loss.detach() * len(y)
            correct = correct + (logits.argmax(1) == y.argmax(1)).sum()
        if settings.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_grad)
        # a GPU would have to be waited for; there the check comes some steps later
        if self.world.device.type != "cpu" or torch.isfinite(total):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update(self.model, step=self.step)
        self.optimizer.zero_grad(set_to_none=True)
        return self.optimizer.param_groups[0]["lr"], total, correct, len(labels)

    def _settle(self, pending: list[tuple[float, Tensor, Tensor, int]]) -> bool:
        """Add what happened since the last check to the totals; whether every loss was finite."""
        for _, loss, correct, images in pending:
            self.totals["loss"] += loss.item()
            self.totals["correct"] += correct.item()
            self.totals["images"] += images
        return self.totals["loss"] - self.totals["loss"] == 0

    def _spoilt(self) -> list[str]:
        """Layers whose weights or statistics are not finite. The loss may be: a neuron that gets NaN does not fire."""
        return [
            name
            for name, module in self.model.named_modules()
            if any(
                not torch.isfinite(value).all()
                for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
            )
        ]

    def _explain(self, pending: list[tuple[float, Tensor, Tensor, int]]) -> str:
        """Where numbers stopped being finite: step, learning rate, and layers whose numbers went wrong."""
        wrong = self._spoilt()
        at = next((n for n, (_, loss, _, _) in enumerate(pending) if not torch.isfinite(loss)), len(pending) - 1)
        rate, loss, _, images = pending[at]
        if not wrong and torch.isfinite(loss):
            return "The loss of another process is not finite; see its message."
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        layers = (
            f"weights or statistics are not finite in {shown}" if wrong else "all weights and statistics are finite"
        )
        exists = self.checkpoints is not None and any(self.checkpoints.folder.glob("epoch*.pt"))
        kept = "the last good checkpoint is kept" if exists else "there is no checkpoint"
        return (
            f"The loss is {(loss / images).item():.5g} at step {self.step - len(pending) + at + 1} (epoch "
            f"{self.epoch + 1}, learning rate {rate:.3g}); {layers}; {kept}; lower lr or set clip_grad."
        )

    def _end_epoch(self) -> None:
        settings, epoch = self.settings, self.epoch + 1
        loss, correct, images = self.world.sum(
            torch.tensor([self.totals["loss"], self.totals["correct"], self.totals["images"]], dtype=torch.float64,
                         device=self.world.device)
        ).tolist()  # fmt: skip
        row = {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss / images,
            "train_accuracy": 100 * correct / images,
            "images": int(images),
            "test_loss": "",
            "top1": "",
            "top5": "",
            "train_seconds": round(self.totals["seconds"], 2),
            "images_per_second": round(images / self.totals["seconds"], 1),
        }
        if epoch % settings.eval_every == 0 or epoch == settings.epochs:
            self.last = self._test()
            tested = self.last[0]
            row |= {"test_loss": tested.loss, "top1": 100 * tested.top1, "top5": 100 * tested.top5}
        both = (self.loader, self.test_loader)
        row["corrupt"] = sum(len(set().union(*self.world.gather(loader.corrupt))) for loader in both)
        self.history.append(row)
        self.seconds += self.totals["seconds"]
        self.epoch, self.batch = epoch, 0
        self.totals = dict.fromkeys(self.totals, 0.0) | {"images": 0}
        tested = f", test {row['top1']:.2f} %" if row["top1"] != "" else ""
        self._say(
            f"epoch {epoch}/{settings.epochs}: loss {row['train_loss']:.4f}, training {row['train_accuracy']:.2f} %"
            f"{tested}, {row['images_per_second']:.0f} images/s"
        )
        if self.record:
            self.record.write(self.history)
            self._keep_weights(row)
        if epoch == settings.epochs:
            self._save()

    def _keep_weights(self, row: dict[str, Any]) -> None:
        if row["top1"] == "":
            return
        tensors = {name: value.contiguous() for name, value in self.tested.state_dict().items()}
        # no second entry: safetensors would write the two in any order
        content = save(tensors, {"settings": json.dumps(self.settings.key())})
        names = ["last.safetensors"]
        if row["top1"] > max((before["top1"] for before in self.history[:-1] if before["top1"] != ""), default=-1):
            names.append("best.safetensors")
        for name in names:
            write_atomically(self.folder / name, content)

    def _test(self) -> tuple[Evaluation, dict[str, float]]:
        def guarded() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in start(self.test_loader):
                # the state is in a checkpoint since the epoch's last step
                if self.signals.number and self.world.size == 1:
                    self._stop()
                yield batch
                progress.update()

        self.world.broadcast_(self.tested.buffers())  # without sync_bn every process has its own statistics
        with self._progress("test after", len(self.test_loader)) as progress, firing_rates(self.tested) as rates:
            evaluation = evaluate(self.tested, guarded(), self.world, self.settings.autocast)
        if self.world.max(int(self.signals.number > 0)):
            self._stop()
        return evaluation, rates

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "data": self.data.fingerprint(),
            "random": self.world.gather(random_state()),
            "position": [self.epoch, self.batch, self.step],
            "totals": self.world.gather(self.totals),
            "seconds": self.seconds,
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`.

        Raises:
            ValueError: it is of a run on other images.
        """
        if state["data"] != self.data.fingerprint():
            raise ValueError(
                f"{self.folder} holds a run on other images; name another output, or its data to continue."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.epoch, self.batch, self.step = state["position"]
        self.seconds, self.history = state["seconds"], state["history"]
        shares = state["totals"][self.world.rank :: self.world.size]  # there may be more or fewer processes than before
        self.totals = {name: sum(share[name] for share in shares) for name in self.totals}
        if self.world.rank < len(state["random"]):  # else there are more processes than before
            set_random_state(state["random"][self.world.rank])

    def _save(self) -> None:
        if self.folder is None:
            return
        state = self.state()
        if self.world.is_first:
            self.checkpoints.save(self.epoch, self.step, state)

    def _stop(self) -> None:
        done = f"in epoch {self.epoch + 1} after {self.batch} of {len(self.loader)} batches"
        kept = f"{done}, and a checkpoint is in {self.folder}" if self.folder else f"{done}, and nothing is kept"
        raise InterruptedRunError(self.signals.number or signal.SIGTERM, kept)

    def _progress(self, what: str, total: int, initial: int = 0) -> tqdm:
        title = f"{self.settings.encoder}, seed {self.settings.seed}, {what} {self.epoch + 1}/{self.settings.epochs}"
        return tqdm(
            total=total,
            initial=initial,
            desc=title,
            unit="batch",
            leave=False,
            mininterval=1,
            disable=None if self.world.is_first else True,
        )

    def _show(self, progress: tqdm) -> None:
        totals = self.totals
        progress.n = self.batch
        progress.set_postfix_str(
            f"{self.world.size * totals['images'] / max(totals['seconds'], 1e-9):.0f} images/s, "
            f"loss {totals['loss'] / totals['images']:.3f}, {100 * totals['correct'] / totals['images']:.1f} %",
            refresh=False,
        )
        progress.update(0)

    def _say(self, text: str) -> None:
        if self.world.is_first:
            _logger.info("%s, seed %d: %s", self.settings.encoder, self.settings.seed, text)
