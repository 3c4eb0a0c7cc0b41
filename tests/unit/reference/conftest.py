"""Models and instances that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from disagg_launch.reference.serve import limit_threads

limit_threads()  # before NumPy is loaded by the next lines: several test processes share the cores

from in_process import Instance  # noqa: E402

from disagg_launch.reference import models  # noqa: E402
from disagg_launch.reference.models import Model  # noqa: E402


@pytest.fixture(scope="session")
def model() -> Model:
    """A random model: 8 heads, 4 KV heads, 4 layers."""
    return models.load("random:7")


@pytest.fixture(scope="module")
def whole(model: Model) -> Iterator[Instance]:
    """One rank that serves everything."""
    instance = Instance(model)
    yield instance
    instance.close()
