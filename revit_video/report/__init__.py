"""What a model costs and how well it does: multiply-adds, seconds, tables, plots, provenance."""
