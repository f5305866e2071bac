"""What a forward pass tells of the arrays in it: their axes, their roles, where their signals go."""
