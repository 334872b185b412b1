"""Data sets: a data set is a function that gives a list of labelled videos (`Split`). Import the modules, not
this.
"""
