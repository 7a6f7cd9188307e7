"""Checkpoints: our folders of weights, and the published ones of GAC and (Att-)MS-ResNet by their key names."""

from gac_sj.checkpoint.pretrained import load_pretrained, save_pretrained
from gac_sj.checkpoint.published import load_reference_state_dict, read_reference, reference_names

__all__ = ["load_pretrained", "load_reference_state_dict", "read_reference", "reference_names", "save_pretrained"]
