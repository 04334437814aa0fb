"""Perplexity and bits per byte of cases with known answers."""

from __future__ import annotations

import math

import pytest

from isolora.metrics.perplexity import bits_per_byte, perplexity


def test_a_uniform_guess_is_as_perplexed_as_there_are_choices() -> None:
    assert perplexity(math.log(50_257)) == pytest.approx(50_257)
    assert perplexity(0) == 1


def test_a_loss_beyond_floats_is_infinitely_perplexed() -> None:
    assert perplexity(710) == math.inf
    assert perplexity(709.7) < math.inf


def test_a_uniform_guess_at_a_byte_costs_eight_bits() -> None:
    assert bits_per_byte(math.log(256), tokens=1000, utf8_bytes=1000) == pytest.approx(8)


def test_tokens_that_stand_for_nothing_have_no_bytes() -> None:
    assert math.isnan(bits_per_byte(2.0, 5, 0))


def test_bits_per_byte_ignore_how_the_text_was_cut() -> None:
    text = "naïve 東京"
    size = len(text.encode())
    assert size == 13
    assert bits_per_byte(3.0, tokens=4, utf8_bytes=size) == pytest.approx(bits_per_byte(1.5, tokens=8, utf8_bytes=size))
    assert bits_per_byte(3.0, tokens=4, utf8_bytes=size) == pytest.approx(12 / 0.693147 / 13, rel=1e-6)
