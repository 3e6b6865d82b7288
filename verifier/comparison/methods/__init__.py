"""Methods that are compared; the register of them (verifier.comparison.method) imports the files on first use."""
