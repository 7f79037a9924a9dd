"""Imported by the fork server, for what importing it does: see :mod:`medgraft.benchmarks.launch.warm_start`."""

from medgraft.benchmarks.launch.warm_start import import_for_cells

import_for_cells()
