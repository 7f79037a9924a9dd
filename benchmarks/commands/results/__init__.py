"""Commands that read results: ``show``, ``diff``, ``reproduce``, ``submit-check`` and ``label``."""
