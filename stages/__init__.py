"""One stage: its mathematics, its network, how it trains and how it denoises."""
