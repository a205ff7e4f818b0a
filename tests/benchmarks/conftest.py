"""A toy model and data in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy import write_data, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bench")
    write_model(made / "model")
    write_data(made / "data")
    return made
