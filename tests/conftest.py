"""What all tests share: where the repository is, where optional reference data are, and quiet, repeatable settings."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from databases import place as place  # a fixture: each engine that a ledger may be in

ROOT = Path(__file__).parent.parent

# Examples are derived from the test, not from the clock, so that a run that failed can be run again; no deadline, because
# the machine is shared and the first call of a kernel compiles it.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("wide", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def shared(path: str) -> Path:
    """A reference file beside the checkout (ALGO_ROYALE_REFERENCE, default ../shared); skips the test where there is none."""
    found = Path(os.environ.get("ALGO_ROYALE_REFERENCE", ROOT.parent / "shared")) / path
    if not found.exists():
        pytest.skip(f"no reference data at {found}")
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the long proofs in their full size (make prove)")
    parser.addoption("--proof-seed", type=int, default=20121018, help="another course of the proofs that draw one")


@pytest.fixture
def proving(request: pytest.FixtureRequest) -> bool:
    """True when a proof is to run in its full size; the suite runs a reduced one. Such tests carry the marker `prove`."""
    return bool(request.config.getoption("--prove"))


@pytest.fixture
def proof_seed(request: pytest.FixtureRequest) -> int:
    """What a proof draws its kills and faults from."""
    return int(request.config.getoption("--proof-seed"))


@pytest.fixture(autouse=True)
def _environment_of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's own settings, keys or proxies."""
    for name in list(os.environ):
        if name == "ALGO_ROYALE_REFERENCE":
            continue
        if name.startswith(("ALGO_ROYALE", "APCA_", "ALPACA_")) or name.lower() in (
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ):
            monkeypatch.delenv(name)
