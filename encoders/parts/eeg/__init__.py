"""EEG: electrodes, recordings as networks take them, and braindecode's networks as towers."""
