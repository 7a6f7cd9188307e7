"""When a shortcut may replace the call of a module: not where it would ignore something that a user put in."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as everywhere

__all__ = ["does_only", "has_hooks", "overrides"]


def has_hooks(module: Any) -> bool:
    """Whether a call of a module runs hooks, its own or those of all modules.

    Args:
        module: a module, or another callable, which has no hooks.
    """
    return isinstance(module, nn.Module) and bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
        or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
    )


def overrides(module: Any, cls: type, *methods: str) -> bool:
    """Whether the class of a module, or the module itself, replaces one of the methods of ``cls``.

    Args:
        module: an instance of ``cls``.
        cls: the class whose methods a shortcut knows.
        methods: their names; a name that ``cls`` does not have must not be there.
    """
    own, its = module.__dict__, type(module)
    return any(name in own or getattr(its, name, None) is not getattr(cls, name, None) for name in methods)


def does_only(module: Any, cls: type, *methods: str) -> bool:
    """Whether a call of a module does what the methods of ``cls`` do, and nothing else: no hook, nothing replaced.

    Args:
        module: an instance of ``cls``.
        cls: the class whose methods a shortcut knows.
        methods: their names besides ``forward``.
    """
    return not (has_hooks(module) or overrides(module, cls, "forward", *methods))
