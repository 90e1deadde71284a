"""gpu.md of what gpu.json has: every figure beside its target, and every one that was not run marked so.

Tables are drawn from the list of parts, so that what nobody ran has its row, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamer.gpu_check.job import FULL, NO_TIME, NOT_RUN
from streamer.gpu_check.parts import PARTS
from streamer.gpu_check.record import Records

NAME = "gpu.md"
TARGETS = {"streams-80": 5000, "streams-1120": 15_000, "sockets-80": 5000, "sockets-1120": 15_000}
TICK_TARGET = "2.5 ms at most at batch 1"
RTFX_TARGET = "10,000"
PRICE = 3.5  # of a GPU hour, where nobody said another
PEERS = "902 (80 ms) and 5,625 (1120 ms): the best open engine, TensorRT FP16 on one H100, in process"
LATENCIES = sorted(FULL.models["0.6b"].latencies_ms)

Kept = dict[str, dict[str, Any]]
Row = Sequence[object]


def save(records: Records, out: Path) -> Path:
    """Write the report, and mark in the records what was not run; where the report is."""
    out.mkdir(parents=True, exist_ok=True)
    records.mark([part.name for part in PARTS])
    path = out / NAME
    path.write_text(render(records.read()), "utf-8")
    return path


def render(kept: Kept) -> str:
    """The whole report."""
    sections = (
        ("What was run", overview(kept)),
        ("The machine", machine(kept)),
        ("Most real-time streams, 0.6 B", streams(kept)),
        *(
            (f"Step times, {model}", speed(kept, model))
            for model in FULL.models
        ),
        ("What a tick is made of, 80 ms", profiles(kept)),
        ("Whole recordings", offline(kept)),
        ("Is it right", right(kept)),
        ("TensorRT-RTX", rtx(kept)),
    )  # fmt: skip
    head = "# GPU\n\nWritten by `make gpu-check`; how to read it: [docs/gpu.md](../gpu.md).\n"
    return head + "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections)


def table(heads: Row, rows: Sequence[Row]) -> list[str]:
    """As Markdown; numbers with commas, absent ones as not run."""
    lines = [_line(heads), _line(["---"] * len(heads))]
    return lines + [_line([shown(cell) for cell in row]) for row in rows]


def _line(cells: Row) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def shown(value: object) -> str:
    """A figure as a person reads it."""
    if value is None:
        return NOT_RUN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return " ".join(str(value).replace("|", "/").split())


def get(kept: Kept, part: str, *path: str) -> Any:
    """A figure of a part, None where there is none."""
    found: Any = kept.get(part, {}).get("figures", {})
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def overview(kept: Kept) -> list[str]:
    rows = []
    for part in PARTS:
        record = kept.get(part.name, {})
        seconds, date = record.get("seconds"), record.get("date")
        status = record.get("status", NOT_RUN)
        if record.get("size", FULL.name) != FULL.name:
            status = f"{status}, with toys: no figures"
        where = record.get("machine")
        rows.append((part.name, part.about, status, record.get("error") or "", where, date, seconds))
    return table(("part", "what it finds", "status", "", "machine", "date", "seconds"), rows)


def machine(kept: Kept) -> list[str]:
    part = "environment"
    reach, launches = get(kept, part, "reach"), get(kept, part, "launches")
    rows: list[Row] = [
        ("GPU", get(kept, part, "machine", "gpu")),
        ("driver", get(kept, part, "nvidia_smi", "driver_version")),
        ("memory, GiB", _over(get(kept, part, "machine", "gpu_bytes"), 1 << 30)),
        ("processor", get(kept, part, "machine", "processor")),
        ("processors", get(kept, part, "machine", "processors")),
        ("copy on the device, TB/s read and written", _over(reach and reach["bytes_s"], 1e12)),
        ("bf16 matrix product, TFLOP/s", _over(reach and reach["flops_s"], 1e12)),
        ("host time of a launch, us", launches and launches["host_us"]),
        ("a node of a graph, us", launches and launches.get("graph_node_us")),
        ("a trip of a WHILE node, us", get(kept, part, "while_node", "trip_us")),
    ]
    versions = get(kept, part, "versions") or {}
    rows.append(("versions", ", ".join(f"{name} {number}" for name, number in versions.items()) or None))
    return table(("", ""), rows)


def _over(value: Any, unit: float) -> float | None:
    return value / unit if isinstance(value, (int, float)) else None


def streams(kept: Kept) -> list[str]:
    rows = []
    for latency in LATENCIES:
        for part, way in ((f"streams-{latency}", "in process"), (f"sockets-{latency}", "WebSocket")):
            if part in {known.name for known in PARTS}:
                rows.append(_streams(kept, part, (latency, way)))
    heads = (
        "latency", "way", "most in 20 s", "confirmed in 120 s", "target", "late chunks", "final p95, s", "memory for",
        "CPU: load", "CPU: engine or daemon", "limited by",
    )  # fmt: skip
    return [
        "Rule: at most 0.1 % late chunks (a result after the next chunk is due), p95 of finals within 1 s.",
        f"Elsewhere: {PEERS}.",
        "",
        *table(heads, rows),
    ]


def _streams(kept: Kept, part: str, what: tuple[int, str]) -> Row:
    latency, way = what
    confirmed = get(kept, part, "confirmed")
    best = confirmed if isinstance(confirmed, dict) else {}
    tries = get(kept, part, "tries") or []
    passed = [one for one in tries if one["passed"]]
    run = best or (passed[-1] if passed else {})
    failed = [one for one in tries if not one["passed"]]
    why = "memory" if get(kept, part, "all_that_fit") else "; ".join(failed[-1]["why"]) if failed else None
    count = best.get("streams") if best.get("passed") else (confirmed if isinstance(confirmed, str) else None)
    return (
        f"{latency} ms", way, get(kept, part, "most"), count, TARGETS.get(part, "-"), run.get("late_share"),
        run.get("final_p95_s"), get(kept, part, "slots"), run.get("generator_cpu"),
        run.get("engine_cpu", run.get("daemon_cpu")), why,
    )  # fmt: skip


def speed(kept: Kept, model: str) -> list[str]:
    lines: list[str] = []
    for latency in sorted(FULL.models[model].latencies_ms):
        part = f"speed-{model}-{latency}"
        target = f"; target: {TICK_TARGET}" if part == "speed-0.6b-80" else ""
        bytes_ = get(kept, part, "bytes_a_stream", "arena")
        about = ", ".join(map(str, (get(kept, part, "about") or {NOT_RUN: NOT_RUN}).values()))
        said = f"{shown(get(kept, part, 'tokens_a_second'))} tokens a second"
        lines += [
            f"**{latency} ms** ({about}; {shown(_over(bytes_, 1e6))} MB a stream; {said}{target})",
            "",
            *table(
                (
                    "streams", "device ms p50 / p95", "wall ms p50 / p95", "host ms p50", "ms apart", "bound ms",
                    "share of bandwidth", "share of matrix", "streams in real time",
                ),
                [_step(rows, get(kept, part, "steps", str(rows))) for rows in FULL.batches],
            ),
            "",
        ]  # fmt: skip
    return lines


def _step(rows: int, step: Any) -> Row:
    if not isinstance(step, dict):
        return (rows, step, *([None] * 7))
    return (
        rows, _pair(step["device_ms"]), _pair(step["wall_ms"]), step["host_ms"][0], step["apart_ms"],
        step.get("bound_ms"), step.get("share_of_bandwidth"), step.get("share_of_matrix"), step.get("streams"),
    )  # fmt: skip


def _pair(values: Sequence[float]) -> str:
    return " / ".join(map(shown, values))


def profiles(kept: Kept) -> list[str]:
    lines: list[str] = []
    for model in FULL.models:
        part = f"profile-{model}"
        rows = []
        for count in FULL.profiled:
            shape = get(kept, part, "shapes", str(count))
            found = shape if isinstance(shape, dict) else {}
            parts = found.get("components_ms", {})
            times = [parts[name][0] if name in parts else None for name in ("features", "encoder", "search")]
            captured = get(kept, part, "captured", str(count), "host") or {}
            head = found.get("head_nodes") or {}
            rows.append((count, found.get("on_device"), head.get("all"), *times, captured.get("graphs"),
                         captured.get("kernels"), captured.get("copies")))  # fmt: skip
        heads = (
            "streams", "kernels and copies of a tick, counted on the device", "nodes of the graph without the search",
            "features ms", "encoder ms", "search ms", "captured: the host's graphs", "its kernels", "its copies",
        )  # fmt: skip
        lines += [f"**{model}** (operator by operator, gaps between launches included)", "", *table(heads, rows), ""]
        lines += [line for count in (1, max(FULL.profiled)) for line in _top(kept, part, count)]
    return lines


def _top(kept: Kept, part: str, rows: int) -> Iterator[str]:
    top = get(kept, part, "shapes", str(rows), "top")
    yield f"Kernels by time, {rows} streams:" + ("" if top else f" {NOT_RUN}")
    yield ""
    if top:
        yield from table(("kernel", "a tick", "us"), [(f"`{one['name']}`", one["count"], one["us"]) for one in top])
        yield ""


def offline(kept: Kept) -> list[str]:
    part = "offline"
    rows: list[Row] = []
    for model in FULL.models:
        found = get(kept, part, "models", model)
        found = found if isinstance(found, dict) else {}
        rows.append((f"{model}, from memory", found.get("rtfx"), RTFX_TARGET, found.get("cost")))
    files = get(kept, part, "files")
    said = files.get("said") or files.get("error") if isinstance(files, dict) else files
    price = shown(get(kept, part, "price") or PRICE)
    heads = ("", "RTFx", "target", f"a million hours at {price} a GPU hour")
    return [*table(heads, rows), "", f"0.6b over files, as the command says it: {shown(said)}"]


def right(kept: Kept) -> list[str]:
    rows: list[Row] = []
    wrong = get(kept, "parity", "wrong")
    models = get(kept, "parity", "models") or {}
    ways = [way for ways in models.values() for way in ways.values()]
    cases = sum(way["cases"] for way in ways if isinstance(way, dict))
    left = f"; {ways.count(NO_TIME)} models by ways {NO_TIME}" if NO_TIME in ways else ""
    said = None if wrong is None else f"{len(wrong)} (of {cases} clips by ways{left})"
    rows.append(("golden models in fp32: runs with other tokens or frames than the CPU", "none", said))
    different = get(kept, "mixed", "float32", "different")
    rows.append(("mixed latencies in fp32: streams with other words than alone", "none", different))
    rows.append(("the same in bf16: tokens that agree", "-", get(kept, "mixed", "bfloat16", "agreement")))
    frames = get(kept, "precision", "frames") or {}
    rows.append(("bf16 beside fp32: encoder frames, largest / mean error over rms", "-",
                 f"{shown(frames['max'])} / {shown(frames['mean'])}" if frames else None))  # fmt: skip
    for latency, found in (get(kept, "precision", "latencies") or {"every latency": {}}).items():
        found = found if isinstance(found, dict) else {}
        rates = f"{found['wer_fp32']} and {found['wer_bf16']}" if found else None
        rows.append((f"word error rates of fp32 and bf16, {latency}", "within 0.1", rates))
    tests = get(kept, "kernels", "tests") or {}
    failed = tests.get("failed")
    said = f"{len(failed)} of {tests['tests']}" if failed is not None else tests.get("error")
    rows.append(("the kernels' own tests that failed", "none", said))
    for key, found in (get(kept, "kernels", "ticks") or {"every size": None}).items():
        rows.append((f"own kernels beside torch's operators, {key}", "near",
                     found if not isinstance(found, dict) else "near" if found["near"] else "apart"))  # fmt: skip
    return table(("", "expected", "found"), rows)


def rtx(kept: Kept) -> list[str]:
    result = get(kept, "tensorrt-rtx", "result")
    lines = [f"Result: {shown(result)}"]
    for model, found in (get(kept, "tensorrt-rtx", "models") or {}).items():
        if isinstance(found, dict):
            rows = [_step(int(rows), step)[:5] for rows, step in found["steps"].items()]
            heads = ("streams", "device ms p50 / p95", "wall ms p50 / p95", "host ms p50", "ms apart")
            lines += ["", f"**{model}**, {80 * found['chunk']} ms", "", *table(heads, rows)]
    return lines
