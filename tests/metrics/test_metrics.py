"""Intervals against the binomial distribution, scores against their definition."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from diffusion_sklearn.metrics import clopper_pearson, winoground_scores


@pytest.mark.parametrize("n_correct, n", [(1, 10), (9, 10), (50, 100), (880, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_bounds_invert_the_binomial_tails(n_correct, n, confidence):
    low, high = clopper_pearson(n_correct, n, confidence)
    tail = (1 - confidence) / 2
    np.testing.assert_allclose(binom.sf(n_correct - 1, n, low), tail)
    np.testing.assert_allclose(binom.cdf(n_correct, n, high), tail)


def test_at_the_ends():
    assert clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1))


@pytest.mark.parametrize("bad", [(11, 10), (-1, 10), (1, 0), (0.5, 10), (1, 10, 1.0)])
def test_impossible_counts(bad):
    with pytest.raises(ValueError, match=r"n_correct=|n=|confidence="):
        clopper_pearson(*bad)


# Winoground --------------------------------------------------------------------------

ALL_RIGHT = [[3, 1], [2, 4]]
CAPTION_0_WINS = [[3, 1], [2, 1]]


@pytest.mark.parametrize(
    "example, text, image, group",
    [
        (ALL_RIGHT, 1, 1, 1),
        ([[1, 3], [4, 2]], 0, 0, 0),
        ([[1, 1], [1, 1]], 0, 0, 0),
        ([[2, 1], [2, 3]], 1, 0, 0),  # image 0 and 1 tie for caption 0
        ([[2, 2], [1, 3]], 0, 1, 0),
        ([[2, 1], [3, 4]], 1, 0, 0),  # the right captions, but image 1 always wins
        ([[2, 3], [1, 4]], 0, 1, 0),  # the right images, but caption 1 always wins
        (CAPTION_0_WINS, 0, 0, 0),
        ([[-np.inf, -np.inf], [0, 1]], 0, 0, 0),
    ],
)
def test_one_example(example, text, image, group):
    scores = winoground_scores([example])
    assert (scores.text, scores.image, scores.group) == (text, image, group)
    assert scores.n == 1 and scores.tags == {}


def test_chance_is_a_quarter_a_quarter_and_a_sixth():
    n = 20_000
    scores = winoground_scores(np.random.RandomState(0).normal(size=(n, 2, 2)))
    for name, chance in (("text", 1 / 4), ("image", 1 / 4), ("group", 1 / 6)):
        assert abs(scores[name] - chance) < 4 * np.sqrt(chance * (1 - chance) / n)
        low, high = scores.intervals[name]
        assert low < scores[name] < high


def test_against_a_loop_over_examples():
    """Equation 9 of Li et al. (ICCV 2023) as it stands, s(C_j, I_i) = table[i][j]."""
    table = np.random.RandomState(1).randint(5, size=(300, 2, 2))  # with ties
    wins = {"text": 0, "image": 0, "group": 0}
    for s in table.tolist():
        text = s[0][0] > s[0][1] and s[1][1] > s[1][0]
        image = s[0][0] > s[1][0] and s[1][1] > s[0][1]
        wins["text"] += text
        wins["image"] += image
        wins["group"] += text and image
    scores = winoground_scores(table, confidence=0.9)
    for name, count in wins.items():
        assert scores[name] == pytest.approx(count / 300)
        assert scores.intervals[name] == clopper_pearson(count, 300, 0.9)


@pytest.mark.parametrize("kind", [np.array, list])
def test_each_tag_is_scored_on_its_own(kind):
    table = np.random.RandomState(2).normal(size=(50, 2, 2))
    tags = np.array(["relation", "object"] * 20 + ["both"] * 10)
    scores = winoground_scores(kind(table), kind(tags))
    plain = winoground_scores(table)
    assert scores.text == plain.text and scores.intervals == plain.intervals
    assert list(scores.tags) == ["both", "object", "relation"]
    for tag, part in scores.tags.items():
        assert part == winoground_scores(table[tags == tag])


@pytest.mark.parametrize(
    "table, tags, match",
    [
        (ALL_RIGHT, None, r"score_matrix has shape \(2, 2\); pass \(n, 2, 2\)"),
        ([[[1, 2, 3], [4, 5, 6]]], None, r"shape \(1, 2, 3\)"),
        (np.empty((0, 2, 2)), None, r"shape \(0, 2, 2\)"),
        ([ALL_RIGHT, [[1, np.nan], [2, 3]]], None, r"NaN, first in example 1"),
        ([ALL_RIGHT], ["object", "both"], r"tags has shape \(2,\).*the 1 examples"),
        ([ALL_RIGHT], "object", r"tags has shape \(\)"),
        (
            [ALL_RIGHT] * 2,
            ["object", None],
            "tags has None or NaN, first for example 1",
        ),
        ([ALL_RIGHT], [pd.NA], "tags has None or NaN, first for example 0"),
        ([ALL_RIGHT], [np.nan], "tags has None or NaN, first for example 0"),
    ],
)
def test_impossible_tables(table, tags, match):
    with pytest.raises(ValueError, match=match):
        winoground_scores(table, tags)


def test_impossible_confidence():
    with pytest.raises(ValueError, match="confidence="):
        winoground_scores([ALL_RIGHT], confidence=1.0)
