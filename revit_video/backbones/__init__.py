"""Whole networks. `core.py` holds the level switch they share; `zoo.py` maps names to builders."""
