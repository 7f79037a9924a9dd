"""Radiographs from DICOM and picture files as grey values."""
