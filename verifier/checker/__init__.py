"""The checker of certificates: a small program that needs numpy and trusts nothing else of this project."""
