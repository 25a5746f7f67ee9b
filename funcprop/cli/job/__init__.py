"""The job that `funcprop train` runs: its recipe, its folder, what it prints."""
