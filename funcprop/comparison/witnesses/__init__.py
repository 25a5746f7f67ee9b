"""They measure, and judge nothing."""
