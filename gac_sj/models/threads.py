"""Calls of one network from several threads wait for each other, because its neurons have one state."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["one_at_a_time"]

_Method = TypeVar("_Method", bound=Callable[..., Any])

# not attributes, so that copies, pickles and replicas of a network have locks of their own
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_registry = threading.Lock()


def one_at_a_time(method: _Method) -> _Method:
    """Make the calls of a network's methods wait while another thread runs one of them; compiled code does not wait.

    Args:
        method: of a network.
    """

    @wraps(method)
    def waiting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return method(self, *args, **kwargs)
        with _registry:
            lock = _locks.setdefault(self, threading.RLock())
        with lock:
            return method(self, *args, **kwargs)

    return waiting  # type: ignore[return-value]


def _forget() -> None:
    """A forked process has none of the threads that hold locks."""
    global _locks, _registry
    _locks, _registry = WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
