"""What operations and memory of a machine cost: profiles that ship, and a user's own in a YAML file of the same form.

``profiles/45nm.yaml`` is the form, with its source. Every entry is needed, and no other is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from gac_sj._utils.errors import UsageError
from gac_sj._utils.files import read_text
from gac_sj._utils.reading import parse_yaml
from gac_sj._utils.user_code import source_of

__all__ = ["DEFAULT_PROFILE", "PROFILE_HELP", "EnergyProfile", "Level", "energy_profile"]

DEFAULT_PROFILE = "45nm"
_SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "profiles").glob("*.yaml"))}
#: Help of an option ``--energy``.
PROFILE_HELP = (
    f"what operations and memory cost: {', '.join(_SHIPPED)}, or a YAML file such as that of {DEFAULT_PROFILE} "
    f"(gac_sj/analysis/profiles; default: {DEFAULT_PROFILE})"
)
_JOULES = {"fJ": 1e-3, "pJ": 1.0, "nJ": 1e3}
_BYTES = {"B": 1, "kB": 2**10, "MB": 2**20}


@dataclass(frozen=True)
class Level:
    """A level of the memory.

    Args:
        name: of the level.
        bits: that it holds; infinite for the last one.
        pj_per_bit: picojoules of a bit that is read or written.
    """

    name: str
    bits: float
    pj_per_bit: float


@dataclass(frozen=True)
class EnergyProfile:
    """What operations and memory of a machine cost. Energies are picojoules.

    Args:
        name: of a profile that ships, or the name of the file with the first digits of its SHA-256.
        mac: a multiply-accumulate of floats.
        ac: an accumulation of floats.
        int8_mac: a multiply-accumulate of 8-bit integers.
        int8_ac: an accumulation of 8-bit integers.
        levels: of the memory, from the smallest; the last one holds everything.
        weight: bits of a weight that is a float.
        activation: bits of a number between layers.
        potential: bits of a membrane potential.
        spike: bits of an element in a map of spikes.
        address: bits of the address of an event.
    """

    name: str
    mac: float
    ac: float
    int8_mac: float
    int8_ac: float
    levels: tuple[Level, ...]
    weight: int
    activation: int
    potential: int
    spike: int
    address: int

    def level(self, bits: float) -> Level:
        """The smallest level of the memory that holds something.

        Args:
            bits: its size.
        """
        return next(level for level in self.levels if bits <= level.bits)


def energy_profile(energy: str | Path | EnergyProfile) -> EnergyProfile:
    """A profile by name, or of a YAML file.

    Args:
        energy: a name, the path of a YAML file, or a profile, which is returned.

    Raises:
        UsageError: no such name or file; a file that lacks an entry or has an unknown one, another unit, or a number
            that is negative; the message names file and entry.
    """
    if isinstance(energy, EnergyProfile):
        return energy
    path = _SHIPPED.get(str(energy), Path(str(energy)))
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"must be a profile or a YAML file, got {str(energy)!r}",
            argument="energy",
            options=[*_SHIPPED, "FILE.yaml"],
            given=energy,
        )
    try:
        content = parse_yaml(read_text(path))
        name = str(energy) if str(energy) in _SHIPPED else source_of(path)
    except OSError as error:
        raise _refuse(path, f"cannot be read ({error.strerror})", "give a YAML file") from error
    except ValueError as error:
        raise _refuse(path, f"is not YAML ({str(error).rstrip('.')})") from error
    return _parsed(name, path, content)


def _refuse(path: Path, problem: str, advice: str = "correct it") -> UsageError:
    return UsageError(f"{path} {problem}", advice, argument="energy")


def _parsed(name: str, path: Path, content: Any) -> EnergyProfile:
    top = _entries(path, "", content, ("operations", "memory", "bits"))
    costs = _entries(path, "operations", top["operations"], ("mac", "ac", "int8_mac", "int8_ac"))
    bits = _entries(path, "bits", top["bits"], ("weight", "activation", "potential", "spike", "address"))
    if not isinstance(top["memory"], list) or not top["memory"]:
        raise _refuse(path, f"has {str(top['memory'])[:40]!r} as memory, which must be a list of levels")
    levels: list[Level] = []
    for number, item in enumerate(top["memory"]):
        where, is_last = f"memory[{number}]", number == len(top["memory"]) - 1
        found = _entries(path, where, item, ("name", *(() if is_last else ("size",)), "energy", "bits"))
        size = inf if is_last else 8 * _quantity(path, f"{where}.size", found["size"], _BYTES)
        if levels and size <= levels[-1].bits:
            raise _refuse(path, f"has {found['size']!r} as {where}.size, which must be above that of the level before")
        energy = _quantity(path, f"{where}.energy", found["energy"], _JOULES)
        levels.append(Level(str(found["name"]), size, energy / _width(path, f"{where}.bits", found["bits"])))
    numbers: dict[str, Any] = {key: _quantity(path, f"operations.{key}", costs[key], _JOULES) for key in costs}
    numbers |= {key: _width(path, f"bits.{key}", bits[key]) for key in bits}
    return EnergyProfile(name, levels=tuple(levels), **numbers)


def _entries(path: Path, where: str, content: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    """A mapping that has exactly these entries."""
    if not isinstance(content, dict):
        raise _refuse(path, f"has {str(content)[:40]!r} as {where or 'its content'}, which must be a mapping")
    place = f" in {where}" if where else ""
    if missing := [name for name in names if name not in content]:
        raise _refuse(path, f"lacks {missing[0]}{place}", "add it")
    if unknown := [name for name in content if name not in names]:
        raise _refuse(path, f"has the unknown entry {unknown[0]}{place}", f"leave it out; known are {', '.join(names)}")
    return content


def _quantity(path: Path, where: str, value: Any, units: Mapping[str, float]) -> float:
    """A number of at least 0 with a unit."""
    number, unit = _split(value)
    if unit not in units or not (isfinite(number) and number >= 0):
        wanted = f"a number of at least 0 with one of the units {', '.join(units)}"
        raise _refuse(path, f"has {value!r} as {where}, which must be {wanted}")
    return number * units[unit]


def _split(value: Any) -> tuple[float, str]:
    found = re.fullmatch(r"\s*([-+.\deE]+)\s*([a-zA-Z]+)\s*", value) if isinstance(value, str) else None
    try:
        return (float(found[1]), found[2]) if found else (-1.0, "")
    except ValueError:
        return -1.0, ""


def _width(path: Path, where: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise _refuse(path, f"has {value!r} as {where}, which must be a positive integer")
    return value
