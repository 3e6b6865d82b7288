"""One file per operator family; each says how to apply, transpose and relax itself."""
