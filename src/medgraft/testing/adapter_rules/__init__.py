"""Rules of the conformance kit for adapters, one subject per file."""
