"""Every experiment and benchmark runs at its smoke scale."""

from experiments import digits_defaults


def test_digits_defaults(capsys):
    digits_defaults.main(["--scale", "smoke"])
    printed = capsys.readouterr().out
    assert "chosen: learning_rate" in printed
    assert "in use: learning_rate 0.1, gamma 0.5" in printed
