"""Encoders: their base, the sites where adapters attach, and towers by what they read."""

from medgraft.encoder.attention import PROJECTIONS
from medgraft.encoder.base import Encoder
from medgraft.encoder.multimodal import DualEncoder, MultimodalEncoder
from medgraft.encoder.spec import Carried, EncoderSpec
from medgraft.encoder.text import TextEncoder

__all__ = ["PROJECTIONS", "Carried", "DualEncoder", "Encoder", "EncoderSpec", "MultimodalEncoder", "TextEncoder"]
