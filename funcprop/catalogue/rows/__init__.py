"""Long sections of the catalogue, one family a file."""
