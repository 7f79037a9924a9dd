"""Built-in modalities, one file each; see :mod:`medgraft.modality` for their contract."""
