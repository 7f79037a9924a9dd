"""Phantom chest radiographs, and CheXpert, MIMIC-CXR, NIH, RSNA and SIIM cohorts of them."""
