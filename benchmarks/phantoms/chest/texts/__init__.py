"""Phantom twins of cohorts of films with texts, and what is true of any phantom film."""
