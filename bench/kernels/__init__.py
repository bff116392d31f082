"""Speed and memory of each operation of `kernels` against its peers and its byte floor."""
