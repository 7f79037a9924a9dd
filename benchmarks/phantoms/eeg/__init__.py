"""Generated EEG, written in the layouts of published cohorts."""
