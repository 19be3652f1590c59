"""The stages: short, plain values in, records out."""
