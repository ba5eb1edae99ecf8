"""Files: tensors in one `container`, and `vectors`. Neither imports another room."""
