"""Models and instances that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from in_process import Instance

from disagg_launch.reference import models
from disagg_launch.reference.models import Model


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
