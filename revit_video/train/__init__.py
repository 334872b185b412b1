"""Training: one loop for both stages, a step function for each, and what a run leaves on disk."""
