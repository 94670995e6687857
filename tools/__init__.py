"""What is run by hand to make the project's own parts: training the demo models, and measuring them."""
