"""ADNI in each layout that it is downloaded or converted to."""
