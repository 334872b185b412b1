"""Several processes give what one gives. What is compared is in distributed_checks.py, which runs in them."""

import pytest
from processes import names_of_checks, run_checks

CHECKS = "distributed_checks"


@pytest.fixture(scope="module", params=[2, 3], ids=["2_processes", "3_processes"])
def result(request, tmp_path_factory):
    return run_checks(CHECKS, size=request.param, folder=tmp_path_factory.mktemp("checks"))


@pytest.mark.parametrize("check", names_of_checks(CHECKS))
def test_several_processes_give_what_one_gives(result, check):
    result(check)
