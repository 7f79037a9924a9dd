"""The plain form of label-guided InfoNCE, which is the core's loss: the definition that the fused forms are held to."""

from medgraft.losses import label_guided_info_nce as reference

__all__ = ["reference"]
