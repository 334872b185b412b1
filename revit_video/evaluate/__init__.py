"""Measuring. Nothing here knows what a model is: only `predict(clips) -> numbers` and the numbers it gave."""
