"""Sources of encoders, one per file."""

if __name__ == "encoders":
    raise ImportError("this folder is installed as medgraft.encoders; write `from medgraft.encoders import ...`")
