"""Tables of one speed measurement, from the content of `<reports>/speed/<pair>.json`."""

from collections.abc import Mapping
from typing import Any

from benchmark.tables import cells, markdown
from benchmark.tables.model import TEXT, Cell, Column, Line, Listing, Table

COLUMNS = (
    "ms/step", "IQR", "drift", "images/s", "× student", "teacher's part, ms", "× student and part",
    "live teacher, ms", "reference loop, ms", "× faster than reference", "share of matmul rate", "peak MB",
    "extra parameters", "cache GB", "fill, s",
)  # fmt: skip


def document(result: Mapping[str, Any], *, rounds: int, steps: int, epochs: int) -> str:
    """Return the measurement as Markdown.

    rounds, steps: how often each loop was timed. epochs: length of the runs whose total hours are estimated.
    """
    tables = [steps_table(result, rounds, steps, epochs), hours_table(result, epochs)]
    if result.get("other_precision"):
        tables.insert(1, precisions_table(result))
    return markdown.document(f"Speed of {result['pair']}", tables)


def steps_table(result: Mapping[str, Any], rounds: int, steps: int, epochs: int) -> Table:
    """Return the cost of one training step, a line for each method."""
    rows = result["rows"]
    alone = f"{_ms(rows[0]['student_ms']).text} and {_ms(rows[-1]['student_ms']).text} ms" if rows else "not measured"
    notes = [
        f"Student alone next to the first and the last method: {alone}. Input pipeline alone: "
        f"{result['pipeline_images_per_s']:,.0f} images/s. Matrix product: {result['matmul_gflops']:,.0f} GFLOP/s."
    ]
    if (streaming := result.get("streaming")) is not None:
        notes.append(_streaming_note(streaming))
    skipped = [f"{name}: {reason}" for name, reason in result["impossible"].items()]
    return Table(
        "Cost of one training step", [Column("method", TEXT), *map(Column, COLUMNS)], [[_step_line(r) for r in rows]],
        intro=[_explanation(result, rounds, steps, epochs)], notes=notes,
        lists=[Listing("Not supported by this pair", skipped)] if skipped else [],
    )  # fmt: skip


def _streaming_note(streaming: Mapping[str, Any]) -> str:
    decoder, loader = (streaming[f"{name}_images_per_s"] for name in ("decoder", "loader"))
    return (
        f"Photographs of {streaming['width']} × {streaming['height']} px, by {streaming['decoder']} and "
        f"{cells.counted(streaming['workers'], 'worker')}: decoding and cropping alone {decoder:,.0f} images/s, the "
        f"loader that training reads {loader:,.0f} ({100 * loader / decoder:.0f} %)."
    )


def _explanation(result: Mapping[str, Any], rounds: int, steps: int, epochs: int) -> str:
    hardware, group = result["hardware"], result["burst"]
    device = [hardware["device"], cells.counted(hardware["threads"], "thread")]
    device += ["compiled"] * hardware["compiled"] + ["steps as CUDA graphs"] * hardware.get("cuda_graph", False)
    timed = "steps" if group == 1 else f"samples of {group} of our steps or one step of the reference loop"
    memory = "GPU memory" if hardware["device"] == "cuda" else "a process with its data, without libraries and files"
    return (
        f"Batch {result['batch_size']}, {result['image_size']} px, {result['precision']}, random images in "
        "CIFAR-100's number; the reference loop: fp32, images loaded in the same process, without workers. "
        f"{hardware['name']} ({', '.join(device)}), torch {result['versions']['torch']}. Median of {rounds * steps} "
        f"{timed} in {rounds} interleaved rounds; IQR: interquartile range; drift: last quarter of the steps over the "
        "first, divided by that of the student alone; teacher's part: forward pass, as deep as the method reads, for "
        "outputs that are not cached; × student, × student and part: over the student alone in the same rounds; share "
        f"of the matmul rate: multiplications of the networks only; peak MB: {memory}; cache: filled before; a second "
        f"number is that of one seed's {epochs} epochs of strongly augmented views."
    )


def _step_line(row: Mapping[str, Any]) -> Line:
    share = 100 * row["share_of_matmul_rate"]
    return Line(
        [
            Cell(row["method"]), _ms(row["step_ms"]), _ms(row["step_ms_iqr"]), cells.number(row["step_drift"]),
            cells.integer(row["images_per_s"]), cells.number(row["ratio_to_student"]), _ms(row["teacher_part_ms"]),
            cells.number(row["ratio_to_student_and_teacher_part"]), _ms(row["live_step_ms"]), _ms(row["plain_step_ms"]),
            cells.number(row["speedup_over_plain"]), Cell(f"{share:.0f} %", value=share), cells.integer(row["peak_mb"]),
            cells.integer(row["extra_parameters"]), _both_caches(row, "gb", ".2f"), _both_caches(row, "fill_s", ",.0f"),
        ]
    )  # fmt: skip


def precisions_table(result: Mapping[str, Any]) -> Table:
    """Return the times of a step in the precision that `auto` takes and in the other one, and the ratio of both."""
    chosen, other = result["precision"], result["other_precision"]
    intro = (
        f"The two precisions are close for this student: precision=auto takes {chosen}. ÷ better: its time over the "
        "shorter of the two, 1.00 where it is the shorter."
    )
    lines = [
        Line([Cell(row["method"]), _ms(row["step_ms"]), _ms(row["other_step_ms"]),
              cells.number(row["step_ms"] / min(row["step_ms"], row["other_step_ms"]))])
        for row in result["rows"]
    ]  # fmt: skip
    columns = [Column("method", TEXT), *map(Column, (f"{chosen}, ms/step", f"{other}, ms/step", "÷ better"))]
    return Table("Both precisions", columns, [lines], intro=[intro])


def hours_table(result: Mapping[str, Any], epochs: int) -> Table:
    """Return the hours that the teacher and the first n methods take together, for each n."""
    teacher = {loop: _ms(value).text for loop, value in result["teacher_training_step_ms"].items()}
    other = result.get("teacher_precision", result["precision"]) != result["precision"]
    precision = f" in {result['teacher_precision']}" if other else ""
    intro = (
        f"Hours of all steps of {epochs} epochs: of the teacher ({teacher['ours']} ms a step{precision}, "
        f"{teacher['plain']} in the reference loop) and of all methods up to this one with "
        f"{cells.counted(result['seeds'], 'seed')} each, including initialization epochs and the time to fill the "
        "cache."
    )
    lines = [
        Line([Cell(f"{row['methods']}, up to {row['up_to']}"),
              *(cells.number(row[loop], 1) for loop in ("cached", "live", "plain"))])
        for row in result["whole_pair"]
    ]  # fmt: skip
    titles = ("with the cache", "live teacher", "reference loop")
    return Table("Hours of a whole pair", [Column("methods", TEXT), *map(Column, titles)], [lines], intro=[intro])


def _both_caches(row: Mapping[str, Any], what: str, form: str) -> Cell:
    """Size or time of the cache, and of the second views' cache where there is one."""
    first, second = row[f"cache_{what}"], row[f"second_cache_{what}"]
    return Cell(f"{first:{form}}" + (f" + {second:{form}}" if second else ""), value=first + second)


def _ms(value: float) -> Cell:
    return cells.number(value, 1 if value >= 10 else 2)
