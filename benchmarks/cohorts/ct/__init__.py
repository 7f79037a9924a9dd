"""Readers of CT volumes with texts: CT-RATE, RadGenome-Chest CT, M3D-Cap and M3D-VQA."""
