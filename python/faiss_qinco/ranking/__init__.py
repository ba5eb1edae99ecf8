"""The ranking room: makes a codec searchable. Additive codebooks for the tables, early exit with
its margins, `fitting` of both; re-ranking in torch."""
