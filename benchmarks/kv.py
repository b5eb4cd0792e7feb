"""What KV caches save and what they cost: time to first token, bytes a token, divergence from full prefill.

    python benchmarks/kv.py                          0.5B shape on the CPU, 256 to 4,096 tokens of memory
    python benchmarks/kv.py --device cuda --shapes 0.5B 8B --sizes 256 1024 2048 4096 8192 16384 32768
    python benchmarks/kv.py --quick                  whether everything runs, in seconds; its times mean nothing

All arms go through the same cache and the same generation and differ only in how the cache is filled; they take turns,
so that what else the machine does hits them alike; where it does much, compare processor time. The floor is what no
form can beat: the bytes are read and the question is prefilled. Weights are random where time is measured; what is
right is measured on the small test model, which was trained to answer from its context. Nothing is asserted: it prints
tables with ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers

from benchmarks import kv_plot
from benchmarks.kv_arms import (
    COLD,
    FLOOR,
    FULL,
    HEAD_TOKENS,
    NOTE_TOKENS,
    QUESTION_TOKENS,
    SHAPES,
    Bench,
    Store,
    Took,
    random_model,
)
from benchmarks.kv_quality import FACTS, UPDATES, measured
from engine.settings import DEFAULT_KV_SHARE

SIZES, SIZES_CUDA = (256, 1_024, 2_048, 4_096), (256, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
ROUNDS = 5
LONG_S = 4.0  # an arm that took so long in all is not run again
SHARES = tuple(dict.fromkeys((DEFAULT_KV_SHARE, 0.5)))
QUALITY_SHARES = (0.15, 0.3, 0.5, 0.6, 1.0)
CASES = 500
TEST_MODEL = Path(__file__).resolve().parents[1] / "tests" / "models" / "latest_wins"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def say(text: str) -> None:
    print(text, flush=True)


def timed(arms: Mapping[str, Callable[[], Took]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The median seconds of each arm, by the clock and of the processor.

    What takes long is not run again; of the others the first round warms up and is not counted.
    """
    times: dict[str, list[Took]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            if sum(clock for clock, _ in times[name]) > LONG_S:
                continue
            took = arm()
            if turn or took[0] > LONG_S:
                times[name].append(took)
    clock, processor = (
        {name: median(took[which] for took in taken) for name, taken in times.items()} for which in (0, 1)
    )
    return clock, processor


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heading, *rows)]
    return "\n".join(
        [lines[0].rstrip(), "-|-".join("-" * width for width in widths), *(line.rstrip() for line in lines[1:])]
    )


def machine(device: torch.device, threads: int) -> dict[str, str]:
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        name = next(
            (line.split(":")[1].strip() for line in cpus.read_text().splitlines() if "model name" in line), name
        )
    made = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "page cache": "dropped by posix_fadvise before cold reads" if hasattr(os, "posix_fadvise") else "not dropped",
    }
    if os.name == "posix":
        made["load"] = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return made


def speed(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """One entry for each shape, dtype and size: seconds by arm, bytes a token by form."""
    device, found = torch.device(options.device), list[dict[str, object]]()
    for shape in (SHAPES[name] for name in options.shapes):
        for dtype in options.dtypes:
            loaded = random_model(shape, DTYPES[dtype], device)
            for size in options.sizes:
                with tempfile.TemporaryDirectory(dir=folder) as data:
                    bench = Bench(loaded, size, Store(Path(data)))
                    clock, processor = timed(bench.arms(SHARES), options.rounds)
                    made = {"shape": str(shape), "dtype": dtype, "tokens": size, "seconds": clock}
                    if device.type == "cpu":
                        made["processor_seconds"] = processor
                    found.append(made | {"bytes": bench.bytes_a_token()})
                say(speed_table(found[-1]))
    return found


def speed_table(entry: Mapping[str, object]) -> str:
    took, sizes = entry["seconds"], entry["bytes"]
    busy = entry.get("processor_seconds", {})
    assert isinstance(took, dict)
    assert isinstance(sizes, dict)
    assert isinstance(busy, dict)
    rows = []
    for name, seconds in took.items():
        of_form = sizes.get(name.removesuffix(COLD).split(" + ")[0])
        on_disk, in_ram = (f"{part:,.0f}" for part in of_form) if of_form else ("", "")
        ratios = [f"{of[FULL] / of[name]:.1f}" for of in (took, busy) if of] + [f"{seconds / took[FLOOR]:.2f}"]
        rows.append((name, f"{seconds * 1_000:,.1f}", *ratios, on_disk, in_ram))
    by_processor = ("by processor time",) if busy else ()
    heading = ("arm", "first token (ms)", "× faster", *by_processor, "× floor", "bytes a token on disk", "in RAM")
    return f"\n{entry['shape']}, {entry['dtype']}, {entry['tokens']:,} tokens of memory\n\n{table(heading, rows)}"


def quality_table(found: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for name, row in found.items():
        kl, top1 = (f"{row[key]:.{digits}f}" if key in row else "" for key, digits in (("kl", 4), ("top1", 3)))
        rows.append((name, f"{row['right']:.3f}", kl, top1))
    return table(("form of memory", "right answers", "KL (nats)", "same top 1"), rows)


def plot(path: Path, found: Sequence[Mapping[str, object]]) -> None:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for entry in found:
        took = entry["seconds"]
        assert isinstance(took, dict)
        panel = panels.setdefault(f"{str(entry['shape']).split(' ')[0]}, {entry['dtype']}", {})
        for name, seconds in took.items():
            if not name.endswith(COLD):
                panel.setdefault(name, []).append((float(str(entry["tokens"])), seconds))
    kv_plot.write(path, panels, "tokens of memory", "seconds to the first token")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--sizes", type=int, nargs="+", metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cases", type=int, metavar="N", help="questions to the test model; 0 leaves that out")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="seconds over tokens, as SVG")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(given)
    cuda = options.device.startswith("cuda")
    options.shapes = options.shapes or ["small" if options.quick else "0.5B"]
    options.dtypes = options.dtypes or (
        ["float32"] if options.quick else ["bfloat16"] if cuda else ["float32", "bfloat16"]
    )
    options.sizes = options.sizes or ([128, 256] if options.quick else SIZES_CUDA if cuda else SIZES)
    options.cases = options.cases if options.cases is not None else 10 if options.quick else CASES
    options.rounds = 1 if options.quick else options.rounds
    return options


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    about = machine(torch.device(options.device), options.threads)
    say(", ".join(f"{name} {value}" for name, value in about.items()))
    say(f"Head {HEAD_TOKENS} tokens, notes {NOTE_TOKENS} tokens each, question {QUESTION_TOKENS} tokens.")
    with tempfile.TemporaryDirectory(prefix="memos-kv-") as name:
        folder = Path(name)
        right = measured(TEST_MODEL, folder / "test model", options.cases, QUALITY_SHARES) if options.cases else {}
        if right:
            cases = f"{options.cases} cases of {FACTS} facts and {UPDATES} updates, asked for an updated one"
            say(f"\nTest model, {cases}\n")
            say(quality_table(right))
        found = speed(options, folder)
    if options.json:
        result = {"at": datetime.now(UTC).isoformat(), "machine": about, "speed": found, "quality": right}
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if options.plot:
        plot(options.plot, found)


if __name__ == "__main__":
    main()
