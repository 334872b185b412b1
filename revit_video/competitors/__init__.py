"""The rivals of ReViT on the same core, one file each; `zoo.create_model` knows them by name
(docs/rivals.md).
"""
