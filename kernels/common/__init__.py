"""Shared by the kernels: launches, tensor blocks, strides, operator registration, validation, the interpreter."""
