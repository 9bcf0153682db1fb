"""Recorded traces become hourly means; a folder that cannot be read is named."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from forecasting.errors import InvalidTrace
from forecasting.traces import read_trace

HEADER = ";\t".join(f"column {number}" for number in range(11))
REPOSITORY = Path(__file__).resolve().parents[3]
FIRST = int(datetime(2013, 7, 1, 5, tzinfo=UTC).timestamp())


def write_machine(folder: Path, name: str, samples: list[tuple[int, float]]) -> None:
    lines = [
        f"{at};\t2;\t5200.0;\t{use};\t1.0;\t8e6;\t{use * 10};\t{use / 2};\t3.0;\t{use + 1};\t0.0"
        for at, use in samples
    ]
    (folder / "vm").mkdir(exist_ok=True)
    with gzip.open(folder / "vm" / f"{name}.csv.gz", "wt") as file:
        file.write("\n".join([HEADER, *lines]))


def test_bitbrains_samples_become_hourly_means_of_four_resources(tmp_path):
    write_machine(tmp_path, "5", [(FIRST + 60, 10), (FIRST + 360, 30), (FIRST + 7300, 8)])
    write_machine(tmp_path, "6", [(FIRST + 3700, 4)])
    trace = read_trace(tmp_path)
    assert (trace.name, trace.start) == ("bitbrains", datetime(2013, 7, 1, 5, tzinfo=UTC))
    assert list(trace.resources) == ["cpu", "memory", "disk", "network"]
    nan = np.nan
    np.testing.assert_array_equal(trace.resources["cpu"], [[20, nan, 8], [nan, 4, nan]])
    np.testing.assert_array_equal(trace.resources["memory"][0], [200, nan, 80])
    np.testing.assert_array_equal(trace.resources["disk"][0], [10, nan, 4])
    np.testing.assert_array_equal(trace.resources["network"][0], [21, nan, 9])


def write_server(folder: Path, number: int, hours: int) -> np.ndarray:
    samples = np.random.default_rng(number).random((hours * 12, 19)).astype(np.float32)
    np.savez(folder / f"omi-{number}.npz", train=samples[: 24 * 12], test=samples[24 * 12 :])
    return samples


def test_the_two_parts_of_a_server_are_one_history_and_a_short_one_ends_with_the_others(tmp_path):
    long, short = write_server(tmp_path, 1, 48), write_server(tmp_path, 2, 36)
    trace = read_trace(tmp_path)
    metrics = trace.resources["metrics"]
    assert (trace.name, metrics.shape) == ("asd", (38, 48))
    np.testing.assert_allclose(metrics[0, -1], long[-12:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics[19, -1], short[-12:, 0].mean(), rtol=1e-6)
    assert np.isnan(metrics[19:, :12]).all()
    assert np.isfinite(metrics[19:, 12:]).all()


def test_fewer_machines_are_spread_over_the_files(tmp_path):
    for number in range(1, 6):
        write_server(tmp_path, number, 30)
    assert read_trace(tmp_path, machines=2).n_series == 38


def test_a_folder_in_no_known_layout_and_a_broken_file_are_named(tmp_path):
    with pytest.raises(InvalidTrace, match="holds neither"):
        read_trace(tmp_path)
    (tmp_path / "omi-1.npz").write_bytes(b"not an archive")
    with pytest.raises(InvalidTrace, match=r"omi-1\.npz"):
        read_trace(tmp_path)


def test_engines_are_scored_from_the_command_line(tmp_path, capsys):
    write_server(tmp_path, 1, 30 * 24)
    call_command("evaluate_demand", data=tmp_path, engine=["seasonal", "seasonal_naive"], json=True)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert figures["wql_seasonal_naive_asd"] == 1.0
    assert 0 < figures["wql_seasonal_asd"] < 1
    assert {"cover50_seasonal_asd", "share_beating_naive_seasonal_asd"} < set(figures)
    with pytest.raises(CommandError, match="holds neither"):
        call_command("evaluate_demand", data=tmp_path / "absent")
    with pytest.raises(CommandError, match="from 1 on is wanted, not '0'"):
        call_command("evaluate_demand", f"--data={tmp_path}", "--machines=0")


def test_the_evaluation_needs_no_server_and_no_settings(tmp_path):
    write_server(tmp_path, 1, 30 * 24)
    command = [sys.executable, "manage.py", "evaluate_demand", f"--data={tmp_path}"]
    done = subprocess.run(
        [*command, "--engine=seasonal_naive", "--json"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "FOREDESK_DATA": str(tmp_path / "absent")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1])["figures"]["wql_seasonal_naive_asd"] == 1.0
    assert "seasonal_naive" in done.stderr, "progress is shown while it runs"
