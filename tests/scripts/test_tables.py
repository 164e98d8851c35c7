"""`scripts/tables.py`: the comparison with scikit-learn on a table of people's data."""

import sys

import pytest
import tables
from support.churn import make_customers


@pytest.mark.slow
def test_every_method_has_a_row_and_the_networks_beat_the_baseline(tmp_path, monkeypatch, capsys):
    make_customers(600).to_csv(tmp_path / "customers.csv", index=False)
    monkeypatch.setattr(
        sys, "argv", ["tables.py", str(tmp_path / "customers.csv"), "--target", "churn", "--seeds", "2"]
    )
    tables.main()
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["method", "accuracy", "log", "loss", "ROC", "AUC", "seconds"]
    by_hand, network, trees, baseline = (row.replace(" ± ", "±").split() for row in rows)
    assert by_hand[:2] == ["jaxann", "train"]
    assert "HistGradientBoosting" in trees
    log_losses = [float(row[-3].split("±")[0]) for row in (by_hand, network, baseline)]
    assert log_losses[0] < log_losses[2] - 0.03
    assert log_losses[1] < log_losses[2] - 0.03
    assert baseline[-2] == "0.500±0.000"
