"""Gated Attention Coding (GAC) for SpikingJelly. Importing it registers the models with timm."""

from gac_sj import checkpoint, export, models
from gac_sj._utils.memory import keep_memory
from gac_sj.analysis import summarize
from gac_sj.attach import Attached, attach
from gac_sj.encoders import (
    AttendedDirectCoding,
    DirectCoding,
    Encoder,
    GatedAttentionCoding,
    LatencyCoding,
    MatchedDirectCoding,
    PoissonCoding,
    WeightedPhaseCoding,
    create_encoder,
    list_encoders,
    register_encoder,
)
from gac_sj.models.time_steps import resize_time_steps
from gac_sj.nn import functional
from gac_sj.nn.attention import FreeTemporalAttention, GatedAttentionUnit, SpatialChannelAttention, TemporalAttention
from gac_sj.nn.folding import fold_batch_norm
from gac_sj.nn.fused_sequential import fuse_norm_lif
from gac_sj.nn.neuron import LIFNode
from gac_sj.nn.plif import ParametricLIFNode
from gac_sj.nn.presets import lif_preset
from gac_sj.nn.surrogate import Rectangle, Triangle
from gac_sj.nn.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm
from gac_sj.quantize import quantize

__version__ = "0.2.0"

__all__ = [
    "Attached",
    "AttendedDirectCoding",
    "DirectCoding",
    "Encoder",
    "FreeTemporalAttention",
    "GatedAttentionCoding",
    "GatedAttentionUnit",
    "LIFNode",
    "LatencyCoding",
    "MatchedDirectCoding",
    "ParametricLIFNode",
    "PoissonCoding",
    "Rectangle",
    "SpatialChannelAttention",
    "SyncBatchNorm",
    "TemporalAttention",
    "Triangle",
    "WeightedPhaseCoding",
    "attach",
    "checkpoint",
    "convert_sync_batchnorm",
    "create_encoder",
    "export",
    "fold_batch_norm",
    "functional",
    "fuse_norm_lif",
    "keep_memory",
    "lif_preset",
    "list_encoders",
    "models",
    "quantize",
    "register_encoder",
    "resize_time_steps",
    "summarize",
]
