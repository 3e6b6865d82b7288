"""Training methods, one file each; the register of methods (training.method) imports them on first use."""
