"""ReViT for video: one transformer, several token lengths, chosen per clip (arXiv:2307.02092)."""

__version__ = "0.1.0"
