"""External validation: a trained graft tested on another cohort."""
