"""Whole networks. `core.py` holds the level switch that all of them share; `zoo.py` maps names to builders."""
