"""How a stage trains: engines, loop, EMA, checkpoints. Only deepspeed_engine.py imports DeepSpeed."""
