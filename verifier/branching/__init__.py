"""Branch and bound (BaB) on neurons (as beta-CROWN) and on inputs, each subdomain closed by a dual bound of our own."""
