"""A data set's counts as text for a person."""

from dataloading.dataset import Summary


def format_summary(summary: Summary) -> str:
    """What was found and what was left out, as a few lines and a table of videos by manipulation and split."""
    classes = ", ".join(f"{count} {name}" for name, count in summary.classes.items())
    lines = [f"{summary.root}: layout {summary.layout}, {summary.videos} videos ({classes})", ""]
    columns = list(summary.splits)
    rows = [["", *columns, "all"]]
    for manipulation, counts in summary.table.items():
        rows.append([manipulation, *(str(counts.get(split, 0)) for split in columns), str(sum(counts.values()))])
    rows.append(["all", *(str(summary.splits[split]) for split in columns), str(summary.videos)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns) + 2)]
    for first, *others in rows:
        lines.append(
            "  ".join([first.ljust(widths[0]), *(o.rjust(w) for o, w in zip(others, widths[1:], strict=True))])
        )
    if summary.notes:
        lines += ["", *summary.notes]
    total = sum(summary.left_out.values())
    lines += ["", f"Left out: {total}" if total else "Nothing was left out."]
    lines += [f"  {count}  {reason}" for reason, count in summary.left_out.items()]
    return "\n".join(lines)
