"""Manual and automatic gradients, side by side."""
