"""Readers of cohorts of images with texts: reports of IU X-ray; questions of VQA-RAD, SLAKE and PMC-VQA."""
