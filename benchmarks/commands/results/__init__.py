"""Commands that read results, from ``show`` and ``diff`` to ``texts`` and ``watch``."""
