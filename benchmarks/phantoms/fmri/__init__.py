"""Generator of fMRI."""
