"""Video files: probing, exact decoding, the choice of a decoder, and a pool of worker processes."""
