"""Floor 2: HTTP. Parse, authenticate, call one function of the floors below, render."""
