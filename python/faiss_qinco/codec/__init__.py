"""The codec room: configuration, torch model, training, encoding, additive codebooks.

Importing this package does not import torch; `model`, `training` and `encoding` do, and are
imported only when a codec is trained or vectors are encoded.
"""
