"""What all tests share: fixed seeds, poisoned memory, and the folder of real data."""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples on every machine and in every order, however loaded the machine is.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


COMPLETE = os.environ.get("HRT_MM_TEST_COMPLETE") == "1"
"""Every extra is installed, as in continuous integration: only tests of GPUs and of real data may be skipped."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if COMPLETE and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        fail_unless_allowed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if COMPLETE and report.skipped:
        fail_unless_allowed(report)
    return report


def fail_unless_allowed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Makes a skip a failure, unless it is for want of real data."""
    reason = str(report.longrepr)
    if "HRT_MM_DATA" not in reason:
        report.outcome = "failed"
        report.longrepr = f"skipped, though HRT_MM_TEST_COMPLETE=1 says that all extras are installed: {reason}"


@pytest.fixture(autouse=True)
def ordinary_scheduling() -> Iterator[None]:
    """Takes back the real-time priority that SVT-AV1 gives the calling thread where it may, as it does for root.

    A test process that kept it would leave no processor to others.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    if os.sched_getscheduler(0) != policy:
        os.sched_setscheduler(0, policy, parameters)


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # libraries under test draw from the global generator
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory from ``torch.empty`` holds NaN, so that what is read before it was written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; what asks for it is skipped where there is none."""
    folder = os.environ.get("HRT_MM_DATA")
    if not folder:
        pytest.skip("HRT_MM_DATA is not set: real data is not here")
    if not Path(folder).is_dir():
        pytest.fail(f"HRT_MM_DATA is {folder}, which is not a folder")
    return Path(folder)
