"""Rules and schemes meet the layers of a model: what is drawn, what is kept, and why."""
