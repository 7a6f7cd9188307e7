"""What a network does: firing rates, energy, layers without spikes, dynamics of the encoder, figures, and a summary."""

from gac_sj.analysis.dynamics import Dynamics, compare_durations, firing_period, measure_dynamics, time_to_repeat
from gac_sj.analysis.energy import Energy, LayerEnergy, measure_energy
from gac_sj.analysis.energy_profile import EnergyProfile, energy_profile
from gac_sj.analysis.firing_rates import firing_rates
from gac_sj.analysis.gates import GateStatistics, gate_statistics
from gac_sj.analysis.memory_energy import LayerMemory, MemoryEnergy
from gac_sj.analysis.spike_driven import non_spiking_layers
from gac_sj.analysis.summary import Summary, summarize

__all__ = [
    "Dynamics",
    "Energy",
    "EnergyProfile",
    "GateStatistics",
    "LayerEnergy",
    "LayerMemory",
    "MemoryEnergy",
    "Summary",
    "compare_durations",
    "energy_profile",
    "firing_period",
    "firing_rates",
    "gate_statistics",
    "measure_dynamics",
    "measure_energy",
    "non_spiking_layers",
    "summarize",
    "time_to_repeat",
]
