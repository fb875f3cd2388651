"""What a stage costs, counted without any data."""
