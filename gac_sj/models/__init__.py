"""Networks, registered with timm when this package is imported."""

from gac_sj.models.ms_resnet import MSBlock, MSResNet

__all__ = ["MSBlock", "MSResNet"]
