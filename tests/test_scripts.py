"""Every experiment and benchmark runs at its smoke scale."""

import pytest

from experiments import digits_defaults


def test_digits_defaults(capsys):
    digits_defaults.main(["--scale", "smoke"])
    printed = capsys.readouterr().out
    assert "chosen: learning_rate" in printed
    assert "in use: learning_rate 0.1, gamma 0.5" in printed


def test_step_time(capsys):
    pytest.importorskip("torch", reason="the yardstick needs PyTorch (extra [bench])")
    from benchmarks import step_time

    step_time.main(["--smoke"])  # checks first that both sides compute the same numbers
    assert "mnist_cnn" in capsys.readouterr().out
