"""Files, folders, long videos and live streams through one sliding window.

Source of frames -> cutter -> model -> smoothing -> events -> outputs, one file each.
"""
