"""Which length for which clip: the assigner and its labels, the budget, and the router that runs clips of one
length together.
"""
