"""Which gradients are right, by which rule."""
