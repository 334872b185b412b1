"""The stages of a run, in order: revit (train all lengths), labels, assigner, test. Each takes a job made
ready by `build/`.

A stage leaves whole files in the run's folder and finds there what the stages before it left.
"""
