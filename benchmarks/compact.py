"""What dropping thin rows costs and gains: size, speed and accuracy of a run's compact exports, as a markdown table.

python benchmarks/compact.py results/RUN --rows 0,2,5,10,20,40
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from smpcli import api


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", default="0,2,5,10,20,40", help="values of --drop-rows-below")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--lengths", default="32")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        made = {
            rows: api.export(
                given.run,
                "compact",
                output=Path(scratch) / f"below-{rows}",
                data_dir=given.data_dir,
                drop_rows_below=rows,
            )
            for rows in [int(part) for part in given.rows.split(",")]
        }
        report = api.bench_infer(
            *(export.path for export in made.values()),
            batches=given.batches,
            lengths=given.lengths,
            repeats=given.repeats,
        )
        shapes = report.shapes
        heads = ["rows dropped below", "area", "MB", next(iter(made.values())).about["metric"]]
        print(f"{report.title}\n")
        print(" | ".join(["", *heads, *(f"batch {batch}, length {length}" for batch, length in shapes), ""]).strip())
        print("|---" * (len(heads) + len(shapes)) + "|")
        timed = {Path(one.path).name: one for one in report.contenders}
        for rows, export in made.items():
            one = timed[export.path.name]
            speeds = [f"{1000 * one.latency(shape):.2f} ms, {report.speed(one, shape):.2f}×" for shape in shapes]
            cells = [
                str(rows),
                f"{export.about['area']:.1%}",
                f"{one.bytes / 1e6:.1f}",
                f"{export.about['after']:.4f}",
            ]
            print("| " + " | ".join([*cells, *speeds]) + " |")
        for one in report.contenders:
            if not one.is_export:
                speeds = [f"{1000 * one.latency(shape):.2f} ms, {report.speed(one, shape):.2f}×" for shape in shapes]
                print("| " + " | ".join([one.name, "100 %", f"{one.bytes / 1e6:.1f}", "", *speeds]) + " |")


if __name__ == "__main__":
    main()
