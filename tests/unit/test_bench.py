"""The benchmark command runs on a tiny model and goes on where it stopped; its table is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import make_models, pieces, report, targets

ROOT = Path(__file__).resolve().parents[2]
TINY = make_models.Shape(layers=1, width=256, ff=512, heads=4, heads_kv=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    make_models.write_model(path, TINY, make_models.all_q8_0)
    return path


def bench(model: Path, out: Path, *options: str) -> str:
    command = [sys.executable, "-m", "realm_build", "bench", "--quick", "--no-peers", "--noisy"]
    command += ["--models", str(model), "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runs_and_goes_on(model: Path, tmp_path: Path) -> None:
    bench(model, tmp_path, "--only", f"ops/{model}/best")
    shown = bench(model, tmp_path, "--only", f"ops/{model}/best,core/{model}/best")
    state = json.loads((tmp_path / "results.json").read_text())
    [found] = state["rounds"]
    assert set(found) == {f"ops/{model}/best", f"core/{model}/best"}
    core = found[f"core/{model}/best"]
    assert all(core[name] > 0 for name in ("prefill", "decode", "parallel", "together", "first", "load"))
    assert core["resident_peak"] >= core["resident_decoded"] > 0
    ops = found[f"ops/{model}/best"]["one decodes"]["ops"]
    row_bytes = TINY.width // 32 * 34  # Q8_0: 32 weights in 34 bytes
    assert ops["output"]["bytes"] == make_models.VOCABULARY * row_bytes
    assert ops["attention out"]["bytes"] == TINY.width * row_bytes
    assert ops["attention out"]["flops"] == 2 * TINY.width**2
    assert "down" in shown and (tmp_path / "speed.svg").exists()


def test_a_piece_too_long_for_the_time_is_left(model: Path, tmp_path: Path) -> None:
    found = {"machine": "", "rounds": [{}], "seconds": {f"core/{model}/best": 1000.0}}
    (tmp_path / "results.json").write_text(json.dumps(found))
    shown = bench(model, tmp_path, "--only", f"core/{model}/best", "--seconds", "5")
    assert "1 pieces are left" in shown


# ---- figures: rounds made up by hand ----

SMALL = targets.SMALL
ROUND: targets.Round = {
    "limits": {"bandwidth": {"1": 10e9, "2": 20e9}, "peaks": {"amx bf16": 4e12, "avx512 int8": 2e12}},
    f"ops/{SMALL}/best": {
        "one decodes": {"rows": 1, "ops": {"output": {"seconds": 0.01, "bytes": 1e8, "flops": 1e8}}},
        "prompt": {"rows": 512, "ops": {"output": {"seconds": 0.1, "bytes": 1e8, "flops": 2e11}}},
    },
    f"core/{SMALL}/best": {"decode": 150.0, "prefill": 5120.0},
    f"node-llama-cpp/{SMALL}/best": {"decode": 100.0},
}


def row_of(title: str, *rounds: targets.Round) -> targets.Result:
    return next(found for found in targets.results(rounds, {}) if found.row.title == title)


def test_ratios_are_of_their_own_round() -> None:
    slow = {**ROUND, f"core/{SMALL}/best": {"decode": 60.0}, f"node-llama-cpp/{SMALL}/best": {"decode": 20.0}}
    fast = {
        **ROUND,
        f"core/{SMALL}/best": {"decode": 400.0},
        f"node-llama-cpp/{SMALL}/best": {"decode": 200.0},
    }
    found = row_of("110M Q8_0 decode", ROUND, slow, fast)
    assert found.ratios == [1.5, 3.0, 2.0] and found.value == 150.0
    assert report.spread(found.ratios) == "2.00x (1.50-3.00)"


def test_shares_of_the_limit() -> None:
    """150 tokens/s of 1e8 bytes are 15 of 20 GB/s; 10 prompts/s of 2e11 operations 2 of 4 T/s."""
    assert row_of("110M Q8_0 decode", ROUND).shares == [pytest.approx(0.75)]
    assert row_of("110M Q8_0 prefill, all kernels", ROUND).shares == [pytest.approx(0.5)]
    op = ROUND[f"ops/{SMALL}/best"]["prompt"]["ops"]["output"]
    assert targets.share_of_op(ROUND, "best", op) == pytest.approx(0.5)  # operations bind, not bytes


def test_a_target_is_met_against_the_better_peer() -> None:
    found = row_of("110M Q8_0 decode", ROUND)  # 1.5 times the peer, but slower than what is recorded
    assert found.ratios == [1.5] and found.recorded_ratio is not None and found.recorded_ratio < 1.1
    assert found.met is False
    assert row_of("110M Q8_0 decode", {**ROUND, f"core/{SMALL}/best": {"decode": 300.0}}).met is True


def test_memory_is_bounded_from_above(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(1000))
    for size, met in ((1100.0, True), (1101.0, False)):
        found = targets.results(
            [{f"core/{targets.LARGE}/best": {"resident_peak": size}}], {targets.LARGE: file}
        )
        assert [result.met for result in found] == [met]


def test_table_and_plot() -> None:
    lines = report.table(targets.results([ROUND], {}))
    assert all(len(line) == len(report.HEADINGS) for line in lines)
    assert report.markdown(lines).count("\n") == len(lines)
    drawn = ElementTree.fromstring(report.plot(ROUND, [SMALL]))
    bars = [
        float(bar.get("width", "0")) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect") if bar.get("y")
    ]
    assert bars == pytest.approx([0.5 * report.WIDTH] * 4)  # a step and its only op, twice


def test_pieces_stand_beside_their_peers() -> None:
    setup = pieces.Setup([SMALL], peers=True, threads=2, counts=pieces.QUICK)
    listed = list(pieces.names(setup))
    assert listed[0] == "limits" and len(set(listed)) == len(listed)
    for path in pieces.PATHS:
        at = listed.index(f"core/{SMALL}/{path}")
        assert listed[at + 1] == f"node-llama-cpp/{SMALL}/{path}"
