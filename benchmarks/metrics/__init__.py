"""Metrics on stored predictions, each with an interval that resamples subjects."""
