"""One fit: the loop as one program, its noise, where it starts, what guards it."""
