"""What is made of results: tables and plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.growth import BATCHES, CONCURRENCIES, COUNTS, DIMENSIONS
from benchmarks.recall import EFS
from benchmarks.targets import at_least

from benchmarks import alternatives, performance, plots, report

ENVIRONMENT = {"measured_at": "", "commit": "abc", "machine": {"cpu": "X", "cores": 2}}
RATES = {"p50_ms": 1.25, "p99_ms": 2.5, "per_s": 1234.5, "load_cores": 0.1, "server_cores": 1.8}


def write(results: Path, name: str, **figures: object) -> None:
    (results / f"{name}.json").write_text(json.dumps({"environment": ENVIRONMENT, "what": name, **figures}))


def growing(name: str, values: tuple[int, ...]) -> list[dict[str, float]]:
    return [{name: value, **RATES, "p50_ms": 1.2345 + value / 7, "per_s": 12345 / value} for value in values]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of everything in its full form."""
    closed = [{"in_process_per_s": 1300.0, **one} for one in growing("concurrency", CONCURRENCIES)]
    swept = [
        {"share": n / 10, "rate": 100 * n + 0.5, "refused": n, **RATES, "refused_p99_ms": 4.5} for n in range(1, 10)
    ]
    write(
        tmp_path,
        "throughput",
        closed=closed,
        open=swept,
        capacity={"per_s": 512.5, "concurrency": 16},
        overload={"refused_p50_ms": 3.25, "refused_p99_ms": 9.75},
        targets=[at_least(0.9, "Embed / in process", [0.95])],
    )
    figures = {"recall": 0.9, "one_per_s": 1234.5, "many_per_s": 2345.5}
    at_server = {f"{batch}_{who}_cores": 0.5 for batch in ("one", "many") for who in ("load", "server")}
    points = [
        {
            "ef": ef,
            **{who: {**figures, **at_server, "recall": 1 - 1 / ef} for who in ("hnswlib", "collection", "server")},
        }
        for ef in EFS
    ]
    write(tmp_path, "recall", kinds={"clustered": points, "normal": points})
    search = {
        "collection": growing("count", COUNTS),
        "dimension": growing("dimension", DIMENSIONS),
        "concurrency": growing("concurrency", CONCURRENCIES),
        "batch": growing("batch", BATCHES),
    }
    kinds = {"rss": 150.25, "pss": 149.5, "private": 148.0}
    write(
        tmp_path,
        "memory",
        vectors_mib=97.66,
        links_mib=14.16,
        above_when_written_mib=kinds,
        median={
            "small_start_s": 2.5,
            "large_start_s": 4.5,
            **{f"{form}_above_{kind}_mib": mib for form, _ in performance.FORMS for kind, mib in kinds.items()},
        },
    )
    write(tmp_path, "growth", search=search, embed={"batch": growing("batch", BATCHES)})
    return tmp_path


def test_plots_are_small_and_the_same_each_time(results: Path, tmp_path: Path) -> None:
    files = plots.draw(results, tmp_path / "images")
    assert [one.stem for one in files] == ["throughput", "open_loop", "recall", "growth"]
    drawn = [one.read_bytes() for one in files]
    assert max(len(one) for one in drawn) < 60_000
    assert [one.read_bytes() for one in plots.draw(results, tmp_path / "images")] == drawn


def test_the_section_tells_what_was_measured_and_only_that(results: Path) -> None:
    told = performance.section(results, "images")
    assert "at commit `abc` (`throughput`, `memory`, `recall`, `growth`)" in told
    assert "| 16 | 772 | 1300 | 3.5 | 2.5 | 0.10 | 1.80 |" in told
    assert "(images/growth.svg)" in told
    assert "| after a start, vectors on disk | 150.2 | 149.5 | 148.0 |" in told
    once = "| 10 | 0.9000 | 0.9000 | 0.9000 | 1,234 | 1,234 | 1,234 | 0.50 | 0.50 |"
    assert told.count(once) == len(("clustered", "normal"))
    assert "### Ingest" not in told


def test_an_accuracy_at_a_threshold_that_was_chosen_on_its_pairs_says_so_and_comes_second() -> None:
    told = report.models(report.ROOT / "benchmarks/results")
    assert (
        "with accuracy 0.862 at a calibrated probability of one half (0.912 at the best threshold on these pairs;"
    ) in told
    assert "accuracy 0.964 at the best threshold on these pairs |" in told
    assert told in report.README.read_text("utf-8")


def test_there_may_be_no_results(tmp_path: Path) -> None:
    assert performance.section(tmp_path, "images") == "Not measured yet: `make bench` does it."
    assert plots.draw(tmp_path, tmp_path / "images") == []


def test_the_backbones_are_ranked_by_accuracy_for_their_time(tmp_path: Path) -> None:
    assert report.backbones(tmp_path).startswith("Not measured yet")
    small = {"parameters": 2.6e6, "train_s": 100.4, "top1": 0.5, "top1_low": 0.46, "top1_high": 0.54,
             "batch_1_ms": 0.5, "batch_8_ms": 0.25, "top1_per_ms": 1.0}  # fmt: skip
    large = small | {"top1": 0.6, "batch_1_ms": 3.0, "top1_per_ms": 0.2}
    executors = {"large": "openvino:f32", "small": "openvino:f32"}
    write(tmp_path, "backbones", executors=executors, backbones={"large": large, "small": small})
    told = report.backbones(tmp_path).splitlines()
    assert told[0].endswith("as it is served, by openvino:f32 on 2 cores of an X, at commit `abc`.")
    assert told[-2:] == [
        "| `small` | 2.60 | 0.500 (0.460 to 0.540) | 0.50 | 0.25 | 1.00 | 100 |",
        "| `large` | 2.60 | 0.600 (0.460 to 0.540) | 3.00 | 0.25 | 0.20 | 100 |",
    ]


def test_int8_is_shown_by_what_it_gains_and_loses(tmp_path: Path) -> None:
    assert report.quantisation(tmp_path).startswith("Not measured yet")
    photographs = {
        "pictures": 900,
        "fitted_to": 300,
        "scores": {"recall_at_1": {"float": 0.98, "int8": 0.975}, "map_at_r": {"float": 0.75, "int8": 0.752}},
        "processor_ms": {"float": 6.0, "int8": 4.0},
        "cosine": {"mean": 0.9912, "least": 0.9708},
    }
    clothes = {
        "pictures": 614,
        "fitted_to": 300,
        "scores": {"top1_accuracy": {"float": 0.9, "int8": 0.8}},
        "processor_ms": {"float": 3.0, "int8": 2.5},
    }
    environments = dict.fromkeys(("base", "garments"), ENVIRONMENT)
    models = {"base": photographs, "garments": clothes}
    write(tmp_path, "quantisation", precision="f32", environments=environments, models=models)
    told = report.quantisation(tmp_path).splitlines()
    assert told[0].startswith("Float is the fastest float precision of OpenVINO here (f32).")
    assert told[0].endswith("At commit `abc`.")
    assert told[-3:] == [
        "| `base` | 900 | 6.00 : 4.00 (1.50 x) | 0.991 / 0.971 | recall_at_1 | 0.980 | 0.975 | 0.5 |",
        "|  |  |  |  | map_at_r | 0.750 | 0.752 | -0.2 |",
        "| `garments` | 614 | 3.00 : 2.50 (1.20 x) |  | top1_accuracy | 0.900 | 0.800 | 10.0 |",
    ]


def test_the_targets_are_all_in_one_document_and_those_that_are_missed_in_the_readme(results: Path) -> None:
    calls = ("call", "decode", "compiled", "bare_grpc", "index", "with_metadata")
    median = {f"{name}_p50_ms": 1.0 for name in calls} | {"added_p50_ms": 0.5, "warm_s": 4.75}
    for name in ("embed", "startup", "search"):
        write(results, name, median=median, cold_s=20.0, upserts_per_s=9999, count=1000, filters={})
    told = report.tables(results)
    assert "at commit `abc`; medians of five runs." in told
    assert "Search by vector, 1,000 x 256" in told
    assert (
        "9,999 per second. Offered twice what it can do, the server refuses a call within 3.2 ms (p50; p99 9.8 ms)."
        in told
    )
    assert told.endswith("1 of 1 [targets](docs/performance.md#targets) are met.")
    write(results, "ingest", targets=[at_least(0.85, "ingested / embedded", [0.5])])
    judged = report.judged(results)
    assert "| Embed / in process | at least 0.9 | 0.950 | yes |" in judged
    assert "| ingested / embedded | at least 0.85 | 0.500 | **no** |" in judged
    assert report.tables(results).endswith(
        "1 of 2 [targets](docs/performance.md#targets) are met. Missed: ingested / embedded: 0.500 (at least 0.85)."
    )


def test_content_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    report.put(document, {"x": "new"})
    assert document.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match=r"README\.md must hold `<!-- y: begin -->`"):
        report.put(document, {"y": "new"})


def test_the_documents_have_the_markers() -> None:
    for document, names in (
        (report.README, (report.FIGURES, report.SCORES)),
        (report.PERFORMANCE, (report.TARGETS, report.LOAD, report.BACKBONES)),
    ):
        text = document.read_text("utf-8")
        assert all(f"<!-- {name}: {end} -->" in text for name in names for end in ("begin", "end"))


def test_alternatives_are_shown_with_the_targets_that_were_missed_and_those_that_failed(tmp_path: Path) -> None:
    assert alternatives.section(tmp_path).startswith("Not measured yet")
    assert not alternatives.table(tmp_path)
    triton = {"of": "twinsight per_s / triton per_s", "runs": [1.0, 1.25, 1.6]}
    embed = {
        "environment": ENVIRONMENT,
        "what": "Embed of a picture",
        "peers": {
            "triton": {"what": "Triton", "median": {"p50_ms": 1.5, "per_s": 1234.4}},
            "bf16": {"what": "OpenVINO in bfloat16", "failed": "no such instructions"},
        },
        "bars": {"images_over_triton": triton, "compute_over_openvino_batch_1": {"missing": "bf16 failed"}},
    }
    (tmp_path / "peers.json").write_text(json.dumps({"quick": False, "embed": embed}))
    told = alternatives.section(tmp_path)
    assert "| Triton | 1.50 |  | 1,234 |  |" in told
    assert "Not measured: OpenVINO in bfloat16: no such instructions" in told
    assert "| Throughput, 16 in flight: twinsight / Triton | at least 1.5 | 1.250 | **no** |" in told
    assert not alternatives.table(tmp_path)  # the other half is missing
    latencies = [f"{figure}_over_{peer}" for figure in ("p99", "alone_p50") for peer in ("triton", "litserve")]
    embed["bars"] = {
        "images_over_triton": triton,
        "images_over_litserve": {"runs": [2.0]},
        **{name: {"runs": [0.5]} for name in latencies},
    }
    names = [f"{figure}_over_{peer}" for figure in ("queries", "p99", "alone_p50") for peer in ("milvus", "pgvector")]
    search = {"bars": {name: {"runs": [0.75]} for name in names}}
    (tmp_path / "peers.json").write_text(json.dumps({"quick": False, "embed": embed, "search": search}))
    shown = alternatives.table(tmp_path)
    assert "| Triton (Embed with the same network in float32) | 1.25 | 0.50 | 0.50 |" in shown
    assert "| pgvector (Search by vector) | 0.75 | 0.75 | 0.75 |" in shown
    assert shown[-1].startswith("Of 6 targets for such comparisons 3 are missed: ")
