"""Prepared inputs and the frozen part of encoders, computed once and kept on disk."""
