"""Networks, registered with timm when this package is imported."""

from gac_sj.models import att_ms_resnet
from gac_sj.models.builder import bare_name, default_encoder
from gac_sj.models.kinds import MODULES, create_network, list_networks
from gac_sj.models.ma_snn import MASNN
from gac_sj.models.ms_block import MSBlock
from gac_sj.models.ms_resnet import MSResNet

__all__ = [
    "MASNN",
    "MODULES",
    "MSBlock",
    "MSResNet",
    "att_ms_resnet",
    "bare_name",
    "create_network",
    "default_encoder",
    "list_networks",
]
