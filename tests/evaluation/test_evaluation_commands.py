"""`psharelora evaluate` and `psharelora simulate`, as a user calls them."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from app.cli.evaluate import evaluate
from app.cli.simulate import simulate
from tests.support.datasets import write_readable_folder, write_reference_folder

commands = Typer()
commands.command()(evaluate)
commands.command()(simulate)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, list(arguments), env={"COLUMNS": "160"})


def test_evaluate_prints_one_json_object_and_keeps_progress_off_stdout(tmp_path: Path) -> None:
    result = run("evaluate", str(write_reference_folder(tmp_path)), "--rank", "1", "--json")
    assert result.exit_code == 0, result.stderr
    body = json.loads(result.stdout)
    assert body["dataset"] == "drawn"
    assert list(body["methods"]) == ["global", "per_user", "population", "mle", "evidence"]
    assert body["methods"]["evidence"]["rank"] == 1
    assert "evidence" in result.stderr


def test_evaluate_prints_tables_for_people(tmp_path: Path) -> None:
    result = run("evaluate", str(write_readable_folder(tmp_path)), "--rank", "1")
    assert result.exit_code == 0, result.stderr
    for expected in ("Seen users", "Unseen users", "per_user", "evidence", "q = 32", "split: derived"):
        assert expected in result.stdout


def test_evaluate_measures_the_methods_that_are_named(tmp_path: Path) -> None:
    folder = str(write_reference_folder(tmp_path))
    result = run("evaluate", folder, "--rank", "1", "--methods", "global, WU", "--seeds", "2", "--json")
    assert result.exit_code == 0, result.stderr
    body = json.loads(result.stdout)
    assert list(body["methods"]) == ["global", "WU"]
    assert len(body["methods"]["WU"]["spread"]["log_loss"]["values"]) == 2
    wrong = run("evaluate", folder, "--methods", "global,best")
    assert wrong.exit_code == 2
    assert "found 'best'" in wrong.stderr


def test_evaluate_lets_the_data_choose_the_rank(tmp_path: Path) -> None:
    result = run("evaluate", str(write_reference_folder(tmp_path)), "--json")
    assert result.exit_code == 0, result.stderr
    assert 0 <= json.loads(result.stdout)["methods"]["evidence"]["rank"] <= 4


def test_evaluate_refuses_a_missing_folder_in_a_sentence(tmp_path: Path) -> None:
    result = run("evaluate", str(tmp_path / "nowhere"), "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "nowhere is not a folder." in result.stderr


def test_evaluate_refuses_a_garbled_folder_in_a_sentence(tmp_path: Path) -> None:
    write_reference_folder(tmp_path)
    (tmp_path / "comparisons.npz").write_bytes(b"garbled")
    result = run("evaluate", str(tmp_path))
    assert result.exit_code == 2
    assert "comparisons.npz cannot be read as NumPy arrays" in result.stderr


@pytest.mark.parametrize("rank", ["many", "-1", "1.5"])
def test_evaluate_refuses_a_rank_that_is_none(tmp_path: Path, rank: str) -> None:
    result = run("evaluate", str(write_reference_folder(tmp_path)), f"--rank={rank}")
    assert result.exit_code == 2
    assert "--rank" in result.stderr


def test_simulate_prints_points_and_slopes() -> None:
    arguments = ("--users", "16", "--comparisons", "16", "--dim", "4", "--rank", "1")
    result = run("simulate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    body = json.loads(result.stdout)
    assert set(body["slopes"]) == {"principal_angle_distance", "reward_error", "value_gap"}
    point = body["points"][-1]
    assert set(point["catalogue"]) == {"p_share_lora", "lora_global", "lora_local", "full_parameter"}
    assert set(point["mdp"]["regret"]) == {
        "reference",
        "lora_global",
        "lora_local",
        "full_parameter",
        "greedy",
        "robust",
    }
    tables = run("simulate", *arguments)
    assert tables.exit_code == 0
    assert "Exponents" in tables.stdout


def test_simulate_refuses_a_rank_above_the_dimension() -> None:
    result = run("simulate", "--dim", "3", "--rank", "4")
    assert result.exit_code == 2
    assert "at most 3" in result.stderr
