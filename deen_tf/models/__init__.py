"""What a user makes and asks: one file for each objective, opening with its equations."""
