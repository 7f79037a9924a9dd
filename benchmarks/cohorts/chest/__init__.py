"""Cohorts of chest radiographs: CheXpert, MIMIC-CXR, NIH, RSNA and SIIM."""
