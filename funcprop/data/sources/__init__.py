"""Formats that data lies in on a disk: a file each, with the function that opens it."""
