"""What carries any cell through time: the Layer and Cell contracts, the loops, the product of a step."""
