"""Plans: rules and schemes applied to the layers of a model."""
