"""Networks: a network is a function (x, noise, cond) -> F, with unit-variance inputs and output."""
