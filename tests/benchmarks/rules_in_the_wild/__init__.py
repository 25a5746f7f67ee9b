"""What rules_in_the_wild.py reads: calls of derivative rules, a file a package, and the pins."""
