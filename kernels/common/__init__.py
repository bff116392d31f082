"""What the kernels share: launches, tensor blocks, strides, operator registration, validation, the interpreter."""
