"""Sharing modes of equal size: the counts are the built models' own, and the FLOPs those of pencil and paper."""

from dataclasses import replace

import pytest

from mtl.analysis.equal_size import TOLERANCE, count_flops, count_parameters, equal_parameters
from mtl.config.sharing import MODES
from mtl.models.joint import build_model
from tests.support import tiny


def test_every_mode_comes_as_large_as_hard():
    config = tiny.config(blocks=4, bottleneck=4)
    rows = {row.mode: row for row in equal_parameters(config, tiny.codec())}
    assert list(rows) == list(MODES)
    assert rows["hard"].config == config
    assert rows["hard"].ratio == rows["hard"].flops_ratio == 1
    for mode, row in rows.items():
        assert row.parameters == sum(p.numel() for p in build_model(row.config, tiny.codec()).parameters())
        assert abs(row.ratio - 1) <= TOLERANCE, mode
        assert row.config == replace(
            config,
            sharing=config.sharing.replace(mode=mode),
            blocks=row.config.blocks,
            hidden=row.config.hidden,
        )
    assert rows["attention"].config.blocks == rows["graph"].config.blocks == 4
    assert rows["soft"].config.blocks < 4  # five encoders
    # After its first block an adapter trunk runs the other three five times.
    assert 3 < rows["adapter"].flops_ratio < 4


def test_one_unit_more_is_a_fixed_number_of_parameters():
    counts = [count_parameters(tiny.config(blocks=3, hidden=units), tiny.codec()) for units in (7, 8, 100)]
    # Two feed-forward layers in each of three blocks: 16 weights in, a bias, 16 weights out.
    assert [counts[1] - counts[0], counts[2] - counts[1]] == [6 * 33, 92 * 6 * 33]
    assert count_parameters(tiny.config(hidden=32), tiny.codec()) == count_parameters(tiny.config(), tiny.codec())


def test_a_mode_that_cannot_be_as_small_says_so():
    with pytest.raises(ValueError, match=r"soft with 5 tasks cannot be made as small as .* leave this mode out"):
        equal_parameters(tiny.config(blocks=1), tiny.codec(), ["soft"])


def test_flops_of_a_block_by_hand():
    one, two = (count_flops(tiny.config(blocks=blocks), tiny.codec()) for blocks in (1, 2))
    frames, width, hidden, kernel = 200, 16, 32, 3  # four seconds at 10 ms a frame, subsampled by 2
    products = 2 * 2 * width * hidden + 4 * width * width + 3 * width * width + width * kernel
    attention = 2 * frames * width
    assert two - one == 2 * frames * (products + attention)
