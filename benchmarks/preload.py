"""Imported by the fork server, for what importing it does: see :mod:`medgraft.benchmarks.importing`."""

from medgraft.benchmarks.importing import import_for_cells

import_for_cells()
