"""DIVER: a transformer of EEG on all patches of all channels at once, written from its papers."""
