"""Whole training jobs against the plain peft loop: ``python -m benchmarks.speed``."""

from medgraft.benchmarks.speed.command import main

if __name__ == "__main__":
    main()
