"""How a stage trains: engine, loop, EMA, checkpoints. The only part that knows DeepSpeed, in engine.py."""
