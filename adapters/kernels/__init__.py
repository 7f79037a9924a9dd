"""Operations that adapters share, one per file, each with its plain reference."""
