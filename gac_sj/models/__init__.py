"""Networks, registered with timm when this package is imported."""

from gac_sj.models import att_ms_resnet
from gac_sj.models.builder import bare_name, default_encoder
from gac_sj.models.ma_snn import MASNN
from gac_sj.models.ms_block import MSBlock
from gac_sj.models.ms_resnet import MSResNet

__all__ = ["MASNN", "MODULES", "MSBlock", "MSResNet", "att_ms_resnet", "bare_name", "default_encoder"]

#: timm's names of the modules whose networks can be trained: ``timm.list_models(module=MODULES)``.
MODULES = ("ms_resnet", "att_ms_resnet", "ma_snn")
