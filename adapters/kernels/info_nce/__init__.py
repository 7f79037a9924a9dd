"""Label-guided InfoNCE without the matrix of similarities."""
