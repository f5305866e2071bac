"""What can be read off a forward pass about its arrays: their axes, their roles, where their signals go."""
