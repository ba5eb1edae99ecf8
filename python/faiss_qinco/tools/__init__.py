"""Tools around an index: `evaluate` measures one, `plots` draws what was measured."""
