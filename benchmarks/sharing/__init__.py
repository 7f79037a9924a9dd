"""Results that are looked at, compared, made again, checked and handed on."""
