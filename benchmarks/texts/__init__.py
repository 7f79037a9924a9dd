"""Generated texts: how they are kept and resumed, and what keeps them from stating what nobody saw."""
