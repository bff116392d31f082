"""What the benchmarks share: records, timing, environment, processes, peers of the attention kernels."""
