"""What turns images into spatio-temporal sequences: the contract, the encoders, and their registry."""

from gac_sj.encoders.base import Encoder
from gac_sj.encoders.registry import (
    BASELINE_ENCODER,
    DEFAULT_ENCODER,
    REFERENCE_FORM,
    EncoderInfo,
    create_encoder,
    encoder_info,
    find_encoder,
    list_encoders,
    register_encoder,
    require_source,
)

# in the order in which tables and figures show the encoders
from gac_sj.encoders.gac import DEFAULT_FORM, FORMS, Form, GatedAttentionCoding  # isort: skip
from gac_sj.encoders.direct import AttendedDirectCoding, DirectCoding, MatchedDirectCoding  # isort: skip
from gac_sj.encoders.pixel import LatencyCoding, PoissonCoding, WeightedPhaseCoding  # isort: skip
from gac_sj.encoders.names import encoder_label, parse_encoder
from gac_sj.encoders.plugins import import_plugins

__all__ = [
    "BASELINE_ENCODER",
    "DEFAULT_ENCODER",
    "DEFAULT_FORM",
    "FORMS",
    "REFERENCE_FORM",
    "AttendedDirectCoding",
    "DirectCoding",
    "Encoder",
    "EncoderInfo",
    "Form",
    "GatedAttentionCoding",
    "LatencyCoding",
    "MatchedDirectCoding",
    "PoissonCoding",
    "WeightedPhaseCoding",
    "create_encoder",
    "encoder_info",
    "encoder_label",
    "find_encoder",
    "import_plugins",
    "list_encoders",
    "parse_encoder",
    "register_encoder",
    "require_source",
]
