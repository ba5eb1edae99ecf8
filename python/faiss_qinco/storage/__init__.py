"""Files: models and indexes in one `container`, and `vectors`. Neither imports another room."""
