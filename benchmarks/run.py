"""``python -m benchmarks.run`` in a checkout; ``medgraft run`` is the same command anywhere."""

import sys

try:
    from medgraft.benchmarks.commands.main import run_main
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "medgraft":
        raise
    sys.exit("medgraft is not installed here; run `make install` (or `pip install -e .`) first")

if __name__ == "__main__":
    run_main()
