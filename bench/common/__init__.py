"""What the benchmarks share: records, timing, environment, tables, processes."""
