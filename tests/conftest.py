"""What every test may ask for: the shared real data, and small things made once."""

import os
from pathlib import Path

import hypothesis
import pytest

# No test asserts a time: a busy machine is not a failure.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout (`PICOLLM_SHARED` or ../shared)."""
    folder = Path(os.environ.get("PICOLLM_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        why = f"real data not found at {folder}; set PICOLLM_SHARED"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads and probe verdicts of the tests stay away from the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ.setdefault("PICOLLM_CACHE", str(folder))
    return folder
