"""Built-in adapters, one per file."""

if __name__ == "adapters":
    raise ImportError("this folder is installed as medgraft.adapters; write `from medgraft.adapters import ...`")
