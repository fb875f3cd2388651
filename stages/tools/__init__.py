"""What a stage costs."""
