"""The codec room: a codec is a value of sizes (`config`) and weights; it encodes and decodes.

Importing this package does not import torch; `model` and `encoding` do, and are imported only when
torch encodes.
"""
