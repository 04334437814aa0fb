"""Facts about accelerators: found by name, and consistent."""

from __future__ import annotations

import pytest

from isolora.cost.accelerators import find_accelerator, packaged_accelerators
from isolora.errors import ConfigError


def test_found_whatever_the_case() -> None:
    assert find_accelerator("h100") is packaged_accelerators()["H100"]
    assert find_accelerator("A100-80GB").peak("bfloat16") == 312e12


@pytest.mark.parametrize("name", packaged_accelerators())
def test_lower_precision_is_never_slower(name: str) -> None:
    accelerator = packaged_accelerators()[name]
    rates = accelerator.flops_per_second
    assert rates.get("bfloat16", rates["float32"]) >= rates["float32"] > 1e12
    assert 1e9 < accelerator.memory_bytes < 1e12 < 1000 * accelerator.bytes_per_second
    assert any(year in accelerator.source for year in map(str, range(2017, 2027)))


def test_what_is_not_known_is_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown accelerator 'H10'; did you mean 'H100'"):
        find_accelerator("H10")
    with pytest.raises(ConfigError, match="T4 has no peak rate for bfloat16"):
        find_accelerator("T4").peak("bfloat16")
