"""A toy model and its data, for experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import toy


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of two blocks."""
    return toy.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve conversations of a person who always says the same."""
    return toy.write_data(tmp_path_factory.mktemp("data"))
