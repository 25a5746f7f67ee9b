"""The exercises as a student should leave them, a file each, written as a user writes."""
