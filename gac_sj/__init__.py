"""Gated Attention Coding (GAC) for SpikingJelly. Importing it registers the models with timm."""

from gac_sj import checkpoint, export, functional, models
from gac_sj.analysis import summarize
from gac_sj.attach import Attached, attach
from gac_sj.attention import GatedAttentionUnit, SpatialChannelAttention, TemporalAttention
from gac_sj.encoder import Encoder
from gac_sj.encoding import (
    AttendedDirectCoding,
    DirectCoding,
    GatedAttentionCoding,
    MatchedDirectCoding,
    create_encoder,
)
from gac_sj.folding import fold_batch_norm
from gac_sj.neuron import LIFNode, preset
from gac_sj.pixel_coding import LatencyCoding, PoissonCoding, WeightedPhaseCoding
from gac_sj.surrogate import Rectangle, Triangle

__version__ = "0.1.0"

__all__ = [
    "Attached",
    "AttendedDirectCoding",
    "DirectCoding",
    "Encoder",
    "GatedAttentionCoding",
    "GatedAttentionUnit",
    "LIFNode",
    "LatencyCoding",
    "MatchedDirectCoding",
    "PoissonCoding",
    "Rectangle",
    "SpatialChannelAttention",
    "TemporalAttention",
    "Triangle",
    "WeightedPhaseCoding",
    "attach",
    "checkpoint",
    "create_encoder",
    "export",
    "fold_batch_norm",
    "functional",
    "models",
    "preset",
    "summarize",
]
