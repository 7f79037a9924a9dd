"""From a request to a finished sweep: options, plan, run, display."""
