"""What tests of refusals share."""

import pytest

from revit_video.types import InputError


def assert_says(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        raise InputError(line)
