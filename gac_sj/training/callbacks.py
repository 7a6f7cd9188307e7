"""Callbacks: code of users that a run calls after steps, tests and epochs.

A callback is an object with one or more of four methods, each a protocol here. Every process of a run has callbacks of
its own and calls them at the same points, in the order in which they are given, so that they may communicate;
``training.world.is_first`` is for what only one process should do, such as writing a file.

- They observe. Nothing stops a callback from changing weights, learning rate or RNG states, but folder, rows and
  checkpoints take the run for the same run without it: callbacks are not part of its key, so that one may be corrected,
  added or left out when a run resumes. The run's row names them with the digests of their files.
- Numbers that ``on_test_end`` and ``on_epoch_end`` return are logged.
- One that raises ends the run with a :class:`gac_sj._utils.errors.UsageError` that names it. Nothing is saved then: the
  run resumes from its last checkpoint, like one that was killed, and calls again what comes after it.
- One with ``state_dict`` and ``load_state_dict`` continues with its state (tensors and plain values) when a run
  resumes. It is in every checkpoint; the first process's is kept, and all processes get it. Others start anew.
"""

from __future__ import annotations

import io
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.user_code import class_source, load_from_file
from gac_sj.training.firing_rate_logger import FiringRateLogger
from gac_sj.training.settings import Settings
from gac_sj.training.state import StepResult, Test

if TYPE_CHECKING:
    from gac_sj.training.engine import Training

__all__ = [
    "Callback",
    "Callbacks",
    "OnEpochEnd",
    "OnStepEnd",
    "OnTestEnd",
    "OnTestStart",
    "find_callbacks",
    "load_callbacks",
]


class OnStepEnd(Protocol):
    """A callback that is called after each optimiser step, before a checkpoint that has the step."""

    def on_step_end(self, training: Training, result: StepResult) -> None:
        """Observe a step. Its time counts as training time.

        Args:
            training: the run; ``training.state.step`` is the number of the step, from 1.
            result: of this process's images; reading its tensors waits for a GPU. A loss that is not finite ends the
                run afterwards.
        """


class OnTestStart(Protocol):
    """A callback that is called before each test, to observe the network while it is tested."""

    def on_test_start(self, training: Training) -> None:
        """Prepare for a test.

        Args:
            training: the run; ``training.step.tested`` is the network that is tested, the EMA if there is one.
        """


class OnTestEnd(Protocol):
    """A callback that is called after each test."""

    def on_test_end(self, training: Training, test: Test) -> Mapping[str, float] | None:
        """Observe a test.

        Args:
            training: the run.
            test: accuracies on all test images, and firing rates on those of this process.

        Returns:
            Numbers by name, or None. Those of the first process are added to the epoch's row in summary.csv, to
            TensorBoard and to Weights & Biases.
        """


class OnEpochEnd(Protocol):
    """A callback that is called after each epoch, and after its test if it has one."""

    def on_epoch_end(self, training: Training, row: Mapping[str, Any]) -> Mapping[str, float] | None:
        """Observe an epoch.

        Args:
            training: the run; ``training.state.history`` has the rows of the epochs before.
            row: of the epoch in summary.csv; ``row["epoch"]`` counts from 1, and without a test ``row["top1"]`` is "".

        Returns:
            As :meth:`OnTestEnd.on_test_end`.
        """


#: An object with at least one of the methods.
Callback: TypeAlias = OnStepEnd | OnTestStart | OnTestEnd | OnEpochEnd
_EVENTS = ("on_step_end", "on_test_start", "on_test_end", "on_epoch_end")


def find_callbacks(places: Iterable[str]) -> list[Callable[[], Callback]]:
    """The classes of callbacks, so that one that cannot be used is reported before any work.

    Args:
        places: of the setting ``callback``.

    Raises:
        UsageError: a file does not exist, raises or lacks the class.
    """
    return [load_from_file(place, "callback") for place in places]


def load_callbacks(settings: Settings) -> list[Callback]:
    """The callbacks that settings ask for: new objects of the classes that they name.

    Args:
        settings: settings of a run.

    Raises:
        UsageError: a file does not exist, raises or lacks the class, or the class cannot be called without arguments.
    """
    own = [FiringRateLogger()] if settings.log_firing_rates else []
    return [*own, *map(_create, settings.callback)]


def _create(place: str) -> Callback:
    cls = load_from_file(place, "callback")
    try:
        return cls()
    except (Exception, SystemExit) as error:  # a user's code raises whatever it likes
        raise UsageError(
            f"cannot use {place}: a call without arguments raises {type(error).__name__} ({first_sentence(error)})",
            "name a class, or a function that returns an object",
            argument="callback",
        ) from error


class Callbacks:
    """The callbacks of a run.

    Args:
        callbacks: objects with at least one of the methods.

    Raises:
        UsageError: one has none of the methods, or only one of ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, callbacks: Iterable[Callback]):
        self._by_name: dict[str, Any] = {}
        #: What users wrote, "FILE:CLASS:DIGEST", with the first 12 hex digits of the SHA-256 of the file.
        self.sources: list[str] = []
        counts: Counter[str] = Counter()
        for callback in callbacks:
            cls = type(callback)
            name, source = cls.__qualname__, class_source(cls)
            if source is not None:
                file, _, digest = source.rpartition(":")
                name = f"{file}:{name}"
                self.sources.append(f"{name}:{digest}")
            _check(name, callback)
            counts[name] += 1
            self._by_name[name if counts[name] == 1 else f"{name} ({counts[name]})"] = callback
        self._methods = {event: self._having(event) for event in _EVENTS}

    def _having(self, method: str) -> list[tuple[str, Callable[..., Any]]]:
        found = ((name, getattr(each, method, None)) for name, each in self._by_name.items())
        return [(name, function) for name, function in found if callable(function)]

    def call(self, event: str, *arguments: Any) -> None:
        """Call a method of all callbacks that have it.

        Args:
            event: name of the method.
            arguments: of the method.

        Raises:
            UsageError: one raises; the message names it.
        """
        for name, method in self._methods[event]:
            _call(name, event, method, *arguments)

    def log(self, row: dict[str, Any], event: str, *arguments: Any) -> None:
        """Call a method of all callbacks that have it, and add the numbers that they return to a row.

        Args:
            row: of the epoch; it is changed.
            event: name of the method.
            arguments: of the method.

        Raises:
            UsageError: one raises, or returns something else, or a name that the row has; the message names it.
        """
        for name, method in self._methods[event]:
            found = _call(name, event, method, *arguments)
            try:
                numbers = {} if found is None else {str(key): float(value) for key, value in found.items()}
            except (AttributeError, TypeError, ValueError) as error:
                raise UsageError(
                    f"{name} must return numbers by name or None from {event}, got a {type(found).__name__} "
                    f"({first_sentence(error)})",
                    argument="callback",
                ) from error
            if taken := sorted(numbers.keys() & row.keys()):
                raise UsageError(
                    f"{name} must not return {taken[0]!r} from {event}, which is a column already",
                    "choose another name",
                    argument="callback",
                )
            row |= numbers

    def state_dict(self) -> dict[str, Any]:
        """The states of the callbacks that have one.

        Raises:
            UsageError: one raises, or returns what a checkpoint cannot hold.
        """
        states = {name: _call(name, "state_dict", method) for name, method in self._having("state_dict")}
        for name, state in states.items():
            try:
                torch.save(state, buffer := io.BytesIO())
                torch.load(io.BytesIO(buffer.getvalue()), map_location="cpu", weights_only=True)
            except Exception as error:  # pickle raises whatever it meets
                raise UsageError(
                    f"{name} must return tensors and plain values from state_dict ({first_sentence(error)})",
                    argument="callback",
                ) from error
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> list[str]:
        """Give the callbacks their states; one without a state starts anew.

        Args:
            states: what :meth:`state_dict` returned.

        Returns:
            The names of those that have a state and are missing.

        Raises:
            UsageError: one raises.
        """
        for name, method in self._having("load_state_dict"):
            if name in states:
                _call(name, "load_state_dict", method, states[name])
        return sorted(states.keys() - self._by_name.keys())


def _check(name: str, callback: Any) -> None:
    if isinstance(callback, type):
        raise UsageError(f"must be an object, got the class {callback.__qualname__}", "call it", argument="callback")
    if not any(callable(getattr(callback, event, None)) for event in _EVENTS):
        raise UsageError(
            f"cannot use {name}: it has none of the methods {', '.join(_EVENTS)}", "define one", argument="callback"
        )
    if hasattr(callback, "state_dict") != hasattr(callback, "load_state_dict"):
        raise UsageError(
            f"cannot use {name}: it has only one of state_dict and load_state_dict",
            "define both or neither",
            argument="callback",
        )


def _call(name: str, event: str, method: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return method(*arguments)
    except (Exception, SystemExit) as error:  # a user's code raises whatever it likes
        line = "".join(f", line {frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[1:2])
        raise UsageError(
            f"{name} raises {type(error).__name__} ({first_sentence(error)}) in {event}{line}",
            "correct it and run the same command to resume",
            argument="callback",
        ) from error
