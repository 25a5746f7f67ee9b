"""funcprop summary: the table of the model that `funcprop train` would teach."""

import funcprop.cli as cli


def test_a_model_layer_by_layer(capsys):
    assert cli.main(["summary", "--layers", "9", "--batch-size", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mlp on digits, mini-batches of 4: 685 parameters in 2.74 kB")
    assert any(line.split()[:3] == ["2", "Dense(9)", "[4,"] for line in lines)
    assert lines[-1].split()[:3] == ["in", "all", "685"]


def test_what_does_not_fit_is_one_line(capsys):
    assert cli.main(["summary", "--model", "gpt"]) == 2
    assert "gpt cannot read digits" in capsys.readouterr().err
