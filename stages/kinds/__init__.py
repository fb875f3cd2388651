"""The kinds of stage: their configs, conditions and starts."""
