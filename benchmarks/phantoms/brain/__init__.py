"""Phantom T1-weighted brains, and ADNI cohorts of them."""
