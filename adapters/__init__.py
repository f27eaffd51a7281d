"""Making, saving and loading adapters; the training loop."""
