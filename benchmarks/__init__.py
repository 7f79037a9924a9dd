"""The benchmark harness: plan, run, measure, store, rank."""
