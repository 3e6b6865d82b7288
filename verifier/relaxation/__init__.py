"""What bounds are made of: intervals, the backward pass, relaxations with slopes and multipliers. Knows no stage."""
