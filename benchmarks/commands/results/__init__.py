"""Commands that read results: ``show``, ``diff``, ``reproduce``, ``submit-check``, ``label`` and ``watch``."""
