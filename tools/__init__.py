"""What is run by hand: training the demo models, and measuring them."""
