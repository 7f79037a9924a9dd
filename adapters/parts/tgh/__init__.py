"""Parts of ``tgh_moe`` alone."""
