"""Whole files for the fuzzer, made once a session."""

import pytest
from seeds import Seeds, make_seeds


@pytest.fixture(scope="session")
def seeds(tmp_path_factory, synthetic_set, trained_run) -> Seeds:
    return make_seeds(tmp_path_factory.mktemp("seeds"), synthetic_set, trained_run)
