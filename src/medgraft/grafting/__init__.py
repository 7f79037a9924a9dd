"""Grafting: a frozen encoder, one or more adapters, optionally a head; reversible."""

from medgraft.grafting.encoders import encoder_of, graft, ungraft_all
from medgraft.grafting.grafted import Grafted, refuse_carried

__all__ = ["Grafted", "encoder_of", "graft", "refuse_carried", "ungraft_all"]
