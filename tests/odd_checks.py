"""Stands in for `data.check.check_file` where a file is to hang or to take its process along."""

import os
import time

from revit_video.data.check import Checked
from revit_video.types import InputError


def odd_check(path: str, *, decoder: str, full: bool) -> Checked:
    """Does what the name of the file says."""
    if path == "hang":
        time.sleep(600)
    elif path == "crash":
        os._exit(7)
    elif path == "refuse":
        raise InputError("this reader is not installed")
    return Checked(path, "ok", frames=os.getpid())
