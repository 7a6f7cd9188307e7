"""``config.json`` of a folder of weights: what it says is checked before a network is built of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any

from timm.data.transforms import str_to_interp_mode

from gac_sj.models.builder import OF_TIMM
from gac_sj.nn.quantization import QUANTIZATION
from gac_sj.nn.quantized import BITS

__all__ = ["problem"]


def problem(config: Any) -> str | None:
    """What is wrong with the content of a ``config.json``, as a predicate of the file; None if nothing is.

    Args:
        config: plain values; timm also writes all entries of ``pretrained_cfg`` beside ``architecture``.
    """
    if not isinstance(config, dict) or config.get("architecture") is None:
        return "names no architecture"
    for name, value in _entries(config):
        fits, words = _CHECKS.get(name, (None, ""))
        if fits is not None and value is not None and not fits(value):
            return f"has {str(value)[:40]!r} as {name}, which must be {words}"
    arguments = config.get("model_args") or {}
    if of_timm := sorted(arguments.keys() & OF_TIMM):
        return f"has {', '.join(of_timm)} in model_args, of timm's builder, not of a network"
    if config.get("encoder_source") and not isinstance(arguments.get("encoder"), str):
        return "has an encoder_source, but no encoder in model_args"
    entries = dict(_entries(config))
    names, classes = entries.get("label_names"), entries.get("num_classes")
    if isinstance(names, list) and classes is not None and len(names) != classes:
        return f"has {len(names)} label_names for {classes} classes"
    return None


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of both levels; those of the upper one, which timm prefers, last."""
    inner = config.get("pretrained_cfg")
    if isinstance(inner, dict):
        yield from inner.items()
    yield from config.items()


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_count(side) and side for side in value)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _names(value: Any) -> bool:
    if isinstance(value, dict):  # of some classes, by number
        return all(key.isdecimal() and _text(name) for key, name in value.items())
    return _list_of(_text)(value)


def _interpolation(value: Any) -> bool:
    try:
        return _text(value) and bool(str_to_interp_mode(value))
    except KeyError:
        return False


def _quantization(value: Any) -> bool:
    names = [value.get(key) for key in ("layers", "byte_neurons", "byte_pools")] if isinstance(value, dict) else [None]
    return all(isinstance(each, list) and all(map(_text, each)) for each in names) and value.get("bits") in BITS


_SHAPE = (_shape, "three positive integers: channels, height, width")
_CROP = (_positive, "a positive number")
_NAMES = (_names, "a list of names, or a mapping of numbers to names")
#: What each entry must be.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architecture": (_text, "text"),
    "encoder_source": (_text, "text"),
    "sha256": (_text, "text"),
    "model_args": (lambda value: isinstance(value, dict), "a mapping"),
    "pretrained_cfg": (lambda value: isinstance(value, dict), "a mapping"),
    QUANTIZATION: (_quantization, "a mapping of bits (8 or 16), layers, byte_neurons and byte_pools (lists of names)"),
    "num_classes": (_count, "an integer of at least 0"),
    "input_size": _SHAPE,
    "test_input_size": _SHAPE,
    "min_input_size": _SHAPE,
    "interpolation": (_interpolation, "a known interpolation"),
    "crop_pct": _CROP,
    "test_crop_pct": _CROP,
    "crop_mode": (lambda value: value in ("center", "squash", "border"), "center, squash or border"),
    "mean": (_list_of(_number), "a list of numbers"),
    "std": (_list_of(_positive), "a list of positive numbers"),
    "label_names": _NAMES,
    "labels": _NAMES,
}
