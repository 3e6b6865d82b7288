"""Instances: a network and a property in files, decided within a time limit, one or a whole list of them."""
