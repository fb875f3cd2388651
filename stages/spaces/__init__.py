"""What x0 stands for: one file for each space."""
