"""The encoders that work with the installed SpikingJelly: 0.0.0.0.14 lacks usable attention layers."""

from spikingjelly.activation_based import layer
from torch import nn

from gac_sj.encoders import list_encoders

HAS_ATTENTION = issubclass(layer.MultiDimensionalAttention, nn.Module)
AVAILABLE = [name for name in list_encoders() if HAS_ATTENTION or name not in ("temporal_wise", "multi_dimensional")]
