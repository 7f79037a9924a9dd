"""T1, PET and diffusion maps of the same people, from a BIDS tree with derivatives."""
