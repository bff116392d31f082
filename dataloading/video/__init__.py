"""Video files: probing, exact decoding, the choice of a decoder, worker processes."""
