"""SwiFT: its network, and runs of fMRI as it reads them."""
