"""What a stage's pictures are conditioned on."""
