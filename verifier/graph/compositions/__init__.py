"""What is no operator of its own: softmax, normalisation, attention, recurrences, made of operators at import.

Functions here take a graph under construction and nodes of it (batch-free dimensions), and serve every importer.
"""
