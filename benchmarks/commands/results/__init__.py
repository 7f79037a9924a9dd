"""Commands that read results: ``compare``, ``show``, ``diff``, ``reproduce``, ``submit-check`` and ``label``."""
